"""Random views of images: part of the image, symmetry, colours."""

import torch
from torch.nn import functional as F

from dpd_train.compute import to_device
from dpd_train.symmetry import ORDER, d4_each

LEAST_AREA = 0.3  # of the image
JITTER = 0.3  # brightness, contrast and saturation change by a factor within 1 ± this
GREY = 0.1  # probability of a view without colour
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def random_views(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A view of each image [B, 3, S, S] in [-1, 1], of the same size and range.

    As in MoCo v2 but for three things: all symmetries of the square, as an aerial image has no up; colours change less,
    as they tell land cover apart; no blur, as images of 64 pixels have little detail to lose.
    """
    elements = torch.randint(ORDER, (len(images),), generator=generator)
    turned = d4_each(_parts(images, generator), to_device(elements, images.device))
    return _recoloured(turned, generator)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _parts(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random square of each image, enlarged to the image's size."""
    count = len(images)
    side = _uniform(generator, LEAST_AREA, 1, count).sqrt()  # share of the image's side
    centre = (1 - side)[:, None] * _uniform(generator, -1, 1, count, 2)  # the image spans [-1, 1]
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = side
    affine[:, :, 2] = centre
    grid = F.affine_grid(to_device(affine, images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recoloured(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    brightness, contrast, saturation = (
        to_device(_uniform(generator, 1 - JITTER, 1 + JITTER, len(images), 1, 1, 1), images.device) for _ in range(3)
    )
    colourless = to_device(torch.rand((len(images), 1, 1, 1), generator=generator) < GREY, images.device)
    pixels = (images + 1) / 2 * brightness
    mean = _luma(pixels).mean(dim=(2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * contrast
    grey = _luma(pixels)
    pixels = grey + (pixels - grey) * saturation.masked_fill(colourless, 0)
    return pixels.clamp(0, 1) * 2 - 1


def _luma(pixels: torch.Tensor) -> torch.Tensor:
    """Grey values [B, 1, S, S] of RGB pixels."""
    return (pixels * torch.tensor(LUMA, device=pixels.device)[None, :, None, None]).sum(dim=1, keepdim=True)
