"""The students `dsdnet` and `groups`, for the door `dpd.students`. Loads no PyTorch."""

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from dpd_runtime.errors import InputError

if TYPE_CHECKING:
    from torch import nn

BACKBONES = ("convnet", "resnet", "resnet18")
GROUP = re.compile(r"([A-Za-z]\w*)=(\d+(?:,\d+)*)", re.ASCII)
EXAMPLE = "groups:RGB=4,3,2;NIR=8, or groups:RGB=4,3,2;NIR=8@RGB for a site with RGB alone"


def dsdnet(backbone: str) -> "Callable[..., nn.Module]":
    """A student of dpd_eval with DSDNet's branches, which its training removes again.

    Raises:
        InputError: a student whose stages cannot be seen.
    """
    if backbone not in BACKBONES:
        raise InputError(f"no student 'dsdnet:{backbone}': there are {', '.join(f'dsdnet:{b}' for b in BACKBONES)}")

    def build(num_classes: int, in_channels: int = 3) -> "nn.Module":
        from dpd_eval.students import STUDENTS
        from dpd_neighbours.dsdnet import DsdNet

        return DsdNet(STUDENTS[backbone](num_classes, in_channels=in_channels), num_classes, in_channels)

    return build


def groups(argument: str) -> "Callable[..., nn.Module]":
    """A student with an encoder for each group of bands: `RGB=4,3,2;NIR=8`, bands counted from 1 in the images.

    It is trained on all groups and predicts with all, or behind `@RGB` with one: as at a site that has no other bands.

    Raises:
        InputError: no groups, a name or a band twice, or another group behind `@`.
    """
    listed, at, chosen = argument.partition("@")
    found = [GROUP.fullmatch(part.strip()) for part in listed.split(";")]
    names = [match[1] for match in found if match]
    bands = {match[1]: tuple(int(band) for band in match[2].split(",")) for match in found if match}
    numbers = [band for group in bands.values() for band in group]
    what = f"student 'groups:{argument}'"
    if len(names) < len(found):
        raise InputError(f"{what}: give groups of bands such as {EXAMPLE}")
    for one, count in Counter([f"group {name}" for name in names] + [f"band {band}" for band in numbers]).items():
        if count > 1:
            raise InputError(f"{what}: {one} stands there twice")
    if at and chosen not in names:
        raise InputError(f"{what}: no group {chosen!r} behind @; there are {', '.join(names)}")

    def build(num_classes: int, in_channels: int = 3) -> "nn.Module":
        from dpd_neighbours.band_groups import BandGroups

        if not 1 <= min(numbers) <= max(numbers) <= in_channels:
            wrong = min(numbers) if min(numbers) < 1 else max(numbers)
            raise InputError(f"{what}: no band {wrong}: the images have {in_channels}, counted from 1")
        return BandGroups(tuple(bands.values()), num_classes, names.index(chosen) if at else None)

    return build
