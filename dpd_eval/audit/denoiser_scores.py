"""Three membership scores of a denoiser, each higher for images that it was trained on.

loss: error of the predicted noise (Matsumoto et al. 2023, 2302.03262). PIA: consistency of the predicted noise with the
noise that the network predicts for the clean image (Kong et al. 2024, 2305.18355). SecMI: error of one step forth and
back on the deterministic path (Duan et al. 2023, 2302.01316).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32, Progress
from dpd_runtime.sampling.sample import Denoise
from dpd_runtime.sampling.schedule import Schedule, add_noise, predicted_original

LOSS_TIMES = (0.1, 0.2, 0.3, 0.4)  # as shares of the timesteps
PIA_TIME, PIA_NORM = 0.2, 4  # as the paper's t = 200 and ℓ4
SECMI_TIME, SECMI_STRIDE = 0.1, 0.01  # as the paper's t = 100 in strides of 10
Float = NDArray[np.floating]


@dataclass(frozen=True)
class Query:
    """A denoiser, and the latents [n, C, h, w] with prompts [n, L, D] that it is scored on.

    Args:
        called: called after every network call.
    """

    denoise: Denoise
    schedule: Schedule
    latents: Float32
    prompts: Float32
    called: Callable[[], None] = lambda: None

    def at(self, share: float) -> int:
        """Return the timestep at this share of all timesteps."""
        return min(round(share * self.schedule.num_train_timesteps), self.schedule.num_train_timesteps - 1)

    def noise(self, latents: Float32, timestep: int) -> Float32:
        """Predict the noise ε̂ of noisy latents, converted from whatever the network predicts."""
        output: Float32 = self.denoise(latents, timestep, self.prompts)
        self.called()
        alpha, sigma = self.schedule.alpha_sigma(timestep)
        kind = self.schedule.prediction_type
        if kind == "epsilon":
            return output
        noise = sigma * latents + alpha * output if kind == "v_prediction" else (latents - alpha * output) / sigma
        return noise.astype(np.float32)

    def moved(self, latents: Float32, start: int, end: int) -> Float32:
        """Take one deterministic step from timestep `start` to `end` (DDIM, 2010.02502, eq. 12 without noise)."""
        alpha, sigma = self.schedule.alpha_sigma(start)
        noise = self.noise(latents, start)
        original = predicted_original(latents, noise, "epsilon", alpha, sigma)
        return add_noise(original, noise, *self.schedule.alpha_sigma(end))


def loss_score(query: Query, seed: int) -> Float:
    """Return minus the mean of ‖ε − ε̂‖² over four noises, one per timestep."""
    rng = np.random.default_rng(seed)
    errors = np.zeros(len(query.latents))
    for share in LOSS_TIMES:
        timestep = query.at(share)
        noise = rng.normal(size=query.latents.shape).astype(np.float32)
        noisy = add_noise(query.latents, noise, *query.schedule.alpha_sigma(timestep))
        errors += _mean_square(query.noise(noisy, timestep) - noise)
    return -errors / len(LOSS_TIMES)


def pia_score(query: Query) -> Float:
    """Return −‖ε̄ − ε̂(√ᾱ_t z0 + √(1−ᾱ_t) ε̄, t)‖₄ with ε̄ = ε̂(z0, 0)."""
    timestep = query.at(PIA_TIME)
    seen = query.noise(query.latents, 0)
    noisy = add_noise(query.latents, seen, *query.schedule.alpha_sigma(timestep))
    difference = np.abs(query.noise(noisy, timestep) - seen).reshape(len(seen), -1).astype(np.float64)
    scores: Float = -((difference**PIA_NORM).mean(axis=1) ** (1 / PIA_NORM))
    return scores


def secmi_score(query: Query) -> Float:
    """Return minus the t-error: follow the deterministic path to t, then one stride further and back."""
    stride = max(1, query.at(SECMI_STRIDE))
    last = max(stride, query.at(SECMI_TIME))
    latents, timestep = query.latents, 0
    while timestep + stride <= last:
        latents = query.moved(latents, timestep, timestep + stride)
        timestep += stride
    back = query.moved(query.moved(latents, timestep, timestep + stride), timestep + stride, timestep)
    return -_mean_square(back - latents)


def _mean_square(values: Float32) -> Float:
    means: Float = np.square(values.astype(np.float64)).mean(axis=(1, 2, 3))
    return means


def denoiser_scores(
    denoise: Denoise,
    schedule: Schedule,
    latents: Float32,
    prompts: Float32,
    *,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> dict[str, Float]:
    """Compute all three scores [n] of latents [n, C, h, w] with prompts [n, L, D]."""
    count = 0

    def called() -> None:
        nonlocal count
        count += 1
        progress(min(count, CALLS), CALLS)

    query = Query(denoise, schedule, latents, prompts, called)
    return {"loss": loss_score(query, seed), "PIA": pia_score(query), "SecMI": secmi_score(query)}


CALLS = len(LOSS_TIMES) + 2 + round(SECMI_TIME / SECMI_STRIDE) + 2
