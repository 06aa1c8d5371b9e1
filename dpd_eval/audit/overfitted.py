"""A denoiser that knows 50 images by heart: the control which every membership test of a denoiser must find."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from safetensors import SafetensorError

from dpd_runtime.errors import DiskError
from dpd_runtime.sampling import Denoise
from dpd_runtime.schedule import Schedule
from dpd_train.checkpoint import load_state, save_state, step_generator
from dpd_train.denoising import denoise

FORMAT = 1  # raise it whenever the training gives other weights
IMAGES = 50
STEPS = 1500
BATCH = 25
PEAK_RATE = 1e-3
GAMMA = 5.0  # of the min-SNR weights
Float32 = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Overfitted:
    """Args:
    schedule: the audited one with v-prediction. seconds: its training took. cached: whether they were spent now.
    """

    denoise: Denoise
    schedule: Schedule
    seconds: float
    cached: bool


def overfitted_denoiser(
    latents: Float32, prompts: Float32, schedule: Schedule, cache: Path, progress: Progress, *, steps: int = STEPS
) -> Overfitted:
    """A small UNet trained on latents [n, C, h, w] and prompts [n, L, D] and nothing else, or the one from the cache.

    Raises:
        DiskError: the cache cannot be written.
    """
    schedule = replace(schedule, prediction_type="v_prediction")
    unet = _fresh(latents.shape, prompts.shape[2])
    alphas = np.array(schedule.alphas_cumprod).tobytes()
    parts = [FORMAT, steps, BATCH, PEAK_RATE, str(latents.shape), str(torch.__version__)]
    content = json.dumps(parts).encode() + latents.tobytes() + prompts.tobytes() + alphas
    path = cache / f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
    seconds, cached = _load(path, unet), True
    if seconds is None:
        begun, cached = time.monotonic(), False
        _train(unet, torch.from_numpy(latents), torch.from_numpy(prompts), schedule, steps, progress)
        seconds = round(time.monotonic() - begun, 1)
        _store(path, unet, seconds)
    return Overfitted(_as_denoise(unet.eval()), schedule, seconds, cached)


def _fresh(shape: tuple[int, ...], width: int) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FORMAT)
        return UNet2DConditionModel(
            sample_size=shape[2],
            in_channels=shape[1],
            out_channels=shape[1],
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=4,
            norm_num_groups=8,
        )


def _train(
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    prompts: torch.Tensor,
    schedule: Schedule,
    steps: int,
    progress: Progress,
) -> None:
    """AdamW without augmentation, dropout or validation: all that keeps a denoiser from memorising is left out."""
    optimizer = torch.optim.AdamW(unet.parameters(), lr=PEAK_RATE, weight_decay=0.0)
    unet.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / 50, 2 * (steps - step) / steps)
        generator = step_generator(FORMAT, step)
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        timesteps = torch.randint(schedule.num_train_timesteps, (BATCH,), generator=generator)
        said = denoise(unet, latents[rows], noise, timesteps, prompts[rows], schedule, GAMMA)
        optimizer.zero_grad()
        said.squared_error().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress(step + 1, steps)


def _as_denoise(unet: UNet2DConditionModel) -> Denoise:
    @torch.no_grad()
    def ask(latents: Float32, timestep: int, prompts: Float32) -> Float32:
        parts = []
        for i in range(0, len(latents), BATCH):
            noisy, context = (torch.from_numpy(np.ascontiguousarray(x[i : i + BATCH])) for x in (latents, prompts))
            parts.append(unet(noisy, torch.tensor(timestep), context).sample.numpy())
        return np.concatenate(parts)

    return ask


def _load(path: Path, unet: UNet2DConditionModel) -> float | None:
    """Seconds of the training; None where there is no file or a damaged one."""
    try:
        tensors, meta = load_state(path)
        unet.load_state_dict(tensors)
        return float(meta["seconds"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _store(path: Path, unet: UNet2DConditionModel, seconds: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # its weights know real images by heart
        own = path.with_name(f"{os.getpid()}-{path.name}")
        save_state(own, dict(unet.state_dict()), {"seconds": seconds})
        own.replace(path)
    except OSError as error:
        raise DiskError(
            f"{path.parent}: the control cannot be stored ({error.strerror}); set XDG_CACHE_HOME elsewhere"
        ) from None
