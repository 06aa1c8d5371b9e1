"""The door `dpd.pruning`: what a method that makes a UNet smaller is given by `dpd export --prune`, and gives back."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dpd_export.int8 import Speed
from dpd_export.reference import RunCases
from dpd_train.bases import Base


@dataclass(frozen=True)
class Pruning:
    """How filters are ranked, and which share of them is removed (above 0, below 1)."""

    method: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.method}:{self.ratio:g}"


@dataclass(frozen=True)
class Pruned:
    """What pruning removed, and what it cost.

    Args:
        filters, kept: number of filters in the first convolutions of all residual blocks, before and after.
        parameters, parameters_kept: of the UNet, before and after.
        error, error_tuned: squared difference from the whole UNet's outputs on the calibration's latents, divided by
            the square of those outputs: after removal, and after fine-tuning.
        speed: of both UNets.
        teacher_agreement: share of images from the same noise that get the same label from the teacher; the export
            fills it in.
    """

    pruning: Pruning
    filters: int
    kept: int
    parameters: int
    parameters_kept: int
    error: float
    error_tuned: float
    speed: Speed
    teacher_agreement: float = math.nan

    def entries(self) -> dict[str, object]:
        """The manifest's figures."""
        return {
            "method": self.pruning.method,
            "ratio": self.pruning.ratio,
            "filters": self.filters,
            "filters_kept": self.kept,
            "parameters": self.parameters,
            "parameters_kept": self.parameters_kept,
            "error": round(self.error, 4),
            "error_tuned": round(self.error_tuned, 4),
            "teacher_agreement": self.teacher_agreement,
        }


Prune = Callable[[Base, RunCases, Callable[[], None]], tuple[Base, Pruned]]
"""(base, cases, step) → the base with a smaller UNet, and what that cost.

The base that is given does not change. `cases` says how the bundle will sample. `step` moves the progress bar: it is
called when filters of the residual blocks are removed, and when the rest is tuned on latents that the whole UNet
generated. That both happen is what the model card says of every method.

Raises:
    InputError: the base is too large, or the method removes nothing from it.
"""
