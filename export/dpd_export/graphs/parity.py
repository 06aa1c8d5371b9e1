"""Measure at every export how far a graph is from PyTorch (docs/reference/graphs.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dpd_export.graphs.half import Ranges
from dpd_export.graphs.parts import Graph, Tensors
from dpd_export.options import INT8
from dpd_runtime.annotations import Float32
from dpd_runtime.engines.engine import Engine
from dpd_runtime.errors import ParityError

GENERATED, HALF, SMALLER = "#generated", "#half", "#smaller"
"""Endings of a graph's path in the manifest's parity: on inputs from generation; of PyTorch in half precision; how
many times smaller int8 made the graph.
"""
LIMITS = {"fp32": 1e-3}
REDUCED_LIMIT = 2e-2
"""Relative to the output's scale, for every precision with fewer bits."""
INT8_LIMIT = 0.5
"""Relative to the output's scale, on inputs from generation; beyond it a graph is broken. Int8 is judged on its images:
a tenth is usual for the v-prediction of the last steps, which hardly moves a latent.
"""
BATCHES = (1, 3)
MOST_ROWS = 4
LARGE_BATCHES, LARGE_ROWS = (1, 2), 1
"""For modules that take seconds per row."""


@dataclass(frozen=True)
class Probe:
    """Inputs of a graph, and PyTorch's float32 output for them."""

    inputs: Tensors
    expected: Float32


@dataclass(frozen=True)
class Probes:
    """Random inputs and inputs from generation, and the largest activations that they caused."""

    random: tuple[Probe, ...]
    generated: tuple[Probe, ...]
    ranges: Ranges


def random_inputs(graph: Graph, batches: Sequence[int], seed: int = 1) -> list[Tensors]:
    """Random rows of the examples with a little noise, one batch of each size."""
    generator = torch.Generator().manual_seed(seed)
    made = []
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
        made.append(tuple(inputs))
    return made


@torch.no_grad()
def probe(graph: Graph, generated: Sequence[Tensors], *, large: bool = False) -> Probes:
    """Run PyTorch in float32, before the module is changed.

    Args:
        generated: inputs recorded during generation; the first rows of each are used.
        large: the module takes seconds per row; use fewer rows.
    """
    batches, rows = (LARGE_BATCHES, LARGE_ROWS) if large else (BATCHES, MOST_ROWS)
    random = random_inputs(graph, batches)
    made = [tuple(x[:rows] if x.ndim else x for x in inputs) for inputs in generated]
    with Ranges() as ranges:
        probes = [[Probe(x, graph.module(*x).numpy()) for x in inputs] for inputs in (random, made)]
    return Probes(tuple(probes[0]), tuple(probes[1]), ranges)


def largest_difference(names: Sequence[str], engine: Engine, probes: Sequence[Probe], precision: str) -> float:
    """Largest |ONNX − PyTorch|, relative to the output's scale except in fp32; infinite for NaN or a wrong shape.

    Args:
        names: names of the graph's inputs.
    """
    worst = 0.0
    for one in probes:
        named = zip(names, one.inputs, strict=True)
        output = engine.run(**{name: value.numpy() for name, value in named})
        if output.shape != one.expected.shape or not np.isfinite(output).all():
            return float("inf")  # max() below would ignore a NaN
        scale = 1.0 if precision in LIMITS else float(np.abs(one.expected).max()) or 1.0
        worst = max(worst, float(np.abs(output - one.expected).max()) / scale)
    return worst


@torch.no_grad()
def half_difference(module: nn.Module, probes: Sequence[Probe]) -> float:
    """Largest |PyTorch in half precision − in float32| of one row of each probe, relative to the output's scale.

    On a CPU, ONNX Runtime computes half-precision graphs in float32. This measures what other devices will see.
    """
    worst = 0.0
    for one in probes:
        output = module(*(x[:1] if x.ndim else x for x in one.inputs)).numpy()
        if not np.isfinite(output).all():
            return float("inf")
        expected = one.expected[:1]
        worst = max(worst, float(np.abs(output - expected).max()) / (float(np.abs(expected).max()) or 1.0))
    return worst


def check(path: str, difference: float, precision: str) -> None:
    """Compare a difference with the limit of its precision.

    Raises:
        ParityError: the difference exceeds it.
    """
    limit = INT8_LIMIT if precision == INT8 else LIMITS.get(precision, REDUCED_LIMIT)
    if not difference <= limit:
        raise ParityError(
            f"{path} differs from PyTorch by {difference:.2e}, more than {limit:.0e} for {precision}; "
            "nothing was written: try --precision fp32"
        )
