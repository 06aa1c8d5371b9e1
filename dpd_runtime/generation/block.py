"""A block is (class, 10 consecutive indices) × candidates and depends on nothing outside itself (DESIGN §8)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dpd_runtime.bundle.classes import SceneClass
from dpd_runtime.sampling.sampler import BLOCK


@dataclass(frozen=True)
class Image:
    """A generated image: pixels uint8 [H, W, 3] and where it came from; prototype is −1 where the class has none."""

    pixels: npt.NDArray[np.uint8]
    class_name: str
    label: int
    index: int
    prototype: int
    prompt: str
    candidate: int
    margin: float


@dataclass(frozen=True)
class Block:
    """Indices first … first + 9 of one class."""

    scene_class: SceneClass
    number: int

    @property
    def indices(self) -> range:
        return range(self.number * BLOCK, (self.number + 1) * BLOCK)
