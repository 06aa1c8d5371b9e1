"""What the scan searches for, and what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpd_runtime.annotations import Float32, Images


@dataclass(frozen=True)
class Artefact:
    """One finding of the scan.

    Args:
        file: in the bundle or set. what: its kind, which may be published. detail: only for the owner of the data.
    """

    file: str
    what: str
    detail: str


@dataclass(frozen=True)
class Traces:
    """The traces that single real images could leave.

    Args:
        names: file names of the real images. roots: their folders.
        images: uint8 [n, H, W, C]. latents: [n, C, h, w], scaled; None without an encoder.
    """

    names: Sequence[str]
    roots: Sequence[Path]
    images: Images
    latents: Float32 | None = None
    scaling_factor: float = 1.0
