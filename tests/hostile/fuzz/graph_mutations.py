"""Hostile graphs: damaged protobuf, and whole ONNX models which say something else than dpd export writes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.hostile.fuzz.material import Material
from tests.hostile.fuzz.wire import PLACES, WIDE, appended, field, varint

Change = Callable[[st.DrawFn, Any], None]
GRAPHS = ("unet/model.onnx", "vae_decoder/model.onnx", "latent_classifier/model.onnx")
LARGE = st.one_of(st.integers(-3, 300), st.sampled_from([10**6, 10**9, 2**31, 2**40, 2**62, -(2**63)]))
STRANGE = [("Loop", ""), ("If", ""), ("Scan", ""), ("RandomNormal", ""), ("SequenceConstruct", ""), ("NoSuchOp", "")]
STRANGE += [("EPContext", "com.microsoft"), ("FusedConv", "com.microsoft"), ("PyOp", "evil"), ("Relu", "ai.onnx.ml")]
OTHERS = ["Relu", "Add", "Mul", "Reshape", "Expand", "Tile", "Shape", "Range", "ConstantOfShape", "Pad", "Resize"]


def initialisers_of_shapes(graph: Any) -> list[Any]:
    """Small int64 constants: shapes, axes, repeats."""
    return [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT64 and 0 < np.prod(t.dims) <= 8]


@st.composite
def graph_bytes(draw: st.DrawFn, material: Material) -> Material:
    """Flipped bytes, most where the structure is, or a file cut short."""
    name = draw(st.sampled_from(GRAPHS))
    raw = bytearray(material.files[name])
    near = st.integers(0, min(len(raw), 20_000) - 1)
    for _ in range(draw(st.integers(1, 5))):
        raw[draw(near | st.integers(0, len(raw) - 1))] ^= draw(st.integers(1, 255))
    return material.with_file(
        name, bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 5)) == 0 else raw)
    )


def change_operator(draw: st.DrawFn, graph: Any) -> None:
    node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
    node.op_type, node.domain = draw(st.sampled_from([*STRANGE, *((name, "") for name in OTHERS)]))


def change_attribute(draw: st.DrawFn, graph: Any) -> None:
    nodes = [node for node in graph.node if any(a.ints or a.type == a.INT for a in node.attribute)]
    node = nodes[draw(st.integers(0, len(nodes) - 1))] if nodes else None
    for attribute in node.attribute if node else ():
        if attribute.type == attribute.INT:
            attribute.i = max(-(2**63), min(2**63 - 1, draw(LARGE)))
        for place in range(len(attribute.ints)):
            attribute.ints[place] = draw(LARGE)


def change_shapes(draw: st.DrawFn, graph: Any) -> None:
    found = initialisers_of_shapes(graph)
    if found:
        tensor = found[draw(st.integers(0, len(found) - 1))]
        values = [draw(LARGE) for _ in range(int(np.prod(tensor.dims)))]
        tensor.CopyFrom(numpy_helper.from_array(np.array(values, np.int64).reshape(tensor.dims), tensor.name))


def change_dimensions(draw: st.DrawFn, graph: Any) -> None:
    tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
    dims = draw(st.lists(LARGE, max_size=5))
    del tensor.dims[:]
    tensor.dims.extend(dims)
    if draw(st.integers(0, 3)) == 0:
        tensor.data_type = draw(st.integers(0, 30))


def change_wiring(draw: st.DrawFn, graph: Any) -> None:
    node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
    names = [name for other in graph.node for name in (*other.input, *other.output)]
    if node.input:
        node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(names))


def change_ends(draw: st.DrawFn, graph: Any) -> None:
    ends = draw(st.sampled_from([graph.input, graph.output]))
    if draw(st.booleans()):
        ends[0].name = draw(st.sampled_from([node.output[0] for node in graph.node]) | st.text(max_size=5))
    else:
        ends[0].type.tensor_type.elem_type = draw(st.integers(0, 20))


def add_allocation(draw: st.DrawFn, graph: Any) -> None:
    """A constant of any size in the way of the output."""
    output, size = graph.output[0].name, draw(LARGE)
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == output:
                node.output[place] = "before"
    graph.initializer.append(numpy_helper.from_array(np.array([size], np.int64), "fuzz_size"))
    graph.node.append(helper.make_node("ConstantOfShape", ["fuzz_size"], ["fuzz_large"]))
    graph.node.append(helper.make_node("ReduceSum", ["fuzz_large"], ["fuzz_sum"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["before", "fuzz_sum"], [output]))


def before_the_output(graph: Any, nodes: list[Any], tensors: list[Any]) -> None:
    """Put nodes that make `after` of `before` in the way of the output."""
    names = {graph.output[0].name: "before", "after": graph.output[0].name}
    for node in (*graph.node, *nodes):
        for place, name in enumerate(node.output):
            node.output[place] = names.get(name, name)
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)


def add_expansion(draw: st.DrawFn, graph: Any) -> None:
    """A tensor of any size, of operators that are accepted; of constants, it is computed while the graph is loaded."""
    sizes = draw(st.lists(st.sampled_from([2, 100, 2**16, 2**20, 2**31 - 1]), min_size=1, max_size=3))
    begin = draw(st.sampled_from(["fuzz_one", "fuzz_mean"]))
    nodes = [helper.make_node("ReduceMean", ["before"], ["fuzz_mean"], keepdims=0)]
    nodes += [helper.make_node("Expand", [begin, "fuzz_sizes"], ["fuzz_large"])]
    nodes += [helper.make_node("ReduceMean", ["fuzz_large"], ["fuzz_m"], keepdims=0)]
    nodes += [helper.make_node("Add", ["before", "fuzz_m"], ["after"])]
    tensors = [numpy_helper.from_array(np.array(sizes, np.int64), "fuzz_sizes")]
    before_the_output(graph, nodes, [*tensors, numpy_helper.from_array(np.float32(1), "fuzz_one")])


WILD = st.lists(st.sampled_from([1, 16_384, 2**20, 2**31 - 1, -(2**20), -(2**31)]), min_size=2, max_size=20_000)


def add_wild_indices(draw: st.DrawFn, graph: Any) -> None:
    """Indices outside of the data, where a plug-in may write or read whatever lies there."""
    operator = draw(st.sampled_from(["ScatterElements", "ScatterND", "GatherND", "GatherElements"]))
    row, places = operator.endswith("Elements"), draw(WILD)
    values = {
        "fuzz_indices": np.array(places, np.int64).reshape([1, -1] if row else [-1, 1]),
        "fuzz_updates": np.full([1, len(places)] if row else [len(places)], 7, np.float32),
        "fuzz_sizes": np.array([1, 1024] if row else [1024], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["before"], ["fuzz_mean"], keepdims=0),  # what is constant would be checked
        helper.make_node("Expand", ["fuzz_mean", "fuzz_sizes"], ["fuzz_data"]),
        helper.make_node(
            operator,
            ["fuzz_data", "fuzz_indices", *(["fuzz_updates"] if operator.startswith("Scatter") else [])],
            ["fuzz_found"],
            **({"axis": 1} if row else {}),
        ),
        helper.make_node("ReduceMean", ["fuzz_found"], ["fuzz_m"], keepdims=0),
        helper.make_node("Add", ["before", "fuzz_m"], ["after"]),
    ]
    before_the_output(graph, nodes, [numpy_helper.from_array(value, name) for name, value in values.items()])


def add_trap(draw: st.DrawFn, graph: Any) -> None:
    """Operations at which a processor stops the process: INT_MIN / −1, a division by 0, 0 groups, 0 heads."""
    kind = draw(st.sampled_from(["Div", "Mod", "Conv", "ConvTranspose", "Attention"]))
    if kind in ("Div", "Mod"):
        low, by = draw(st.sampled_from([-(2**31), -(2**63), 1])), draw(st.sampled_from([0, -1]))
        whole = np.int32 if low == -(2**31) else np.int64
        values = {"fuzz_low": np.array([low], whole), "fuzz_by": np.array([by], whole)}
        tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
        nodes = [
            helper.make_node(kind, ["fuzz_low", "fuzz_by"], ["fuzz_q"]),
            helper.make_node("Cast", ["fuzz_q"], ["fuzz_f"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Add", ["before", "fuzz_f"], ["after"]),
        ]
        before_the_output(graph, nodes, tensors)
    elif kind == "Attention":
        made = helper.make_node("Attention", ["before"] * 3, ["after"], q_num_heads=0, kv_num_heads=0)
        before_the_output(graph, [made], [])
    else:
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        node = convolutions[draw(st.integers(0, len(convolutions) - 1))]
        node.op_type = kind
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("group", 0))


def add_strings(draw: st.DrawFn, graph: Any) -> None:
    """Strings, which are outside of the memory limit."""
    place = draw(st.sampled_from(["constant", "cast", "declared"]))
    if place == "constant":
        texts = helper.make_tensor("fuzz_texts", onnx.TensorProto.STRING, [2], [b"a" * 1000, b"b"])
        graph.initializer.append(texts)
    elif place == "declared":
        graph.value_info.append(helper.make_tensor_value_info("fuzz_texts", onnx.TensorProto.STRING, [2]))
    else:
        nodes = [helper.make_node("Cast", ["before"], ["fuzz_texts"], to=onnx.TensorProto.STRING)]
        nodes += [helper.make_node("Cast", ["fuzz_texts"], ["after"], to=onnx.TensorProto.FLOAT)]
        before_the_output(graph, nodes, [])


def add_external(draw: st.DrawFn, graph: Any) -> None:
    tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    location = draw(st.sampled_from(["/etc/passwd", "../bundle.json", "model.onnx_data", "x", ""]))
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value=draw(st.sampled_from(["0", "-1", str(2**62), "x"])))


CHANGES = (
    change_operator,
    change_attribute,
    change_shapes,
    change_dimensions,
    change_wiring,
    change_ends,
    add_allocation,
    add_expansion,
    add_external,
)
HOSTILE = (add_wild_indices, add_trap, add_strings, add_expansion)
"""Changes after which a graph does harm where nobody checks it."""


@st.composite
def graph_models(draw: st.DrawFn, material: Material) -> Material:
    """One or two changes of a parsed model; sparse tensors, functions and another graph's file now and then."""
    name = draw(st.sampled_from(GRAPHS))
    if draw(st.integers(0, 15)) == 0:
        return material.with_file(name, material.files[draw(st.sampled_from(GRAPHS))])
    model = onnx.load_model_from_string(material.files[name])
    for _ in range(draw(st.integers(1, 2))):
        draw(st.sampled_from(CHANGES))(draw, model.graph)
    if draw(st.integers(0, 15)) == 0:
        sparse = model.graph.sparse_initializer.add()
        sparse.dims.extend([2**40])
        sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "indices"))
    if draw(st.integers(0, 15)) == 0:
        model.functions.append(
            helper.make_function("", "Relu", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], [])
        )
    content = model.SerializeToString()
    return material.with_file(name, content)


@st.composite
def hostile_graphs(draw: st.DrawFn, material: Material, changes: tuple[Change, ...] = HOSTILE) -> Material:
    """A graph that crashes or reads what is not its own where nobody checks it."""
    name = draw(st.sampled_from(GRAPHS[:2]))
    model = onnx.load_model_from_string(material.files[name])
    draw(st.sampled_from(changes))(draw, model.graph)
    return material.with_file(name, model.SerializeToString())


UNUSUAL = (
    lambda number, content: field(number + WIDE, content),
    lambda number, content: field(number + 4 * WIDE, content),
    lambda number, content: field(number, content, tag_length=5),
    lambda number, content: field(number, content, tag_length=6),
    lambda number, content: field(number, content, size_length=5),
    lambda number, content: field(number, content, size_length=10),
    lambda number, content: varint(number + WIDE << 3) + b"\1",
    lambda number, content: varint(number << 3) + b"\x80" * 10 + b"\1",
    lambda number, content: varint(number << 3) + varint(len(content), 10),
    lambda number, content: field(0, content),
    lambda number, content: field(number + 70, content),  # fields that no version of ONNX has
    lambda number, content: varint(number + 70 << 3) + varint(2**40),
)
"""Ways to write a field which parsers read differently, or skip."""
SINGLE = {"model": (), "node": (7, 1), "tensor": (7, 5), "input": (7, 11), "type": (7, 11, 2)}
PARTS = {"model": 2, "node": 3, "tensor": 8, "input": 2, "type": 1}
"""A field with one value, of messages that every graph has; twice, it is a message in parts."""


POLYGLOTS = (
    varint(1 << 3) + varint(10) + field(2, b"ORTM"),  # good protobuf: the version, and the name of a producer
    bytes.fromhex("1c000000") + b"ORTM",  # the beginning of a FlatBuffer
)


@st.composite
def graph_wire(draw: st.DrawFn, material: Material) -> Material:
    """One field, in any message, that is written in an unusual way; or the mark of ONNX Runtime's own format."""
    name = draw(st.sampled_from(GRAPHS))
    if draw(st.integers(0, 7)) == 0:
        return material.with_file(name, draw(st.sampled_from(POLYGLOTS)) + material.files[name])
    if draw(st.integers(0, 7)) == 0:
        kind = draw(st.sampled_from(sorted(PARTS)))
        part = field(PARTS[kind], draw(st.binary(max_size=20)))
        return material.with_file(name, appended(material.files[name], SINGLE[kind], part + part))
    if draw(st.integers(0, 7)) == 0:
        wide = varint(2 << 3) + varint(2**32 + draw(st.integers(0, 16)))
        return material.with_file(name, appended(material.files[name], (7, 5), wide))
    operator = st.sampled_from([operator.encode() for operator, _ in STRANGE])
    unusual = draw(st.sampled_from(UNUSUAL))(draw(st.integers(1, 30)), draw(operator | st.binary(max_size=20)))
    place = draw(st.sampled_from(sorted(PLACES.values())))
    return material.with_file(name, appended(material.files[name], place, unusual))


@st.composite
def classifier_graphs(draw: st.DrawFn, material: Material) -> bytes:
    """The graph of a classifier, changed in any of the ways above."""
    whole = Material(dict.fromkeys(GRAPHS, material.teacher), {})
    ways = [graph_bytes(whole), graph_models(whole), graph_wire(whole), hostile_graphs(whole)]
    found = draw(st.one_of([*ways, hostile_graphs(whole, (add_external,))]))
    return next((graph for graph in found.files.values() if graph != material.teacher), material.teacher)
