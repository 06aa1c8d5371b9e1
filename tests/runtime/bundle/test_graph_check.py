"""Graphs that loop, are random, or declare tensors larger than their bytes are refused before they are loaded."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from dpd_runtime.bundle.bundle import embedded_bundle, load_bundle
from dpd_runtime.bundle.graph_check import OPERATORS, check_graph
from dpd_runtime.engines.engine import Provider, run_to
from dpd_runtime.engines.onnxruntime import OnnxRuntimeEngine
from dpd_runtime.errors import BundleError, ProviderError

onnx = pytest.importorskip("onnx")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
CPU = Provider("cpu", "")


def model(nodes: Iterable[Any], tensors: Iterable[Any] = (), **more: Any) -> Any:
    """y from x [n, 2]."""
    ends = (helper.make_tensor_value_info(name, FLOAT, ["n", 2]) for name in ("x", "y"))
    x, y = ends
    graph = helper.make_graph(list(nodes), "g", [x], [y], list(tensors))
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10, **more)


def relu() -> Any:
    return model([helper.make_node("Relu", ["x"], ["y"])])


def looping() -> Any:
    """An endless loop in valid ONNX: ONNX Runtime would run it for ever."""
    yes = numpy_helper.from_array(np.array(True), "yes")
    condition = helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [])
    again = helper.make_tensor_value_info("again", onnx.TensorProto.BOOL, [])
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["again"])], "b", [count, condition], [again])
    loop = helper.make_node("Loop", ["", "yes"], [], body=body)
    return model([loop, helper.make_node("Relu", ["x"], ["y"])], [yes])


def allocating(size: int) -> Any:
    shape = numpy_helper.from_array(np.array([size], np.int64), "size")
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["large"])]
    nodes += [
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return model(nodes, [shape])


def sparse() -> Any:
    found = relu()
    tensor = found.graph.sparse_initializer.add()
    tensor.dims.extend([2**40])
    tensor.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    return found


def declared(*dims: int) -> Any:
    found = model([helper.make_node("Add", ["x", "w"], ["y"])], [numpy_helper.from_array(np.ones(2, np.float32), "w")])
    del found.graph.initializer[0].dims[:]
    found.graph.initializer[0].dims.extend(dims)
    return found


def in_a_constant() -> Any:
    tensor = helper.make_tensor("v", FLOAT, [2], [0.0, 0.0])
    del tensor.dims[:]
    tensor.dims.extend([2**20, 2**20])
    return model([helper.make_node("Constant", [], ["v"], value=tensor), helper.make_node("Add", ["x", "v"], ["y"])])


def function() -> Any:
    """An accepted operator, redefined."""
    found = relu()
    inner = helper.make_node("Neg", ["x"], ["y"])
    found.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [inner], [helper.make_opsetid("", 18)]))
    return found


def of_domain(operator: str, domain: str = "") -> Any:
    return model([helper.make_node(operator, ["x"], ["y"], domain=domain)])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (looping, r"operator 'Loop'"),
        (lambda: of_domain("If"), "operator 'If'"),
        (lambda: of_domain("RandomNormalLike"), "operator 'RandomNormalLike'"),
        (lambda: of_domain("NoSuch\x1b[2J"), r"operator 'NoSuch\\x1b"),
        (lambda: of_domain("EPContext", "com.microsoft"), "operator 'EPContext'"),
        (lambda: of_domain("Relu", "com.microsoft"), "operators of 'com.microsoft'"),
        (sparse, "sparse tensors"),
        (function, "functions"),
        (lambda: declared(2**40), "a tensor of shape .* in .* bytes"),
        (lambda: declared(2**20, 2**20), "a tensor of shape .* in .* bytes"),
        (lambda: declared(-1), "a tensor"),
        (lambda: declared(0, 2**62), "a tensor"),
        (in_a_constant, "a tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(made: Any, message: str) -> None:
    content = made().SerializeToString()
    with pytest.raises(BundleError, match=rf"^unet/model\.onnx: {message}.*; dpd export makes no such graph") as caught:
        check_graph("unet/model.onnx", content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"judge", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x0b\x0c", b"\x3a\x00" * 2]
)
def test_what_is_no_graph(content: bytes) -> None:
    with pytest.raises(BundleError, match="dpd export makes no such graph"):
        check_graph("unet/model.onnx", content)


def test_a_message_in_two_parts_is_seen_whole() -> None:
    """Protobuf joins them: the second half of the file adds nodes to the first half's graph."""
    content = relu().SerializeToString() + looping().SerializeToString()
    assert {node.op_type for node in onnx.load_model_from_string(content).graph.node} == {"Relu", "Loop"}
    with pytest.raises(BundleError, match="operator 'Loop'"):
        check_graph("unet/model.onnx", content)


def test_a_good_graph_is_accepted() -> None:
    check_graph("x.onnx", relu().SerializeToString())
    check_graph("x.onnx", declared(2).SerializeToString())
    check_graph("x.onnx", declared(1000).SerializeToString(), beside=4000)


def test_graphs_of_the_embedded_bundle_are_accepted() -> None:
    for name, content in load_bundle(embedded_bundle()).files.items():
        if name.endswith(".onnx"):
            check_graph(name, content)


def test_every_operator_is_one_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert known >= OPERATORS
    for schema in onnx.defs.get_all_schemas():  # none that holds a graph or handles sequences
        if schema.domain == "" and schema.name in OPERATORS:
            assert not any("GRAPH" in str(a.type) for a in schema.attributes.values()), schema.name
            kinds = {kind for end in (*schema.inputs, *schema.outputs) for kind in end.types}
            assert not any(kind.startswith(("seq", "optional", "map")) for kind in kinds) or schema.name == "Identity"


def test_memory_beyond_the_machine_is_refused_and_not_taken() -> None:
    pytest.importorskip("onnxruntime")
    content = allocating(2**42).SerializeToString()
    check_graph("x.onnx", content)  # the honest limit of reading a graph: sizes are computed inside it
    engine = OnnxRuntimeEngine(content, CPU, name="x.onnx")
    with pytest.raises(ProviderError, match=r"^x\.onnx needs more memory than is available") as caught:
        engine.run(x=np.ones((1, 2), np.float32))
    assert "\n" not in str(caught.value)


def test_a_graph_that_does_not_run_is_the_bundles_fault(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(BundleError, match=r"^x\.onnx cannot be run \("):
        OnnxRuntimeEngine(model([helper.make_node("Relu", ["absent"], ["y"])]).SerializeToString(), CPU, name="x.onnx")
    engine = OnnxRuntimeEngine(relu().SerializeToString(), CPU, name="x.onnx")
    with pytest.raises(BundleError, match=r"^x\.onnx cannot be run \(.*missing"):
        engine.run(latents=np.ones((1, 2), np.float32))
    with pytest.raises(BundleError, match=r"^x\.onnx cannot be run \("):
        engine.run(x=np.ones((1, 3), np.float32))
    with pytest.raises(BundleError, match=r"^x\.onnx gave float32 \[1, 2\] instead of floats \[1, 3\]"):
        run_to(engine, "x.onnx", (1, 3), x=np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(run_to(engine, "x.onnx", (1, 2), x=np.ones((1, 2), np.float32)), [[1.0, 1.0]])
    assert capfd.readouterr() == ("", "")  # onnxruntime's own talk would stand between the JSON of a command
