"""How far an exported graph is from PyTorch, measured at every export (DESIGN §10)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dpd_export.graphs.half import Ranges
from dpd_export.graphs.parts import Graph
from dpd_runtime.engines.engine import Engine
from dpd_runtime.errors import ParityError

INT8 = "int8"
LIMITS = {"fp32": 1e-3}
REDUCED_LIMIT = 2e-2
"""Of the output's scale, for every precision with fewer bits."""
INT8_LIMIT = 0.5
"""Of the output's scale, on inputs from generating: a graph beyond is broken. What int8 is judged by are its images: a
tenth in a v-prediction of the last steps, which hardly moves a latent, is usual.
"""
BATCHES = (1, 3)
MOST_ROWS = 4
LARGE_BATCHES, LARGE_ROWS = (1, 2), 1
"""For modules of which a row takes seconds."""
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Probe:
    """Inputs of a graph and what PyTorch makes of them in float32."""

    inputs: Tensors
    expected: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probes:
    """Args: ranges: what the module's activations reached meanwhile."""

    random: tuple[Probe, ...]
    generated: tuple[Probe, ...]
    ranges: Ranges


def random_inputs(graph: Graph, batches: Sequence[int], seed: int = 1) -> list[Tensors]:
    """Rows of the examples with a little noise on them, in batches of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for batch in batches:
        inputs = []
        for example in graph.examples:
            if example.ndim == 0:
                inputs.append(torch.randint(1000, (), generator=generator))
                continue
            rows = torch.randint(len(example), (batch,), generator=generator)
            chosen = example[rows]
            if chosen.is_floating_point():
                chosen = 0.9 * chosen + 0.1 * torch.randn(chosen.shape, generator=generator)
            inputs.append(chosen)
        drawn.append(tuple(inputs))
    return drawn


@torch.no_grad()
def probe(graph: Graph, generated: Sequence[Tensors], *, large: bool = False) -> Probes:
    """Ask PyTorch, before the module is changed in any way.

    Args:
        generated: inputs that came up in generating; the first rows of each are taken.
    """
    batches, rows = (LARGE_BATCHES, LARGE_ROWS) if large else (BATCHES, MOST_ROWS)
    drawn = random_inputs(graph, batches)
    made = [tuple(x[:rows] if x.ndim else x for x in inputs) for inputs in generated]
    with Ranges() as ranges:
        found = [[Probe(x, graph.module(*x).numpy()) for x in inputs] for inputs in (drawn, made)]
    return Probes(tuple(found[0]), tuple(found[1]), ranges)


def largest_difference(names: Sequence[str], engine: Engine, probes: Sequence[Probe], precision: str) -> float:
    """Largest |ONNX − PyTorch|; relative to the output's scale for all but fp32. Infinite where it is not a number.

    Args:
        names: of the graph's inputs.
    """
    worst = 0.0
    for one in probes:
        named = zip(names, one.inputs, strict=True)
        found = engine.run(**{name: value.numpy() for name, value in named})
        if found.shape != one.expected.shape or not np.isfinite(found).all():
            return float("inf")  # max() below would forget a NaN
        scale = 1.0 if precision in LIMITS else float(np.abs(one.expected).max()) or 1.0
        worst = max(worst, float(np.abs(found - one.expected).max()) / scale)
    return worst


@torch.no_grad()
def half_difference(module: nn.Module, probes: Sequence[Probe]) -> float:
    """Largest |PyTorch in half precision − in float32| of one row of each probe, relative to the output's scale.

    ONNX Runtime computes half-precision graphs in float32 on a CPU; this says what devices that do not will see.
    """
    worst = 0.0
    for one in probes:
        found = module(*(x[:1] if x.ndim else x for x in one.inputs)).numpy()
        if not np.isfinite(found).all():
            return float("inf")
        expected = one.expected[:1]
        worst = max(worst, float(np.abs(found - expected).max()) / (float(np.abs(expected).max()) or 1.0))
    return worst


def check(path: str, difference: float, precision: str) -> None:
    """Raises:
    ParityError: beyond the limit of this precision.
    """
    limit = INT8_LIMIT if precision == INT8 else LIMITS.get(precision, REDUCED_LIMIT)
    if not difference <= limit:
        raise ParityError(
            f"{path} differs from PyTorch by {difference:.2e}, more than {limit:.0e} for {precision}; "
            "nothing was written: try --precision fp32"
        )
