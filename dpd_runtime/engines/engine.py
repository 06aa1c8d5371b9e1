"""The protocol of an engine: named arrays in, one array out."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.errors import BundleError

PRECISIONS = FP32, BF16 = "fp32", "bf16"
FLOAT_BYTES = 4
"""Of the widest number that a graph may give: what dpd holds of it is known before the call."""


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
    output = engine.run(**inputs)
    if not isinstance(output, np.ndarray):
        raise misfit(graph, type(output).__name__, shape)
    return fitting(output, graph, shape)


def fitting(output: Array, graph: str, shape: tuple[int, ...]) -> Array:
    """Return an output of `graph` that has floats of this shape, of FLOAT_BYTES or fewer.

    Raises:
        BundleError: another type or shape.
    """
    if output.dtype.kind != "f" or output.dtype.itemsize > FLOAT_BYTES or output.shape != shape:
        raise misfit(graph, f"{output.dtype} {list(output.shape)}", shape)
    return output


def misfit(graph: str, given: str, shape: tuple[int, ...] | None) -> BundleError:
    """The error for an output of `graph` that is not what was asked for. shape: None if any of a usual size was."""
    wanted = "an output of a usual size" if shape is None else f"floats {list(shape)}"
    return BundleError(f"{graph} gave {given} instead of {wanted}; export the bundle again")


@dataclass(frozen=True)
class Provider:
    """An execution provider and the reason for its choice.

    Args:
        gpu: number of the GPU that was asked for; None if none was.
        precision: one of PRECISIONS. fp32: what a graph computes in float32 is not rounded to fewer bits; bf16: it is
            rounded to bfloat16 where the provider does so.
    """

    name: str
    reason: str
    gpu: int | None = None
    precision: str = FP32

    @property
    def device(self) -> int:
        """Number of the GPU, the first one if none was asked for; 0 on a CPU."""
        return self.gpu or 0

    @property
    def on_cpu(self) -> bool:
        return self.name == "cpu" or (self.name == "openvino" and self.gpu is None)

    def computes_in(self, precision: str) -> str:
        """The precision of what it makes of graphs of this precision."""
        return precision if self.precision == FP32 else self.precision
