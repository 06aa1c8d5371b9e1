"""The protocol of an engine: named arrays in, one array out."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.errors import BundleError


class Engine(Protocol):
    """A compiled graph."""

    def run(self, **inputs: Array) -> Array:
        """The first output of the graph for these named inputs."""
        ...


def run_to(engine: Engine, graph: str, shape: tuple[int, ...], **inputs: Array) -> Array:
    """Call `engine.run` and check that its output has floats of this shape.

    Args:
        graph: the graph's path in the bundle, for the error.

    Raises:
        BundleError: another type or shape.
    """
    found = engine.run(**inputs)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.shape != shape:
        kind = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise BundleError(f"{graph} gave {kind} instead of floats {list(shape)}; export the bundle again")
    return found


@dataclass(frozen=True)
class Provider:
    """An execution provider and the reason for its choice. device: number of the GPU; 0 on a CPU."""

    name: str
    reason: str
    device: int = 0
