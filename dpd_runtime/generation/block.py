"""A block is (class, 10 consecutive indices) × candidates and depends on nothing outside itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpd_runtime.annotations import Float32, Pixels
from dpd_runtime.bundle.classes import SceneClass
from dpd_runtime.errors import DegenerateImageError
from dpd_runtime.sampling.sampler import BLOCK


@dataclass(frozen=True)
class Image:
    """A generated image and where it comes from.

    Args:
        pixels: uint8 [H, W, N], N = 3 for RGB.
        prototype: its number within the class; −1 if the class has none.
        candidate: which of the candidates was kept; 0 for a decoded image.
        margin: the latent classifier's margin of that candidate; None for a decoded image, which has no other.
    """

    pixels: Pixels
    class_name: str
    label: int
    index: int
    prototype: int
    prompt: str
    candidate: int
    margin: float | None

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return (
            f"Image({self.class_name!r}, index {self.index}, label {self.label}, {width} × {height} pixels, "
            f"prototype {self.prototype}, prompt {self.prompt!r})"
        )


@dataclass(frozen=True)
class Block:
    """Block `number` of a class: the images 10 · number … 10 · number + 9."""

    scene_class: SceneClass
    number: int

    @property
    def indices(self) -> range:
        return range(self.number * BLOCK, (self.number + 1) * BLOCK)

    def rows(self, candidates: int = 1) -> "list[Row]":
        """A row for each candidate of each image, candidate-major."""
        return [(self, index) for _ in range(candidates) for index in self.indices]

    def degenerate(self, seed: int, index: int, what: str) -> DegenerateImageError:
        """The error for image `index` of this block."""
        return DegenerateImageError(
            f"class {self.scene_class.name}, seed {seed}, index {index}: {what}; "
            "try another --seed, more --steps, or a bundle exported with --precision fp32"
        )


Row = tuple[Block, int]
"""What a row of a network's call belongs to: an image, or one of its candidates, by its block and its index."""


def check_finite(output: Float32, seed: int, rows: Sequence[Row], graph: str) -> Float32:
    """Return the output of one call of `graph` if all of it is finite.

    Args:
        output: a row for each of `rows`, or two halves of such rows (a guided call).

    Raises:
        DegenerateImageError: it is not finite.
    """
    if not np.isfinite(output).all():
        row = int(np.argmin(np.isfinite(output).reshape(len(output), -1).all(axis=1)))
        block, index = rows[row % len(rows)]
        raise block.degenerate(seed, index, f"{graph} gave NaN or infinite numbers")
    return output
