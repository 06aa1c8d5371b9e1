"""The student `dsdnet:BACKBONE`, for the extension point `dpd.students`. Loads no PyTorch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dpd_runtime.errors import InputError

if TYPE_CHECKING:
    from torch import nn

BACKBONES = ("convnet", "resnet", "resnet18")


def dsdnet(backbone: str) -> "Callable[[int], nn.Module]":
    """A student of dpd_eval with DSDNet's branches, which its training removes again.

    Raises:
        InputError: a student whose stages cannot be seen.
    """
    if backbone not in BACKBONES:
        raise InputError(f"no student 'dsdnet:{backbone}': there are {', '.join(f'dsdnet:{b}' for b in BACKBONES)}")

    def build(num_classes: int) -> "nn.Module":
        from dpd_eval.students.student import STUDENTS
        from dpd_neighbours.dsdnet import DsdNet

        return DsdNet(STUDENTS[backbone](num_classes), num_classes)

    return build
