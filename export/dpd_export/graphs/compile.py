"""Compile one part: from PyTorch to a checked ONNX file, with its cost and its distance from PyTorch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dpd_export.graphs.calibration import Calibration
from dpd_export.graphs.files import write_graph
from dpd_export.graphs.half import HalfPrecision, halve, wants_wide_scores
from dpd_export.graphs.int8 import PART as INT8_PART
from dpd_export.graphs.int8 import Speed, compare_speed, quantize
from dpd_export.graphs.parity import GENERATED, HALF, SMALLER, Probes, check, half_difference, largest_difference
from dpd_export.graphs.parts import Graph, Tensors
from dpd_export.graphs.peak_memory import peak_bytes, reset_peak
from dpd_export.graphs.trace import export_graph, store_weights_as_half
from dpd_export.options import INT8, LARGEST_FILE
from dpd_runtime.bundle.graph_check import WEIGHTS_NAME, check_graph
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.onnxruntime import OnnxRuntimeEngine
from dpd_runtime.text import counted


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
