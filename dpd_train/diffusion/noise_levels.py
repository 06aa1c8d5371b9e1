"""The error of ẑ0 at each noise level, beside what knows no image: the mean and the Gaussian of each class.

A denoiser is worth its sampling steps only where it knows more than a Gaussian with its class's mean and covariance,
whose best estimate of z0 has a closed form. The loss of a training does not show that: its weights hide levels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dpd_runtime.sampling.schedule import Schedule, predicted_original
from dpd_train.bases.base import Base, is_large, rows_a_call
from dpd_train.captions.attributes import caption
from dpd_train.captions.captions import embed
from dpd_train.classifiers.training import Labelled, evenly
from dpd_train.compute.device import placed, to_device
from dpd_train.images.symmetry import ORDER, d4

LEVELS = (500, 600, 700, 800, 900, 940, 960, 980, 999)
"""Timesteps of a schedule of 1,000; of another length their share of it counts."""
LARGEST = 2048  # numbers of a latent, up to which a class's covariance is fitted
MOST_A_CALL = 100  # latents
MOST_LATENTS, OF_LARGE = 400, 20
"""Validation latents, less than twice as many. A call of a large UNet takes seconds on a CPU."""
Levels = dict[str, float]
"""The mean error of ẑ0 at each timestep, by its name as JSON has it."""
Predict = Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]
"""(noisy latents [B, C, h, w], timestep, rows [B] int64) → ẑ0 [B, C, h, w]. rows: which of the latents these are."""


def levels_of(schedule: Schedule) -> tuple[int, ...]:
    """LEVELS as timesteps of this schedule."""
    return tuple(round(level * (schedule.num_train_timesteps - 1) / 999) for level in LEVELS)


@torch.no_grad()
def original_errors(
    predict: Predict,
    latents: torch.Tensor,
    schedule: Schedule,
    timesteps: tuple[int, ...],
    seed: int = 1,
    *,
    call: int = MOST_A_CALL,
) -> torch.Tensor:
    """Squared error of ẑ0, mean over its numbers, for each timestep and latent: [T, n].

    The noise of a latent depends on the seed alone, so that predictions are compared in pairs.

    Args:
        latents: [n, C, h, w], scaled. call: how many are predicted at once.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    errors = torch.empty(len(timesteps), len(latents))
    for place, timestep in enumerate(timesteps):
        alpha, sigma = schedule.alpha_sigma(timestep)
        for start in range(0, len(latents), call):
            rows = torch.arange(start, min(start + call, len(latents)))
            estimate = predict(alpha * latents[rows] + sigma * noise[rows], timestep, rows)
            errors[place, rows] = (estimate.float().cpu() - latents[rows]).square().mean(dim=(1, 2, 3))
    return errors


@dataclass(frozen=True)
class ClassGaussians:
    """Mean and covariance of each class's latents over the symmetries of the square.

    Args:
        means: [classes, D]. bases: [classes, D, D], eigenvectors as columns. variances: [classes, D].
    """

    means: torch.Tensor
    bases: torch.Tensor
    variances: torch.Tensor

    def original(self, noisy: torch.Tensor, alpha: float, sigma: float, labels: torch.Tensor) -> torch.Tensor:
        """E[z0 | z_t] = μ + α Σ (α² Σ + σ² I)⁻¹ (z_t − α μ) of latents [B, C, h, w] of these classes [B]."""
        flat, estimate = noisy.flatten(1), torch.empty_like(noisy.flatten(1))
        for label in sorted(set(labels.tolist())):
            rows, variance = labels == label, self.variances[label]
            gain = alpha * variance / (alpha**2 * variance + sigma**2)
            centred = (flat[rows] - alpha * self.means[label]) @ self.bases[label]
            estimate[rows] = self.means[label] + (gain * centred) @ self.bases[label].T
        return estimate.view_as(noisy)

    def predict(self, labels: torch.Tensor, schedule: Schedule) -> Predict:
        """The Gaussian's ẑ0 of latents with these labels [n]."""
        return lambda noisy, timestep, rows: self.original(noisy, *schedule.alpha_sigma(timestep), labels[rows])

    def predict_mean(self, labels: torch.Tensor) -> Predict:
        """The class's mean as ẑ0."""
        return lambda noisy, _, rows: self.means[labels[rows]].view_as(noisy)


def class_gaussians(latents: torch.Tensor, labels: torch.Tensor, classes: int) -> ClassGaussians:
    """Fit a Gaussian to the latents [n, C, h, w] of each class, each in its eight symmetries."""
    means, bases, variances = [], [], []
    for label in range(classes):
        own = latents[labels == label]
        views = torch.cat([d4(own, element).flatten(1) for element in range(ORDER)]).double()
        means.append(views.mean(0))
        covariance = torch.cov(views.T, correction=0)
        values, vectors = torch.linalg.eigh(covariance)
        variances.append(values.clamp(min=0))
        bases.append(vectors)
    return ClassGaussians(*(torch.stack(parts).float() for parts in (means, bases, variances)))


def summary(errors: torch.Tensor, timesteps: tuple[int, ...]) -> Levels:
    return {str(timestep): round(float(row.mean()), 5) for timestep, row in zip(timesteps, errors, strict=True)}


def base_predict(base: Base, labels: torch.Tensor, classes: tuple[str, ...], device: torch.device) -> Predict:
    """ẑ0 of a base, without guidance, for latents with these labels [n], each with its class's bare caption."""
    prompts = to_device(embed(base.text_encoder, base.tokenizer, [caption(name, ()) for name in classes]), device)
    schedule = base.schedule

    def predict(noisy: torch.Tensor, timestep: int, rows: torch.Tensor) -> torch.Tensor:
        output = base.unet(to_device(noisy, device), torch.tensor(timestep, device=device), prompts[labels[rows]])
        sample: torch.Tensor = output.sample.float().cpu()
        return predicted_original(noisy, sample, schedule.prediction_type, *schedule.alpha_sigma(timestep))

    return predict


def noise_levels(
    base: Base, train: Labelled, held: Labelled, classes: tuple[str, ...], device: torch.device
) -> dict[str, Levels]:
    """Errors of ẑ0 on less than 2 · MOST_LATENTS validation latents: of the base, and of a class's mean and Gaussian.

    Args:
        train: latents [n, C, h, w], scaled, and labels, from which means and covariances are taken. Of latents with
            more than LARGEST numbers the Gaussian is left out, because its covariances would take minutes.
    """
    latents, labels = evenly(held, OF_LARGE if is_large(base) else MOST_LATENTS)
    schedule, timesteps = base.schedule, levels_of(base.schedule)
    with placed(base.unet, device):
        of_base = base_predict(base, labels, classes, device)
        call = rows_a_call(base.unet, latents.shape[-1], MOST_A_CALL)
        measured = {"denoiser": original_errors(of_base, latents, schedule, timesteps, call=call)}
    if latents[0].numel() <= LARGEST:
        gaussians = class_gaussians(*train, len(classes))
        measured["class Gaussian"] = original_errors(gaussians.predict(labels, schedule), latents, schedule, timesteps)
        measured["class mean"] = original_errors(gaussians.predict_mean(labels), latents, schedule, timesteps)
    return {name: summary(errors, timesteps) for name, errors in measured.items()}
