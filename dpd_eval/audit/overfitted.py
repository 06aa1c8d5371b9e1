"""A denoiser that has memorised 50 images: the control that every membership test of a denoiser must detect.

It is a network of dense layers that predicts ẑ0. It cannot copy its input, so it memorises the images sooner than a
convolutional network would. The control shows that the scores detect memorisation, not how little of it they detect.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval.extractors.cache import load_weights, store_weights
from dpd_runtime.annotations import Float32, Progress
from dpd_runtime.sampling.sample import Denoise
from dpd_runtime.sampling.schedule import Schedule, add_noise
from dpd_train.compute.checkpoint import step_generator
from dpd_train.compute.device import one_thread

FORMAT = 1  # increase this whenever the training gives other weights
IMAGES = 50
STEPS = 800
BATCH = 50
WIDTH = 512
PEAK_RATE = 1e-3


@dataclass(frozen=True)
class Overfitted:
    """The over-fitted denoiser.

    Args:
        schedule: the audited one, for a network that predicts ẑ0.
        seconds: training time. cached: whether the training was done in an earlier run.
    """

    denoise: Denoise
    schedule: Schedule
    seconds: float
    cached: bool


class Memory(nn.Module):
    """(noisy latents [B, C, h, w], sigma [B]) → ẑ0 [B, C, h, w]."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        size = int(np.prod(shape))
        self.shape = shape
        self.layers = nn.Sequential(
            nn.Linear(size + 1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, size)
        )

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layers(torch.cat([noisy.flatten(1), sigma[:, None]], dim=1))
        return output.view(-1, *self.shape)


def overfitted_denoiser(
    latents: Float32, schedule: Schedule, cache: Path, progress: Progress = lambda done, total: None
) -> Overfitted:
    """Train a denoiser on latents [n, C, h, w] and nothing else, or read it from the cache.

    Raises:
        DiskError: the cache cannot be written.
    """
    schedule = replace(schedule, prediction_type="sample")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FORMAT)
        network = Memory((latents.shape[1], latents.shape[2], latents.shape[3]))
    parts = [FORMAT, STEPS, BATCH, WIDTH, PEAK_RATE, str(latents.shape), schedule.alphas_cumprod, torch.__version__]
    content = json.dumps([*parts[:-1], str(parts[-1])], allow_nan=False).encode() + latents.tobytes()
    path = cache / f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
    meta = load_weights(path, network)
    cached = meta is not None
    if meta is None:
        begun = time.monotonic()
        with one_thread():  # at the timesteps of the scores
            half = schedule.alphas_cumprod[: schedule.num_train_timesteps // 2]
            memorise(network, torch.from_numpy(latents), half, progress)
        meta = {"seconds": round(time.monotonic() - begun, 1)}
        store_weights(path, network, meta)
    seconds = float(meta["seconds"])
    return Overfitted(as_denoise(network, schedule), schedule, seconds, cached)


def memorise(
    network: Memory,
    latents: torch.Tensor,
    alphas_cumprod: Sequence[float],
    progress: Progress = lambda done, total: None,
    *,
    steps: int = STEPS,
) -> None:
    """Train at these noise levels, without augmentation, dropout and validation, which would hinder memorisation."""
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK_RATE)
    table = torch.tensor(alphas_cumprod, dtype=torch.float64)
    for step in range(steps):
        generator = step_generator(FORMAT, step)
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        ratio = table[torch.randint(len(table), (BATCH,), generator=generator)]
        optimizer.param_groups[0]["lr"] = PEAK_RATE * (1 - step / steps)
        alpha, sigma = ratio.sqrt().float(), (1 - ratio).sqrt().float()
        spread = alpha[:, None, None, None], sigma[:, None, None, None]
        noisy = add_noise(latents[rows], noise, *spread)  # type: ignore[arg-type]
        loss = F.mse_loss(network(noisy, sigma), latents[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress(step + 1, steps)


def as_denoise(network: Memory, schedule: Schedule) -> Denoise:
    """The network as the function that `dpd_runtime.sampling.sample.sample` takes."""
    network.eval()

    @torch.no_grad()
    def ask(latents: Float32, timestep: int, prompts: Float32) -> Float32:
        sigma = torch.full((len(latents),), schedule.alpha_sigma(timestep)[1])
        output: Float32 = network(torch.from_numpy(np.ascontiguousarray(latents)), sigma).numpy()
        return output

    return ask
