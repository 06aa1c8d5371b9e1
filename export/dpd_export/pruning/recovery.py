"""After pruning: the UNet that is left learns again what the whole one says, on latents which that one generated."""

import math
from collections.abc import Callable

import torch
from torch import nn

from dpd_export.reference.cases import Scenes
from dpd_export.reference.reference import spread
from dpd_runtime.generation.cases import sample_case
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.bases.base import Base, torch_denoise

IMAGES = 400  # that are generated, over all classes
BATCH, STEPS, RATE, WARMUP = 32, 600, 5e-4, 20
EMPTY = 0.2  # share of prompts left empty where the sampler guides
Generated = tuple[torch.Tensor, torch.Tensor]


def generated(base: Base, scenes: Scenes, sampler: Sampler, images: int, seed: int) -> Generated:
    """Latents [n, C, h, w] that the whole UNet makes, and their prompts [n, L, D]; no image of anyone's."""
    labels = range(len(scenes.names))
    each = max(1, images // len(labels))
    chosen = (sampler.solver, sampler.steps, sampler.first_drawn(), sampler.compute_batch, seed)
    found, prompts = [], []
    for label in labels if images >= len(labels) else spread(images, list(labels)):
        case = scenes.case([(label, index) for index in range(each)], *chosen, half=False)
        found.append(torch.from_numpy(sample_case(torch_denoise(base), case)[1]))
        prompts.append(torch.from_numpy(case.prompts))
    return torch.cat(found), torch.cat(prompts)


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
    """Train `unet` in place; the loss (mean squared difference of both outputs) of each step.

    Args:
        empty: the empty prompt, [L, D].
    """
    generator = torch.Generator().manual_seed(seed)
    latents, prompts = data
    unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE, weight_decay=0.0)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * step / steps)))
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        timesteps = torch.randint(len(alphas_cumprod), (BATCH,), generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        signal = alphas_cumprod[timesteps].float()[:, None, None, None]
        noisy = signal.sqrt() * latents[rows] + (1 - signal).sqrt() * noise
        unnamed = torch.rand(BATCH, generator=generator) < EMPTY * guided
        context = torch.where(unnamed[:, None, None], empty, prompts[rows])
        with torch.no_grad():
            wanted = whole(noisy, timesteps, context, return_dict=False)[0]
        loss = nn.functional.mse_loss(unet(noisy, timesteps, context, return_dict=False)[0], wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, steps)
    unet.requires_grad_(False).eval()
    return losses
