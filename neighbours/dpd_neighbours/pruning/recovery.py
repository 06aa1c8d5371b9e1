"""Fine-tune the pruned UNet on the whole UNet's outputs, on latents that the whole UNet generated."""

import math
from collections.abc import Callable

import torch
from torch import nn

from dpd_export.reference import RunCases, spread
from dpd_runtime.golden import sample_case
from dpd_train.bases import Base, torch_denoise
from dpd_train.loop import Task, train

IMAGES = 400  # generated over all classes
BATCH, STEPS, RATE, WARMUP = 32, 600, 5e-4, 20
EMPTY = 0.2  # share of empty prompts if the sampler uses guidance
Generated = tuple[torch.Tensor, torch.Tensor]


def generated(base: Base, cases: RunCases, images: int, seed: int) -> Generated:
    """Latents [n, C, h, w] that the whole UNet samples, and their prompts [n, L, D]; no real image is used."""
    labels = range(len(cases.names))
    each = max(1, images // len(labels))
    steps, batch = cases.sampler.steps, cases.sampler.compute_batch
    latents, prompts = [], []
    for label in labels if images >= len(labels) else spread(images, list(labels)):
        case = cases.case([(label, index) for index in range(each)], steps, batch, seed)
        latents.append(torch.from_numpy(sample_case(torch_denoise(base), case)[1]))
        prompts.append(torch.from_numpy(case.prompts))
    return torch.cat(latents), torch.cat(prompts)


def recover(
    unet: nn.Module,
    whole: nn.Module,
    data: Generated,
    empty: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    guided: bool,
    seed: int,
    steps: int = STEPS,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> list[float]:
    """Train `unet` in place to give the outputs of `whole`.

    Args:
        data: what `generated` gave.
        empty: the empty prompt [L, D].
        guided: whether the sampler takes an unconditional pass.

    Returns:
        The loss of each step: mean squared difference of both outputs.
    """
    generator = torch.Generator().manual_seed(seed)
    latents, prompts = data
    unet.requires_grad_(True).train()
    losses = list[float]()

    def loss(step: int, _: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        timesteps = torch.randint(len(alphas_cumprod), (BATCH,), generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        signal = alphas_cumprod[timesteps].float()[:, None, None, None]
        noisy = signal.sqrt() * latents[rows] + (1 - signal).sqrt() * noise
        unnamed = torch.rand(BATCH, generator=generator) < EMPTY * guided
        context = torch.where(unnamed[:, None, None], empty, prompts[rows])
        with torch.no_grad():
            wanted = whole(noisy, timesteps, context, return_dict=False)[0]
        error = nn.functional.mse_loss(unet(noisy, timesteps, context, return_dict=False)[0], wanted)
        losses.append(error.item())
        return error

    trained = list(unet.parameters())
    task = Task(
        trained=trained,
        optimizer=torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0),
        rate=lambda step: RATE * min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * step / steps))),
        loss=loss,
    )
    train(task, steps, seed, progress)
    unet.requires_grad_(False).eval()
    unet.zero_grad()  # torch.export refuses a weight in float16 whose gradient is in float32
    return losses
