"""The protocol of an engine: named arrays in, one array out."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dpd_runtime.annotations import Array
from dpd_runtime.errors import BundleError

PRECISIONS = FP32, BF16 = "fp32", "bf16"


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
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.shape != shape:
        kind = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        raise BundleError(f"{graph} gave {kind} instead of floats {list(shape)}; export the bundle again")
    return output


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
