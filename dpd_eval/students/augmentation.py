"""Augmentation of training batches. All random numbers come from the given generator."""

import math

import torch
from torch.nn import functional as F

from dpd_eval.students.recipe import Recipe
from dpd_train.images.symmetry import random_d4


def augment(images: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Apply the recipe's symmetries, flips, crops and shifts to uint8 [B, C, H, W]."""
    if recipe.d4:
        images = random_d4(images, generator)
    if recipe.flips:
        images = random_flips(images, generator)
    if recipe.crop < 1:
        images = random_crop(images, recipe.crop, generator)
    if recipe.shift:
        images = random_shift(images, recipe.shift, generator)
    return images


def random_flips(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip each image of [B, C, H, W] left-right and up-down, each with probability 1/2."""
    sideways, upright = torch.rand(2, len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(sideways, images.flip(-1), images)
    return torch.where(upright, images.flip(-2), images)


def random_crop(images: torch.Tensor, smallest: float, generator: torch.Generator) -> torch.Tensor:
    """Crop a random box from each image of [B, C, H, W] uint8 and resize it bilinearly to H × W.

    The box has a share of the area uniform in [smallest, 1] and an aspect ratio log-uniform in [3/4, 4/3]. Its sides
    are limited to the image's (torchvision's RandomResizedCrop samples again instead).
    """
    area, ratio, x, y = torch.rand(4, len(images), generator=generator)
    area = smallest + (1 - smallest) * area
    ratio = torch.exp((2 * ratio - 1) * math.log(4 / 3))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zero = torch.zeros_like(width)
    # affine_grid's coordinates run from -1 to 1: a box of width w at offset x·(1 - w) is centred at (2x - 1)(1 - w)
    across = torch.stack([width, zero, (2 * x - 1) * (1 - width)], dim=1)
    down = torch.stack([zero, height, (2 * y - 1) * (1 - height)], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    cut = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.round().to(images.dtype)


def random_shift(images: torch.Tensor, limit: int, generator: torch.Generator) -> torch.Tensor:
    """Translate each image of [B, C, H, W] by up to `limit` pixels along each axis, with mirrored borders.

    This equals a random crop after reflect padding. `limit` is reduced to the image's size minus one.
    """
    count, _, height, width = images.shape

    def source(size: int) -> torch.Tensor:
        bound = min(limit, size - 1)
        offset = torch.randint(-bound, bound + 1, (count, 1), generator=generator)
        index = (torch.arange(size) + offset).abs()
        return torch.where(index > size - 1, 2 * (size - 1) - index, index)

    rows, columns = source(height), source(width)
    moved = images.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def cutmix(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Paste one box from a permuted batch (CutMix, Yun et al. 2019; alpha 1: kept share uniform in [0, 1]).

    Returns:
        The mixed images, the permutation [B], and the share of each image's own pixels.
    """
    height, width = images.shape[-2:]
    kept, x, y = torch.rand(3, generator=generator).tolist()
    side = math.sqrt(1 - kept)
    top, bottom = (round(min(max(y * height + s * side * height / 2, 0), height)) for s in (-1, 1))
    left, right = (round(min(max(x * width + s * side * width / 2, 0), width)) for s in (-1, 1))
    order = torch.randperm(len(images), generator=generator)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[order][..., top:bottom, left:right]
    return mixed, order, 1 - (bottom - top) * (right - left) / (height * width)
