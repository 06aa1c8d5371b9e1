"""The eight symmetries of the square (D4). A nadir image has no preferred direction, so each is as good."""

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


def random_d4(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply an element drawn for each image of the batch [B, ..., H, W]."""
    elements = torch.randint(ORDER, (len(images),), generator=generator)
    out = torch.empty_like(images)
    for element in range(ORDER):
        rows = elements == element
        out[rows] = d4(images[rows], element)
    return out
