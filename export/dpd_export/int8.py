"""Quantise a float32 graph with ONNX Runtime's quantizer: int8 weights, uint8 activations.

The graph gets QuantizeLinear and DequantizeLinear nodes, static ranges from calibration, and one scale per output
channel. These stay in float: the first and the last convolution, 1 × 1 convolutions (shortcuts, which double the error
and take little time), attention, and the embeddings of time and text.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
from onnxscript import ir

from dpd_export.graphs import Tensors, remove_metadata
from dpd_runtime.annotations import Array
from dpd_runtime.engines import Provider
from dpd_runtime.errors import InputError
from dpd_runtime.machine import usable_cores
from dpd_runtime.sessions import OnnxRuntimeEngine
from dpd_runtime.telemetry import import_onnxruntime

PART = "unet"
FEED_FORWARD = 4
"""Feed-forward layers widen the channels 8 times (GEGLU) and narrow them 4 times; attention's products never do."""
ROUNDS = 9
Named = dict[str, Array]


@dataclass(frozen=True)
class Speed:
    """Median milliseconds of one call of a graph and of a smaller one, by number of threads.

    Args:
        batch: rows in the call.
    """

    batch: int
    whole_ms: Mapping[int, float]
    small_ms: Mapping[int, float]


def check_size(large: bool) -> None:
    """Refuse int8 for a large base, whose few reference images say nothing about int8.

    Raises:
        InputError: the base is large.
    """
    if large:
        raise InputError(
            "int8 is judged on a hundred generated images, which would take hours for a base of this size; "
            "use --precision fp16"
        )


def quantized_nodes(model: ir.Model) -> list[str]:
    """Names of the nodes that become int8: convolutions and feed-forward products."""
    outputs = {id(value) for value in model.graph.outputs}
    names = []
    for node in model.graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if weight is None or weight.const_value is None or node.name is None:
            continue
        border = node.inputs[0] in model.graph.inputs or id(node.outputs[0]) in outputs
        sides = weight.const_value.shape.numpy()
        convolution = node.op_type == "Conv" and not border and max(sides[2:]) > 1
        product = node.op_type == "MatMul" and len(sides) == 2 and max(sides) >= FEED_FORWARD * min(sides)
        if convolution or product:
            names.append(node.name)
    return names


def quantize(model: ir.Model, inputs: Sequence[str], calls: Sequence[Tensors]) -> tuple[ir.Model, bytes]:
    """The int8 graph, and the bytes of the float32 graph that it was made from.

    Args:
        inputs: names of the graph's inputs.
        calls: inputs that set the ranges.
    """
    onnxruntime = _quantization()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        whole, small = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        ir.save(model, whole)
        onnxruntime.quantize_static(
            whole,
            small,
            _reader([_named(inputs, call) for call in calls]),
            quant_format=onnxruntime.QuantFormat.QDQ,
            nodes_to_quantize=quantized_nodes(model),
            per_channel=True,
            activation_type=onnxruntime.QuantType.QUInt8,
            weight_type=onnxruntime.QuantType.QInt8,
            calibrate_method=onnxruntime.CalibrationMethod.MinMax,
        )
        made = ir.serde.deserialize_model(onnx.load(small))
        remove_metadata(made)
        made.metadata_props.update(model.metadata_props)
        return made, whole.read_bytes()


def compare_speed(whole: bytes, small: bytes, inputs: Sequence[str], call: Tensors) -> Speed:
    """Time both graphs on ONNX Runtime's CPU provider, in turn, on one thread and on all cores."""
    named = _named(inputs, call)
    medians: dict[int, list[float]] = {}
    for threads in sorted({1, usable_cores()}):
        engines = [OnnxRuntimeEngine(graph, Provider("cpu", "speed"), threads) for graph in (whole, small)]
        times: list[list[float]] = [[], []]
        for _ in range(1 + ROUNDS):
            for engine, own in zip(engines, times, strict=True):
                started = time.perf_counter()
                engine.run(**named)
                own.append(1e3 * (time.perf_counter() - started))
        medians[threads] = [round(statistics.median(own[1:]), 1) for own in times]
    whole_ms, small_ms = ({threads: pair[i] for threads, pair in medians.items()} for i in (0, 1))
    return Speed(len(call[0]), whole_ms, small_ms)


def _named(inputs: Sequence[str], call: Tensors) -> Named:
    return {name: value.contiguous().numpy() for name, value in zip(inputs, call, strict=True)}


def _quantization() -> Any:
    import_onnxruntime()
    return import_module("onnxruntime.quantization")


def _reader(calls: list[Named]) -> Any:
    class Reader(_quantization().CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(calls)

        def get_next(self) -> Named | None:
            return next(self._rest, None)

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice on preprocessing, which the exporter has done already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
