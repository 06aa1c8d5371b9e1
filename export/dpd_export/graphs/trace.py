"""Trace a PyTorch module to ONNX in memory with the dynamo exporter, with named axes and no traces of this machine."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from onnxscript import ir

from dpd_export.graphs.half import HalfPrecision
from dpd_export.graphs.parts import BATCH, Graph

OPSET = 18
SMALLEST_HALVED = 256  # elements; for fewer, a Cast costs more than it saves
QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
QUIET = ("onnxscript", "onnx_ir", "torch.onnx._internal.exporter._registration")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's advice, which is meant for authors of models."""
    loggers = [logging.getLogger(name) for name in QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _dynamic_shapes(graph: Graph) -> tuple[dict[int, Any] | None, ...]:
    """The variable axes of each input, for torch.export; other axes are as in the example."""
    batch = torch.export.Dim(BATCH, min=1, max=4096)
    named = {name: torch.export.Dim(name, min=1, max=1024) for pair in graph.sides.values() for name in pair}
    shapes: list[dict[int, Any] | None] = []
    for name, example in zip(graph.inputs, graph.examples, strict=True):
        axes: dict[int, Any] = {0: batch} if example.ndim else {}
        for axis, side in enumerate(graph.sides.get(name, ()), start=2):
            axes[axis] = graph.multiple * named[side] if graph.multiple > 1 else named[side]
        shapes.append(axes or None)
    return tuple(shapes)


def export_graph(graph: Graph) -> ir.Model:
    """Trace `graph.module` as it is: float32, or a `HalfPrecision`."""
    module = graph.module.eval()
    shapes = _dynamic_shapes(graph)
    with _quiet():
        program = torch.onnx.export(
            module,
            graph.examples,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(shapes,) if isinstance(module, HalfPrecision) else shapes,  # its inputs are one *tuple
            verbose=False,
        )
    assert program is not None
    model: ir.Model = program.model
    _leave_sizes_to_reshape(model)
    _name_axes(model, graph)
    remove_metadata(model)
    return model


def _leave_sizes_to_reshape(model: ir.Model) -> None:
    """Let Reshape find the one size of a tensor that the graph computes by a division of sizes.

    Around attention the exporter divides by the number of rows. Sites refuse a division of whole numbers by what is
    computed, because a zero there stops the process (`dpd_runtime.bundle.graph_check`).
    """
    divisions = [node for node in model.graph if node.op_type == "Div" and node.outputs[0].dtype == ir.DataType.INT64]
    divisions = [node for node in divisions if node.inputs[1] is not None and node.inputs[1].const_value is None]
    for node in divisions:
        for use, _ in list(node.outputs[0].uses()):  # a scalar becomes a list of one size
            if use.op_type == "Reshape" and all(user.op_type == "Concat" for user, _ in use.outputs[0].uses()):
                rest = ir.Value(name=f"{use.outputs[0].name}_rest", shape=ir.Shape([1]), type=node.outputs[0].type)
                rest.const_value = ir.tensor(np.array([-1], np.int64), name=rest.name)
                model.graph.register_initializer(rest)
                ir.convenience.replace_all_uses_with(use.outputs[0], rest)
    for node in reversed(list(model.graph)) if divisions else ():  # what only they needed
        if not any(out.uses() or out in model.graph.outputs for out in node.outputs):
            model.graph.remove(node, safe=True)


def _name_axes(model: ir.Model, graph: Graph) -> None:
    """Name the variable axes: other tools compute an output's size from the names of its axes."""
    for value in model.graph.inputs:
        for axis, side in enumerate(graph.sides.get(str(value.name), ()), start=2):
            _rename(value, axis, side)
    for axis, side in enumerate(graph.output_sides or (), start=2):
        _rename(model.graph.outputs[0], axis, side)


def _rename(value: ir.Value, axis: int, name: str) -> None:
    assert value.shape is not None
    dims = list(value.shape)
    dims[axis] = ir.SymbolicDim(name)
    value.shape = ir.Shape(dims)


def remove_metadata(model: ir.Model) -> None:
    """Delete what the exporter leaves of this machine: stack traces, paths, names of source files."""
    model.producer_name, model.producer_version, model.domain, model.doc_string = "dpd", None, None, None
    model.metadata_props.clear()
    for graph in (model.graph, *(function.graph for function in model.functions.values()), *model.graph.subgraphs()):
        graph.doc_string = None
        graph.metadata_props.clear()
        values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
        for node in graph:
            node.doc_string = None
            node.metadata_props.clear()
            values += node.outputs
        for value in values:
            value.doc_string = None
            value.metadata_props.clear()


def store_weights_as_half(model: ir.Model) -> None:
    """Store weights as float16, each followed by a Cast to float32. Scales of int8 weights stay as they are."""
    casts = []
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        scale = any(node.op_type in QUANTIZED for node, _ in value.uses())
        if scale or tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < SMALLEST_HALVED:
            continue
        stored = ir.Value(name=f"{name}_fp16", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
        stored.const_value = ir.tensor(tensor.numpy().astype(np.float16), name=stored.name)
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{name}_cast")
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        model.graph.initializers.pop(name)
        cast.outputs[0].name = name
        model.graph.register_initializer(stored)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        casts.append(cast)
    model.graph.insert_before(model.graph[0], casts)
