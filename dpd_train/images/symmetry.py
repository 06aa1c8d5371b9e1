"""The eight symmetries of the square (D4). Aerial images have no preferred direction, so all are equally valid."""

from functools import lru_cache

import torch

ORDER = 8  # 4 rotations, each with and without a flip


def d4(images: torch.Tensor, element: int) -> torch.Tensor:
    """Apply one element of D4 to the last two axes.

    Args:
        images: [..., H, W] with H = W.
        element: 0 … 7; 0 is the identity, 4 … 7 flip left-right first.
    """
    if element >= 4:
        images = images.flip(-1)
    return images.rot90(element % 4, (-2, -1))


@lru_cache(maxsize=8)
def _positions(side: int, device: torch.device) -> torch.Tensor:
    """For each element and place the pixel that is moved there, [8, side²]."""
    positions = torch.arange(side * side, device=device).view(side, side)
    return torch.stack([d4(positions, element).flatten() for element in range(ORDER)])


def d4_each(images: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
    """Apply to each image its own element, in one gather without a host round trip on a GPU.

    Args:
        images: [B, C, S, S]; elements: [B] int64, on the same device.
    """
    moved = _positions(images.shape[-1], images.device)[elements][:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(-1, moved).view(images.shape)


def random_d4(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply a random element to each image of the batch [B, ..., H, W]."""
    elements = torch.randint(ORDER, (len(images),), generator=generator)
    out = torch.empty_like(images)
    for element in range(ORDER):
        rows = elements == element
        out[rows] = d4(images[rows], element)
    return out
