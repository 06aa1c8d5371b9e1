"""What the scan looks for, and what it found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Artefact:
    """Args:
    file: of the bundle or set. what: the kind, which may be told. detail: what it is, for the data's owner alone.
    """

    file: str
    what: str
    detail: str


@dataclass(frozen=True)
class Traces:
    """What a single real image would leave behind.

    Args:
        names: file names of the real images. roots: folders where they lie.
        images: uint8 [n, H, W, 3]. latents: [n, C, h, w], scaled; None without an encoder.
    """

    names: Sequence[str]
    roots: Sequence[Path]
    images: NDArray[np.uint8]
    latents: NDArray[np.float32] | None = None
    scaling_factor: float = 1.0
