"""Compile one part: from PyTorch to a checked ONNX file, with its cost and its distance from PyTorch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxscript import ir
from torch import nn

from dpd_export.graphs import (
    Calibration,
    Graph,
    HalfPrecision,
    Ranges,
    Tensors,
    export_graph,
    halve,
    store_weights_as_half,
    wants_wide_scores,
)
from dpd_export.int8 import PART as INT8_PART
from dpd_export.int8 import Speed, compare_speed, quantize
from dpd_export.options import INT8, LARGEST_FILE
from dpd_export.peak_memory import peak_bytes, reset_peak
from dpd_runtime.annotations import Float32
from dpd_runtime.engines import Engine, Provider
from dpd_runtime.errors import ParityError
from dpd_runtime.graph_check import WEIGHTS_NAME, check_graph
from dpd_runtime.sessions import OnnxRuntimeEngine
from dpd_runtime.text import counted

# -- Write an ONNX model to one file, or to a file with its weights beside it, and check it.


SMALLEST_OUTSIDE = 1024  # bytes; smaller tensors stay in the graph, where shape inference reads them


def write_graph(model: ir.Model, path: Path, *, largest_file: int = LARGEST_FILE) -> list[Path]:
    """Write the model, run onnx.checker with shape inference, and return the files written.

    Args:
        largest_file: more bytes of weights than this go into `model.onnx_data` beside the graph.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if weights <= largest_file:
        ir.save(model, path)
        files = [path]
    else:
        ir.save(model, path, external_data=WEIGHTS_NAME, size_threshold_bytes=SMALLEST_OUTSIDE)
        files = [path, path.with_name(WEIGHTS_NAME)]
    onnx.checker.check_model(str(path), full_check=True)
    return files


# -- Measure at every export how far a graph is from PyTorch (docs/reference/graphs.md).


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


# -- Compile one part: from PyTorch to a checked ONNX file, with its cost and its distance from PyTorch.


@dataclass(frozen=True)
class Compiled:
    """A graph on disk and what was measured of it.

    Args:
        files: the graph and, for a large one, its weights.
        seconds: of compiling and checking.
        peak_memory: most bytes that the process held meanwhile; 0 if the system does not report it.
        random, generated: largest difference from PyTorch on random batches and on inputs from generation.
        half: largest difference of PyTorch's own half precision from its float32; None if it was not measured.
        whole_bytes: size of the float32 graph that an int8 graph was made from; 0 for other graphs.
        speed: of both those graphs; None for other graphs.
        unusual: operators that a site accepts only in a bundle that a trusted key signed.
    """

    path: str
    files: tuple[Path, ...]
    bytes: int
    seconds: float
    peak_memory: int
    random: float
    generated: float
    half: float | None
    whole_bytes: int = 0
    speed: Speed | None = None
    unusual: tuple[str, ...] = ()

    def entries(self) -> dict[str, float]:
        """The manifest's parity figures of this graph."""
        figures = {self.path: self.random, self.path + GENERATED: self.generated}
        figures |= {self.path + HALF: self.half} if self.half is not None else {}
        return figures | ({self.path + SMALLER: round(self.whole_bytes / self.bytes, 2)} if self.speed else {})

    def line(self) -> str:
        """One line of progress for stderr."""
        parts = [f"{self.path}: {self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s"]
        parts += [f"peak memory {self.peak_memory / 1e9:.2f} GB"] if self.peak_memory else []
        parts.append(f"differs from PyTorch by {self.random:.1e}, on generated latents {self.generated:.1e}")
        parts += [f"in half precision {self.half:.1e}"] if self.half is not None else []
        if self.speed is not None:
            parts.append(f"{self.whole_bytes / self.bytes:.1f} times smaller than in fp32")
            for threads, milliseconds in self.speed.whole_ms.items():
                times = milliseconds / self.speed.small_ms[threads]
                parts.append(f"{times:.1f} times as fast on {counted(threads, 'thread')}")
        if self.unusual:
            parts.append(f"sites accept {', '.join(self.unusual)} only in a signed bundle")
        return ", ".join(parts)


def precision_of(part: str, precision: str) -> str:
    """The precision of one part: int8 is for the UNet, which takes most of the time; other parts get fp16-weights."""
    return "fp16-weights" if precision == INT8 and part != INT8_PART else precision


def compile_graph(
    graph: Graph,
    probes: Probes,
    precision: str,
    folder: Path,
    *,
    run_half: bool,
    largest_file: int = LARGEST_FILE,
    calibration: Calibration | None = None,
) -> Compiled:
    """Trace a graph, write it under `folder`, check it and compare it with PyTorch.

    In fp16 the module's weights become float16 in place: afterwards the module is of no use in float32.

    Args:
        run_half: run PyTorch in half precision too, which takes minutes for a large module on a CPU.
        calibration: needed for int8.

    Raises:
        ParityError: the graph is too far from PyTorch, or its values exceed half precision.
    """
    reset_peak()
    started = time.monotonic()
    half, calls = None, calibration.calls if calibration else []
    if precision == "fp16":
        graph = _halved(graph, probes)
        if run_half:
            half = half_difference(graph.module, (probes.random[0], *probes.generated))
            check(graph.path, half, precision)
    files, whole = _write(graph, precision, folder / graph.path, largest_file, calls)
    engine, unusual = _load(graph.path, files)
    speed = None
    if calibration and whole:
        speed = compare_speed(whole, files[0].read_bytes(), graph.inputs, calibration.one_call())
    random, generated = (
        largest_difference(graph.inputs, engine, chosen, precision) for chosen in (probes.random, probes.generated)
    )
    for difference in (generated,) if precision == INT8 else (random, generated):
        check(graph.path, difference, precision)
    return Compiled(
        path=graph.path,
        files=tuple(files),
        bytes=sum(file.stat().st_size for file in files),
        seconds=round(time.monotonic() - started, 1),
        peak_memory=peak_bytes(),
        random=random,
        generated=generated,
        half=half,
        whole_bytes=len(whole),
        speed=speed,
        unusual=unusual,
    )


def _halved(graph: Graph, probes: Probes) -> Graph:
    """The graph with its module in half precision."""
    probes.ranges.check(graph.path)
    halve(graph.module)
    wide = wants_wide_scores(graph.module) or probes.ranges.wide_scores
    return replace(graph, module=HalfPrecision(graph.module, wide))


def _write(
    graph: Graph, precision: str, path: Path, largest_file: int, calls: Sequence[Tensors]
) -> tuple[list[Path], bytes]:
    """The files written, and the float32 graph that int8 was made from (else empty).

    The model in memory is released before the graph is loaded again for comparison.
    """
    model, whole = export_graph(graph), b""
    if precision == INT8:
        model, whole = quantize(model, graph.inputs, calls)
    if precision in ("fp16-weights", INT8):
        store_weights_as_half(model)
    return write_graph(model, path, largest_file=largest_file), whole


def _load(path: str, files: Sequence[Path]) -> tuple[OnnxRuntimeEngine, tuple[str, ...]]:
    """The graph as a site loads it from a signed bundle, and the operators for which it must be signed."""
    content = [file.read_bytes() for file in files]
    unusual = check_graph(path, content[0], sum(map(len, content[1:])), trusted=True)
    outside = {WEIGHTS_NAME: content[1]} if len(content) > 1 else None
    return OnnxRuntimeEngine(content[0], Provider("cpu", "parity"), weights=outside, name=path), unusual
