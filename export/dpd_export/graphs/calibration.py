"""Inputs of the UNet that set the ranges of int8 and rank filters."""

from dataclasses import dataclass

import torch

from dpd_export.graphs.parts import Tensors


@dataclass(frozen=True)
class Calibration:
    """Inputs of the UNet recorded while PyTorch generates.

    Args:
        calls: all with the same number of rows.
        batch: rows in one call when the bundle generates.
    """

    calls: list[Tensors]
    batch: int

    def one_call(self) -> Tensors:
        """Rows of all calls as a single call of `batch` rows, at the timestep of the middle call."""
        columns = zip(*self.calls, strict=True)
        rows = [column[len(column) // 2] if not column[0].ndim else torch.cat(column) for column in columns]
        return tuple(x[torch.arange(self.batch) % len(x)] if x.ndim else x for x in rows)
