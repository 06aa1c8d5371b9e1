"""Engines: named arrays in, named arrays out."""

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
    """`engine.run`, whose output has to be floats of this shape.

    Args:
        graph: its path in the bundle, for the error.

    Raises:
        BundleError: it is something else.
    """
    found = engine.run(**inputs)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.shape != shape:
        kind = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise BundleError(f"{graph} gave {kind} in place of floats {list(shape)}; export the bundle again")
    return found


@dataclass(frozen=True)
class Provider:
    """An execution provider as chosen, and why."""

    name: str
    reason: str
