"""One part from PyTorch to checked ONNX files, with what it cost and how far it is from PyTorch."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from dpd_export.graphs.calibration import Calibration, in_batch
from dpd_export.graphs.files import LARGEST_FILE, write_graph
from dpd_export.graphs.half import HalfPrecision, halve, wants_wide_scores
from dpd_export.graphs.int8 import PART as INT8_PART
from dpd_export.graphs.int8 import Speed, compare_speed, quantize
from dpd_export.graphs.parity import INT8, Probes, check, half_difference, largest_difference
from dpd_export.graphs.parts import Graph
from dpd_export.graphs.peak_memory import peak_bytes, reset_peak
from dpd_export.graphs.trace import export_graph, store_weights_as_half
from dpd_runtime.bundle.graph_check import check_graph
from dpd_runtime.bundle.verified import WEIGHTS_NAME
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.onnxruntime import OnnxRuntimeEngine
from dpd_runtime.errors import InputError

PRECISIONS = {
    "fp32": "float32 throughout",
    "fp16": "half precision with islands of float32",
    "fp16-weights": "float16 weights, float32 arithmetic",
    INT8: "the UNet's convolutions and feed-forward layers in 8 bits, the rest as in fp16-weights",
}


def check_precision(precision: str) -> None:
    """Raises:
    InputError: none of ours.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Compiled:
    """Args:
    files: the graph and, for a large one, its weights.
    peak_memory: bytes that the process held at most meanwhile; 0 where the system does not tell.
    random, generated: largest difference from PyTorch on drawn batches, and on inputs that came up in generating.
    half: the same of PyTorch's own half precision, where it was measured.
    largest: largest |activation| in PyTorch.
    whole_bytes: of the float32 graph that an int8 one was made from, and speed: of both; 0 and None for the others.
    """

    path: str
    files: tuple[Path, ...]
    bytes: int
    weights: int
    seconds: float
    peak_memory: int
    random: float
    generated: float
    half: float | None
    largest: float
    whole_bytes: int = 0
    speed: Speed | None = None


def precision_of(part: str, precision: str) -> str:
    """int8 is for the UNet, which takes nearly all of the time; the other parts get float16 weights then."""
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
    """Trace, write under `folder`, check, compare. In fp16 the module's weights become float16: it is used up.

    Args:
        run_half: run PyTorch in half precision too, which takes minutes for a large module on a CPU.
        calibration: for int8.

    Raises:
        ParityError: too far from PyTorch, or beyond what half precision holds.
    """
    reset_peak()
    started = time.monotonic()
    half, weights = None, graph.weights
    if precision == "fp16":
        probes.ranges.check(graph.path)
        halve(graph.module)
        wide = wants_wide_scores(graph.module) or probes.ranges.wide_scores
        graph = replace(graph, module=HalfPrecision(graph.module, wide))
        if run_half:
            half = half_difference(graph.module, (probes.random[0], *probes.generated))
            check(graph.path, half, precision)
    model = export_graph(graph)
    whole = b""
    if precision == INT8:
        assert calibration is not None
        model, whole = quantize(model, graph.inputs, calibration.calls)
    if precision in ("fp16-weights", INT8):
        store_weights_as_half(model)
    files = write_graph(model, folder / graph.path, largest_file=largest_file)
    path, names = graph.path, graph.inputs
    del model, graph  # the engine below needs the memory
    content = [file.read_bytes() for file in files]
    outside = {WEIGHTS_NAME: content[1]} if len(content) > 1 else None
    check_graph(path, content[0], sum(map(len, content[1:])))  # a site would refuse it
    engine = OnnxRuntimeEngine(content[0], Provider("cpu", "parity"), weights=outside, name=path)
    speed = None
    if calibration is not None and whole:
        speed = compare_speed(whole, content[0], names, in_batch(calibration.calls, calibration.batch))
    del content, outside
    random, generated = (
        largest_difference(names, engine, chosen, precision) for chosen in (probes.random, probes.generated)
    )
    for difference in (generated,) if precision == INT8 else (random, generated):
        check(path, difference, precision)
    return Compiled(
        path=path,
        files=tuple(files),
        bytes=sum(file.stat().st_size for file in files),
        weights=weights,
        seconds=round(time.monotonic() - started, 1),
        peak_memory=peak_bytes(),
        random=random,
        generated=generated,
        half=half,
        largest=probes.ranges.largest,
        whole_bytes=len(whole),
        speed=speed,
    )


def told(done: Compiled) -> str:
    """One line for the progress on stderr."""
    parts = [f"{done.path}: {done.bytes / 1e6:.1f} MB, {done.seconds:.0f} s"]
    parts += [f"peak memory {done.peak_memory / 1e9:.2f} GB"] if done.peak_memory else []
    parts.append(f"differs from PyTorch by {done.random:.1e}, on generated latents {done.generated:.1e}")
    parts += [f"in half precision {done.half:.1e}"] if done.half is not None else []
    if done.speed is not None:
        parts.append(f"{done.whole_bytes / done.bytes:.1f} times smaller than in fp32")
        for threads, milliseconds in done.speed.whole_ms.items():
            times = milliseconds / done.speed.small_ms[threads]
            parts.append(f"{times:.1f} times as fast on {threads} thread{'s' if threads > 1 else ''}")
    return ", ".join(parts)
