"""A denoiser that knows 50 images by heart: the control which every membership test of a denoiser must find.

A network of dense layers which predicts ẑ0. It cannot pass an image through, and so knows the images by heart when a
convolutional network still learns to denoise. It shows that the scores find such knowledge, not how little of it.
"""

import hashlib
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F

from dpd_runtime.annotations import Float32, Progress
from dpd_runtime.errors import DiskError
from dpd_runtime.sampling.sample import Denoise
from dpd_runtime.sampling.schedule import Schedule, add_noise
from dpd_train.compute.checkpoint import load_state, save_state, step_generator
from dpd_train.compute.device import one_thread

FORMAT = 1  # raise it whenever the training gives other weights
IMAGES = 50
STEPS = 800
BATCH = 50
WIDTH = 512
PEAK_RATE = 1e-3


@dataclass(frozen=True)
class Overfitted:
    """Args:
    schedule: the audited one, of a network that predicts ẑ0. seconds: its training took. cached: not now.
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
        found: torch.Tensor = self.layers(torch.cat([noisy.flatten(1), sigma[:, None]], dim=1))
        return found.view(-1, *self.shape)


def overfitted_denoiser(
    latents: Float32, schedule: Schedule, cache: Path, progress: Progress = lambda done, total: None
) -> Overfitted:
    """Trained on latents [n, C, h, w] and nothing else, or from the cache.

    Raises:
        DiskError: the cache cannot be written.
    """
    schedule = replace(schedule, prediction_type="sample")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FORMAT)
        network = Memory((latents.shape[1], latents.shape[2], latents.shape[3]))
    parts = [FORMAT, STEPS, BATCH, WIDTH, PEAK_RATE, str(latents.shape), schedule.alphas_cumprod, torch.__version__]
    content = json.dumps([*parts[:-1], str(parts[-1])]).encode() + latents.tobytes()
    path = cache / f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
    seconds, cached = _load(path, network), True
    if seconds is None:
        begun, cached = time.monotonic(), False
        with one_thread():
            _train(network, torch.from_numpy(latents), schedule, progress)
        seconds = round(time.monotonic() - begun, 1)
        _store(path, network, seconds)
    return Overfitted(_as_denoise(network.eval(), schedule), schedule, seconds, cached)


def _train(network: Memory, latents: torch.Tensor, schedule: Schedule, progress: Progress) -> None:
    """No augmentation, dropout or validation: all that keeps a denoiser from memorising is left out."""
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK_RATE)
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    for step in range(STEPS):
        generator = step_generator(FORMAT, step)
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        ratio = table[torch.randint(len(table) // 2, (BATCH,), generator=generator)]  # where the scores look
        optimizer.param_groups[0]["lr"] = PEAK_RATE * (1 - step / STEPS)
        alpha, sigma = ratio.sqrt().float(), (1 - ratio).sqrt().float()
        spread = alpha[:, None, None, None], sigma[:, None, None, None]
        noisy = add_noise(latents[rows], noise, *spread)  # type: ignore[arg-type]
        loss = F.mse_loss(network(noisy, sigma), latents[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress(step + 1, STEPS)


def _as_denoise(network: Memory, schedule: Schedule) -> Denoise:
    @torch.no_grad()
    def ask(latents: Float32, timestep: int, prompts: Float32) -> Float32:
        sigma = torch.full((len(latents),), schedule.alpha_sigma(timestep)[1])
        found: Float32 = network(torch.from_numpy(np.ascontiguousarray(latents)), sigma).numpy()
        return found

    return ask


def _load(path: Path, network: Memory) -> float | None:
    """Seconds of the training; None where there is no file or a damaged one."""
    try:
        tensors, meta = load_state(path)
        network.load_state_dict(tensors)
        return float(meta["seconds"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _store(path: Path, network: Memory, seconds: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # its weights know real images by heart
        own = path.with_name(f"{os.getpid()}-{path.name}")
        save_state(own, dict(network.state_dict()), {"seconds": seconds})
        own.replace(path)
    except OSError as error:
        raise DiskError(
            f"{path.parent}: the control cannot be stored ({error.strerror}); set XDG_CACHE_HOME elsewhere"
        ) from None
