"""Views of images: a symmetry of the square for each, and a small shift. Codes and training images are seen alike."""

import torch
from torch.nn import functional as F

from dpd_train.compute.device import to_device
from dpd_train.images.symmetry import ORDER, d4_each

SHIFT = 16  # images are moved by up to 1 / SHIFT of their side, as a student sees them


def shifted(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Move images [n, C, H, W] by whole pixels. The borders that are uncovered show the image mirrored."""
    reach, (height, width) = max(abs(down), abs(right)), images.shape[-2:]
    if not reach:
        return images
    wider = F.pad(images, (reach,) * 4, mode="reflect")
    return wider[..., reach - down : reach - down + height, reach - right : reach - right + width]


def random_shifts(generator: torch.Generator, count: int, side: int) -> list[tuple[int, int]]:
    """`count` shifts (down, right) in whole pixels, of up to 1 / SHIFT of the side each way."""
    reach = side // SHIFT
    return [(down, right) for down, right in torch.randint(-reach, reach + 1, (count, 2), generator=generator).tolist()]


class View:
    """Random symmetries for `count` images, one for each, and one random shift for all."""

    def __init__(self, generator: torch.Generator, count: int, side: int, device: torch.device) -> None:
        self._elements = to_device(torch.randint(ORDER, (count,), generator=generator), device)
        [(self._down, self._right)] = random_shifts(generator, 1, side)

    def __call__(self, images: torch.Tensor, first: int = 0) -> torch.Tensor:
        """See images [n, C, S, S], of which the first is number `first` of the view."""
        turned = d4_each(images, self._elements[first : first + len(images)])
        return shifted(turned, self._down, self._right).contiguous(memory_format=torch.channels_last)
