"""Where ONNX Runtime's CUDA provider would place the nodes of our graphs, by its own rule and without a GPU.

It leaves to the CPU what depends on tensors in the CPU's memory alone: sizes, and what is computed from them
(GetCpuPreferredNodes in core/framework/fallback_cpu_capability.cc). `check_placement` refuses a session in which other
operators are left there than it knows from sizes. So a graph with another one would not run on any GPU.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
from onnx import TensorProto, helper, shape_inference

from dpd_runtime import load_bundle
from dpd_runtime.bundle import weights_of
from dpd_runtime.engines import NAMES
from dpd_runtime.errors import ProviderError
from dpd_runtime.graph_check import WEIGHTS_NAME
from dpd_runtime.sessions import check_placement

onnxruntime = pytest.importorskip("onnxruntime")
CUDA, CPU = NAMES["cuda"], NAMES["cpu"]
SIZES = ("Shape", "Size")
"""Operators whose output the CUDA provider puts into the CPU's memory."""
READ_ON_CPU = {
    "ConstantOfShape": {0},
    "Expand": {1},
    "Pad": {1, 2, 3},
    "Range": {0, 1, 2},
    "ReduceMean": {1},
    "Reshape": {1},
    "Resize": {1, 2, 3},
    "Slice": {1, 2, 3, 4},
    "Split": {1},
    "Squeeze": {1},
    "Tile": {1},
    "Unsqueeze": {1},
}
"""The inputs that its kernels read from the CPU's memory (InputMemoryType in their registrations)."""
SMALL = 100
"""Most elements of a constant that may be copied to the CPU."""


def left_to_cpu(model: onnx.ModelProto) -> set[int]:
    """The numbers of the nodes that the provider leaves to the CPU."""
    graph = shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    constants = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    given = {entry.name for entry in graph.input}
    users = defaultdict(set)
    for number, node in enumerate(graph.node):
        for name in node.input:
            users[name].add(number)
    on_cpu = {name for node in graph.node if node.op_type in SIZES for name in node.output}
    candidates = set().union(*(users[name] for name in on_cpu))
    left: set[int] = set()
    while candidates:
        number = min(candidates)
        candidates.remove(number)
        node = graph.node[number]
        inputs = [(place, name) for place, name in enumerate(node.input) if name]
        if any(types.get(name) in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for _, name in inputs):
            continue
        free = [(place, name) for place, name in inputs if name not in given and constants.get(name, SMALL + 1) > SMALL]
        if all(name in on_cpu and place not in READ_ON_CPU.get(node.op_type, ()) for place, name in free):
            left.add(number)
            on_cpu |= set(node.output)
            candidates |= set().union(*(users[name] for name in node.output)) - left
    return left


def check(model: onnx.ModelProto) -> None:
    left = left_to_cpu(model)
    types = {
        value.name: value.type.tensor_type.elem_type for value in shape_inference.infer_shapes(model).graph.value_info
    }
    made = [name for number in left for name in model.graph.node[number].output]
    assert {types[name] for name in made} <= {TensorProto.INT64}, "sizes only"
    nodes = [(CPU if n in left else CUDA, node.op_type, node.name) for n, node in enumerate(model.graph.node)]
    check_placement(nodes, "cuda", CUDA)


def simplified(graph: bytes, weights: bytes | None, folder: Path) -> onnx.ModelProto:
    """The graph as ONNX Runtime has it when it places nodes: constants are folded, nothing is fused yet."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "simplified.onnx")
    if weights is not None:
        options.add_external_initializers_from_files_in_memory([WEIGHTS_NAME], [weights], [len(weights)])
    onnxruntime.InferenceSession(graph, options, providers=[CPU])
    return onnx.load(folder / "simplified.onnx")


@pytest.mark.full
@pytest.mark.parametrize("name", ["embedded", "bundle", "half_bundle"])
def test_every_graph_stays_on_the_gpu_but_for_sizes(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle = load_bundle(None if name == "embedded" else request.getfixturevalue(name))
    graphs = [path for path in bundle.files if path.endswith(".onnx")]
    assert len(graphs) >= 5
    for path in graphs:
        check(simplified(bundle.files[path], bundle.files.get(weights_of(path)), tmp_path))


def raised_size(dtype: int) -> onnx.ModelProto:
    """x → its first size, cast and squared, as the shape of a tensor of ones."""
    two = helper.make_tensor("two", dtype, [1], [2])
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], end=1),
        helper.make_node("Cast", ["sizes"], ["cast"], to=dtype),
        helper.make_node("Pow", ["cast", "two"], ["squared"]),
        helper.make_node("Cast", ["squared"], ["shape"], to=TensorProto.INT64),
        helper.make_node("ConstantOfShape", ["shape"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "sizes", ends[:1], ends[1:], [two])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_the_rule_finds_what_depends_on_sizes_alone() -> None:
    with pytest.raises(ProviderError, match=r"3 nodes would run elsewhere, such as Cast"):
        check(raised_size(TensorProto.INT64))
    in_half = raised_size(TensorProto.FLOAT16)
    assert {in_half.graph.node[number].op_type for number in left_to_cpu(in_half)} == {"Cast"}, "not the square"
