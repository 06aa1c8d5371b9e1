"""Graphs that loop, are random, or declare tensors larger than their bytes are refused before they are loaded."""

import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from dpd_runtime import graph_check
from dpd_runtime.bundle import embedded_bundle, load_bundle
from dpd_runtime.classifier import check_classifier_graph
from dpd_runtime.engines import Provider, run_to
from dpd_runtime.errors import BundleError, MemoryShortError, ProviderError
from dpd_runtime.graph_check import OPERATORS, check_graph, read_graph
from dpd_runtime.graph_facts import classifier_facts
from dpd_runtime.sessions import OnnxRuntimeEngine
from tests.hostile.fuzz.wire import PLACES, WIDE, appended, field, varint

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
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "size"], ["large"]),
        helper.make_node("ReduceMean", ["large"], ["sum"], keepdims=0),
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
        (looping, "a graph within the graph"),
        (lambda: of_domain("Loop"), "operator 'Loop' without a trusted signature"),
        (lambda: of_domain("If"), "operator 'If'"),
        (lambda: of_domain("RandomNormalLike"), "operator 'RandomNormalLike'"),
        (lambda: of_domain("NoSuch\x1b[2J"), r"operator 'NoSuch\\x1b"),
        (lambda: of_domain("EPContext", "com.microsoft"), "operators of 'com.microsoft'"),
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


def telling(*facts: tuple[str, str]) -> bytes:
    """A graph with these entries of metadata."""
    made = relu()
    for key, value in facts:
        made.metadata_props.add(key=key, value=value)
    content: bytes = made.SerializeToString()
    return content


def test_metadata_say_nothing_or_what_the_files_beside_them_say() -> None:
    facts = {"classes": '["Forest", "Río"]', "image_shape": "[3, 64, 64]"}
    assert read_graph("x.onnx", telling(*facts.items())).facts == facts
    read_graph("x.onnx", telling(*facts.items())).require_facts(facts)
    read_graph("x.onnx", telling()).require_facts(facts)
    for told, wrong in (
        (facts | {"classes": '["Río", "Forest"]'}, "classes"),
        (facts | {"ort_config": "{}"}, "ort_config"),
        ({"classes": facts["classes"]}, "image_shape"),
    ):
        with pytest.raises(BundleError, match=rf"^x\.onnx: metadata '{wrong}' that contradicts the files beside it"):
            read_graph("x.onnx", telling(*told.items())).require_facts(facts)
    with pytest.raises(BundleError, match="metadata 'classes' that contradicts the files beside it; dpd fit makes no"):
        check_classifier_graph(telling(*classifier_facts(["b", "a"], 64).items()), ["a", "b"], 64)
    many = [(str(number), "é" * 2**19) for number in range(8)]  # each of a megabyte and 11 bytes
    assert len(read_graph("x.onnx", telling(*many[:7])).facts) == 7
    with pytest.raises(BundleError, match="metadata of more than 8388608 bytes"):  # before they are decoded
        read_graph("x.onnx", telling(*many))
    with pytest.raises(BundleError, match="a name of 1001 bytes"):
        check_graph("x.onnx", of_domain("R" * 1001).SerializeToString())
    with pytest.raises(BundleError, match="metadata with two values of one key"):
        read_graph("x.onnx", telling(("classes", "a"), ("classes", "b")))


def dividing(divisor: Any, *before: Any, operator: str = "Div") -> Any:
    """x as a whole number, divided by `d`: a constant, or what `before` computes."""
    nodes = [helper.make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT64), *before]
    nodes += [helper.make_node(operator, ["i", "d"], ["q"]), helper.make_node("Cast", ["q"], ["y"], to=FLOAT)]
    return model(nodes, [] if divisor is None else [numpy_helper.from_array(np.asarray(divisor), "d")])


SHAPE = helper.make_node("Shape", ["x"], ["s"])


@pytest.mark.parametrize(
    "made",
    [
        lambda: dividing(np.int64(0)),
        lambda: dividing(np.int64(-1)),
        lambda: dividing(np.array([2, 2, -1], np.int64)),
        lambda: dividing(np.int32(-1)),
        lambda: dividing(np.int8(2)),
        lambda: dividing(None, SHAPE, helper.make_node("Gather", ["s", "s"], ["d"])),
        lambda: dividing(None, helper.make_node("Cast", ["x"], ["d"], to=onnx.TensorProto.INT64)),
        lambda: dividing(None, helper.make_node("Mul", ["i", "i"], ["d"])),
        lambda: dividing(None, helper.make_node("Where", ["x", "i", "x"], ["d"])),
        lambda: dividing(None),
    ],
    ids=["0", "-1", "a list with -1", "int32", "int8", "a size", "a cast", "a product", "a choice", "nothing"],
)
def test_a_division_that_may_stop_the_process_is_refused(made: Any) -> None:
    with pytest.raises(BundleError, match="an integer division by what is computed, by 0 or by -1"):
        check_graph("x.onnx", made().SerializeToString())


def test_divisions_that_cannot_stop_it_are_accepted() -> None:
    whole = dividing(np.array([2, 7, -3], np.int64))
    check_graph("x.onnx", whole.SerializeToString())
    tensor = whole.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.int64_data.extend([2, 7, -3])
    check_graph("x.onnx", whole.SerializeToString())
    tensor.int64_data[1] = -1
    with pytest.raises(BundleError, match="an integer division"):
        check_graph("x.onnx", whole.SerializeToString())
    for before in (
        [helper.make_node("Mul", ["x", "x"], ["d"])],
        [helper.make_node("Where", ["c", "x", "x"], ["d"])],
        [
            helper.make_node("Cast", ["x"], ["h"], to=onnx.TensorProto.FLOAT16),
            helper.make_node("Mul", ["h", "h"], ["d"]),
        ],
    ):
        nodes = [*before, helper.make_node("Div", ["x", "d"], ["y"])]
        check_graph("x.onnx", model(nodes).SerializeToString())


def test_a_divisor_that_is_made_twice_is_judged_by_both() -> None:
    """ONNX Runtime takes the last of two constants of one name."""
    twice = dividing(np.int64(2))
    twice.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "d"))
    with pytest.raises(BundleError, match="an integer division"):
        check_graph("x.onnx", twice.SerializeToString())
    floats = model([helper.make_node("Div", ["x", "d"], ["y"])], [numpy_helper.from_array(np.float32(1), "d")])
    floats.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "d"))
    with pytest.raises(BundleError, match="an integer division"):
        check_graph("x.onnx", floats.SerializeToString())


def with_strings(place: str) -> Any:
    texts = helper.make_tensor("t", onnx.TensorProto.STRING, [2], [b"a", b"b"])
    if place == "a constant":
        return model([helper.make_node("Relu", ["x"], ["y"])], [texts])
    if place == "a cast":
        return model([helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.STRING)])
    if place == "an attribute":
        return model([helper.make_node("Relu", ["x"], ["y"], texts=["a", "b"])])
    if place == "a value of a constant":
        return model([helper.make_node("Constant", [], ["y"], value_string="a")])
    if place == "a filling":
        return model([helper.make_node("ConstantOfShape", ["x"], ["y"], value=helper.make_tensor("v", 8, [1], [b"a"]))])
    found = relu()
    if place == "data of another type":
        tensor = found.graph.initializer.add(name="t", data_type=FLOAT, dims=[1], float_data=[1.0])
        tensor.string_data.append(b"a")
    elif place == "an input":
        found.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    else:
        found.graph.value_info.append(helper.make_tensor_value_info("v", onnx.TensorProto.STRING, [2]))
    return found


@pytest.mark.parametrize("trusted", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(
    "place",
    [
        *("a constant", "a cast", "an attribute", "a value of a constant", "a filling", "data of another type"),
        *("an input", "a value"),
    ],
)
def test_strings_are_refused_in_every_position(place: str, trusted: bool) -> None:
    """They are outside of ONNX Runtime's memory limit: 400 MB of them took 4.2 GB."""
    content = with_strings(place).SerializeToString()
    with pytest.raises(BundleError, match=r"^x\.onnx: strings; dpd export"):
        check_graph("x.onnx", content, trusted=trusted)


def test_a_trusted_signature_brings_other_operators_and_no_more() -> None:
    sinh = model([helper.make_node("Sinh", ["x"], ["t"]), helper.make_node("Abs", ["t"], ["y"])]).SerializeToString()
    assert check_graph("x.onnx", sinh, trusted=True) == ("Abs", "Sinh")
    assert check_graph("x.onnx", relu().SerializeToString(), trusted=True) == ()
    assert check_graph("x.onnx", dividing(np.int64(0)).SerializeToString(), trusted=True) == ()
    with pytest.raises(BundleError, match="operator 'Abs' without a trusted signature"):
        check_graph("x.onnx", sinh)
    for made, said in ((looping, "a graph within the graph"), (sparse, "sparse tensors"), (function, "functions")):
        with pytest.raises(BundleError, match=said):
            check_graph("x.onnx", made().SerializeToString(), trusted=True)
    with pytest.raises(BundleError, match=r"operators of 'com\.microsoft'"):
        check_graph("x.onnx", of_domain("Relu", "com.microsoft").SerializeToString(), trusted=True)


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
    with pytest.raises(BundleError, match="a graph within the graph"):
        check_graph("unet/model.onnx", content)


def output_of(content: bytes) -> Any:
    """What ONNX Runtime makes of ones [1, 2], without our checks."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((1, 2), np.float32)})[0]


@pytest.mark.parametrize(
    "operator",
    [
        field(4 + WIDE, b"RandomUniformLike"),
        field(4 + WIDE, b"QuickGelu") + field(7 + WIDE, b"com.microsoft"),
        field(4, b"Neg", tag_length=5),
        field(4, b"Neg", size_length=5),
    ],
    ids=["a wide tag", "a wide domain", "a long tag", "a long size"],
)
def test_unusual_protobuf_that_onnxruntime_reads_is_refused(operator: bytes) -> None:
    """The checker saw Relu and an unknown field; ONNX Runtime ran the operator of that field."""
    content = appended(relu().SerializeToString(), (7, 1), operator)
    assert (output_of(content) != 1).all()
    with pytest.raises(BundleError, match=r"^x\.onnx: a tag or a size that parsers read differently; dpd export"):
        check_graph("x.onnx", content)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (field(100 + WIDE, b"x"), "read differently"),
        (varint(100 + 4 * WIDE << 3) + b"\0", "read differently"),
        (field(100, b"x", tag_length=3), "read differently"),
        (field(100, b"x", tag_length=6), "read differently"),
        (field(100, b"x", size_length=2), "read differently"),
        (field(100, b"x", size_length=10), "read differently"),
        (field(0, b"x"), "the number 0"),
        (b"\x00\x00", "the number 0"),
        (varint(100 << 3) + b"\x80" * 10 + b"\x01", "not an ONNX file"),
        (varint(100 << 3) + varint(3, 4), "a number in more bytes than it needs"),
    ],
    ids=[
        "wide",
        "wide value",
        "long tag",
        "6 byte tag",
        "long size",
        "10 byte size",
        "0",
        "value of 0",
        "11 byte value",
        "long value",
    ],
)
def test_unusual_protobuf_is_refused_in_every_message(place: tuple[int, ...], extra: bytes, message: str) -> None:
    good = declared(2).SerializeToString()
    with pytest.raises(BundleError, match=message):
        check_graph("x.onnx", appended(good, place, extra))


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("trusted", [False, True], ids=["unsigned", "signed"])
def test_an_unknown_field_is_refused_in_every_message(place: tuple[int, ...], trusted: bool) -> None:
    """Parsers skip it, so it can stand between the words that a check looks for."""
    good = declared(2).SerializeToString()
    with pytest.raises(BundleError, match=r"^x\.onnx: field 100 of .*, which this dpd does not know; dpd export"):
        check_graph("x.onnx", appended(good, place, field(100, b"x")), trusted=trusted)


def test_the_reader_knows_every_field_of_onnx() -> None:
    """Each field of onnx's own descriptors: accepted with its type, or refused by what it is. None is left out."""
    messages = {
        "ModelProto": graph_check._MODEL,
        "GraphProto": graph_check._GRAPH,
        "NodeProto": graph_check._NODE,
        "AttributeProto": graph_check._ATTRIBUTE,
        "TensorProto": graph_check._TENSOR,
        "ValueInfoProto": graph_check._VALUE,
        "TypeProto": graph_check._TYPE,
        "TypeProto.Tensor": graph_check._TENSOR_TYPE,
        "TensorShapeProto": graph_check._SHAPE,
        "TensorShapeProto.Dimension": graph_check._DIMENSION,
        "OperatorSetIdProto": graph_check._OPSET,
        "StringStringEntryProto": graph_check._ENTRY,
        "TensorAnnotation": graph_check._QUANTISED,
    }
    wire = {"string": 2, "bytes": 2, "message": 2, "float": 5, "double": 1}
    types = {1: "double", 2: "float", 9: "string", 11: "message", 12: "bytes"}
    for name, message in messages.items():
        described = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name[name.split(".")[0]]
        for inner in name.split(".")[1:]:
            described = described.nested_types_by_name[inner]
        assert {f.number for f in described.fields} == message.numbers, name
        for f in described.fields:
            if f.number in message.refused:
                continue
            tag, many = f.number << 3 | wire.get(types.get(f.type, ""), 0), f.is_repeated
            kind = message.kinds[tag]
            assert (kind in (graph_check._ONCE, graph_check._ONCE_SHORT)) is not many, f.full_name
            short = f.type in (f.TYPE_INT32, f.TYPE_ENUM)
            assert (kind in (graph_check._ONCE_SHORT, graph_check._SHORTS)) is short, f.full_name


@pytest.mark.parametrize(
    ("place", "extra"),
    [
        ((), field(2, b"a") + field(2, b"b")),
        ((7, 1), field(3, b"a") + field(3, b"b")),
        ((7, 1, 5), field(5, field(1, b"\2")) + field(5, field(1, b"\2"))),
        ((7, 5), field(8, b"again")),
        ((7, 11), field(2, b"")),
        ((7, 11, 2), field(1, b"")),
        ((7, 11, 2, 1), field(2, b"")),
    ],
    ids=["a producer", "a name", "a tensor", "the name of a tensor", "a type", "a tensor's type", "a shape"],
)
def test_a_message_in_parts_is_refused(place: tuple[int, ...], extra: bytes) -> None:
    """Protobuf makes one of them, so the whole can be what no part is."""
    with pytest.raises(BundleError, match=r"^x\.onnx: a message in parts, of which parsers make one; dpd export"):
        check_graph("x.onnx", appended(declared(2).SerializeToString(), place, extra))


def test_dimensions_and_bytes_in_parts_are_counted_together() -> None:
    """65 dimensions and 2^40 values in two halves of one tensor. The control: protobuf joins them."""
    half = b"".join(varint(1 << 3) + varint(1) for _ in range(33))
    tensor = field(5, varint(2 << 3) + varint(1) + half) + field(5, half)
    dims = appended(model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString(), (7, 1, 5), field(1, b"v"))
    joined = onnx.load_model_from_string(appended(dims, (7, 1, 5), tensor))
    assert len(joined.graph.node[0].attribute[0].t.dims) == 66
    with pytest.raises(BundleError, match=r"^x\.onnx: a message in parts"):
        check_graph("x.onnx", appended(dims, (7, 1, 5), tensor))
    large = b"".join(field(5, varint(1 << 3) + varint(2**20)) for _ in range(2))
    with pytest.raises(BundleError, match=r"^x\.onnx: (a message in parts|a tensor of shape)"):
        check_graph("x.onnx", appended(dims, (7, 1, 5), large))


TO_STRING = onnx.helper.make_attribute("to", 2**32 + onnx.TensorProto.STRING)


def test_a_number_has_the_bits_of_its_field() -> None:
    """A parser that keeps 32 of 64 bits reads 2^32 + 8 as 8, a string."""
    cast = model([helper.make_node("Cast", ["x"], ["y"])])
    cast.graph.node[0].attribute.append(TO_STRING)
    with pytest.raises(BundleError, match=r"^x\.onnx: an element type of more than 32 bits"):
        check_graph("x.onnx", cast.SerializeToString(), trusted=True)
    wide = varint(2**32 + onnx.TensorProto.STRING)
    good = relu().SerializeToString()
    for place, number in (((7, 5), 2), ((7, 13, 2, 1), 1), ((7, 1, 5), 20), ((7, 5), 14)):
        with pytest.raises(BundleError, match=r"^x\.onnx: a number of more than 32 bits"):
            check_graph("x.onnx", appended(good, place, varint(number << 3) + wide), trusted=True)
    numbers = varint(2**32) + varint(7)
    for written in (field(5, numbers), varint(5 << 3) + varint(2**32)):
        with pytest.raises(BundleError, match=r"^x\.onnx: a number of more than 32 bits"):
            check_graph("x.onnx", appended(good, (7, 5), varint(2 << 3) + varint(6) + written), trusted=True)


def test_numbers_below_zero_of_32_bits_are_accepted() -> None:
    tensor = helper.make_tensor("i", onnx.TensorProto.INT32, [3], [-(2**31), -1, 2**31 - 1])
    check_graph("x.onnx", model([helper.make_node("Relu", ["x"], ["y"])], [tensor]).SerializeToString())


def test_two_attributes_of_one_name_are_refused() -> None:
    """The check of divisions would see one of them, ONNX Runtime the other."""
    cast = model([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)])
    cast.graph.node[0].attribute.append(helper.make_attribute("to", onnx.TensorProto.INT64))
    with pytest.raises(BundleError, match=r"^x\.onnx: a node with two attributes of one name"):
        check_graph("x.onnx", cast.SerializeToString())


def test_packed_numbers_are_read_as_protobuf_reads_them() -> None:
    values = [0, 1, 127, 128, 2**31, 2**63 - 1, -1, -(2**63), 300] * 40_000  # beyond one piece
    packed = onnx.TensorProto(int64_data=values).SerializeToString()
    (number, content), *rest = list(graph_check._Reader(0)._read(memoryview(packed), graph_check._TENSOR))
    assert (number, rest) == (7, [])
    found = np.concatenate(list(graph_check._numbers(content)))
    np.testing.assert_array_equal(found.view(np.int64), values)


@pytest.mark.parametrize("made", ["raw", "packed", "packed int32"])
def test_a_divisor_takes_no_more_memory_than_its_bytes(made: str) -> None:
    """As Python's lists they took 25 times the file."""
    count, kind = 2_000_000, onnx.TensorProto.INT32 if made.endswith("32") else onnx.TensorProto.INT64
    whole = dividing(np.full(1, 2, np.int64))
    tensor = whole.graph.initializer[0]
    tensor.Clear()
    tensor.name, tensor.data_type = "d", kind
    tensor.dims.append(count)
    if made == "raw":
        tensor.raw_data = np.full(count, 2, np.int64).tobytes()
    else:
        (tensor.int32_data if kind == onnx.TensorProto.INT32 else tensor.int64_data).extend([2] * count)
    content = whole.SerializeToString()
    began = time.process_time()
    check_graph("x.onnx", content)
    assert time.process_time() - began < 3
    tracemalloc.start()
    try:
        check_graph("x.onnx", content)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_many_small_fields_end_soon() -> None:
    """Two bytes each: 10 MB of them would take seconds, 2 GB an hour."""
    extra = (varint(8 << 3) + b"\1") * (graph_check.MOST_FIELDS + 1)
    began = time.process_time()
    with pytest.raises(BundleError, match=r"^x\.onnx: more than 500000 fields"):
        check_graph("x.onnx", appended(relu().SerializeToString(), (7, 1, 5), extra))
    assert time.process_time() - began < 5


def polyglot() -> bytes:
    """A good ONNX model whose producer's name stands where ONNX Runtime looks for the mark of its own format."""
    found = relu()
    found.producer_name = "ORTM"
    return bytes(found.SerializeToString())


def test_a_polyglot_is_refused() -> None:
    with pytest.raises(
        BundleError, match=r"^x\.onnx: the mark of ONNX Runtime's own format in bytes 4 to 8; dpd export"
    ):
        check_graph("x.onnx", polyglot())


def test_onnxruntime_reads_every_graph_as_onnx() -> None:
    """Left alone, it reads this one as its own format; the engine does not leave it alone."""
    pytest.importorskip("onnxruntime")
    with pytest.raises(Exception, match="ORT model verification failed"):
        output_of(polyglot())
    engine = OnnxRuntimeEngine(polyglot(), CPU, name="x.onnx")
    np.testing.assert_array_equal(engine.run(x=-np.ones((1, 2), np.float32)), [[0.0, 0.0]])


def test_a_shape_cannot_hide_behind_a_zero_of_another_type() -> None:
    """Parsers ignore a dimension that is written as a float; as a zero it would make the product zero."""
    large = declared(2**20, 2**20).SerializeToString()
    with pytest.raises(BundleError, match="not an ONNX file"):
        check_graph("x.onnx", appended(large, (7, 5), b"\x09" + bytes(8)))


def test_a_second_location_of_weights_is_refused() -> None:
    """Of two values protobuf keeps the last; the check of the bundle's files finds the first."""
    entry, outside = field(1, b"location") + field(2, b"model.onnx_data"), varint(14 << 3) + b"\1"
    good = declared(2).SerializeToString()
    check_graph("x.onnx", appended(good, (7, 5), field(13, entry) + outside), beside=8)
    for more in (field(13, entry + field(2, b"/etc/passwd")), field(13, entry) * 2):
        with pytest.raises(BundleError, match="has weights outside itself described in an unusual way"):
            check_graph("x.onnx", appended(good, (7, 5), more + outside), beside=8)


def test_many_dimensions_are_refused_at_once() -> None:
    """Multiplying 100,000 sizes took seconds. Packed or one by one, of tensors or of declared values."""
    packed = field(1, varint(2**31 - 1) * 100_000)
    single = (b"\x08" + varint(2**31 - 1)) * 100_000
    good, started = relu().SerializeToString(), time.process_time()
    for content in (appended(b"", (7, 5), packed), appended(b"", (7, 5), single)):
        with pytest.raises(BundleError, match="a tensor of more than 64 dimensions"):
            check_graph("x.onnx", content)
    with pytest.raises(BundleError, match="a tensor of more than 64 dimensions"):
        check_graph("x.onnx", appended(good, (7, 11, 2, 1, 2), field(1, b"") * 65))
    check_graph("x.onnx", declared(*[1] * 64).SerializeToString())
    assert time.process_time() - started < 2


@pytest.mark.parametrize("number", [4, 5, 7, 8, 9])
def test_only_tensors_enter_a_graph(number: int) -> None:
    with pytest.raises(BundleError, match=r"sequences|maps|opaque types|sparse tensors|optional values"):
        check_graph("x.onnx", appended(relu().SerializeToString(), (7, 11, 2), field(number, b"")))


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


def test_a_number_becomes_a_float_where_the_graph_takes_one() -> None:
    """A timestep is int64, and some exporters make it a float."""
    pytest.importorskip("onnxruntime")
    engine = OnnxRuntimeEngine(relu().SerializeToString(), CPU, name="x.onnx")
    found = engine.run(x=np.array([[-3, 500]], np.int64))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0.0, 500.0]])


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


def test_a_graph_of_very_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes far more memory here than in the file: nodes, their names, values and the fields of constants."""
    relus = [helper.make_node("Relu", ["x"], ["y"])] * 10
    wide = helper.make_node("Concat", ["x"] * 27, ["y"], axis=0)
    of = {"nodes": model(relus), "names": model([wide]), "values": relu(), "fields": relu()}
    for _ in range(25):
        of["values"].graph.input.append(helper.make_tensor_value_info("v", FLOAT, [1]))
    unpacked = field(
        5, field(8, b"n") + varint(2 << 3) + varint(7) + b"".join(varint(7 << 3) + b"\1" for _ in range(25))
    )
    contents = {name: made.SerializeToString() for name, made in of.items()}
    contents["fields"] = appended(contents["fields"], (7,), unpacked)
    for content in contents.values():
        check_graph("x.onnx", content)
    monkeypatch.setattr(graph_check, "MOST_PARTS", 28)
    for content in contents.values():
        with pytest.raises(BundleError, match=r"^x\.onnx: more than 28 nodes, names and constants"):
            check_graph("x.onnx", content)


def test_many_divisions_are_checked_in_little_time() -> None:
    """A search of all constants for each of them would take a minute, and hours for a file of a few megabytes."""
    count = 20_000
    tensors = [helper.make_tensor(f"d{n}", onnx.TensorProto.INT64, [1], [2]) for n in range(count)]
    nodes = [helper.make_node("Div", ["x", f"d{n}"], ["y"]) for n in range(count)]
    content = model(nodes, tensors).SerializeToString()
    began = time.process_time()
    check_graph("x.onnx", content)
    assert time.process_time() - began < 15


def test_the_name_of_a_node_cannot_speak_to_the_terminal() -> None:
    """ONNX Runtime names the node that fails, and a bundle's author chose its name."""
    pytest.importorskip("onnxruntime")
    name = "out of memory\x1b[2J\x1b]0;signed by lab\a"
    shape = numpy_helper.from_array(np.array([7, 7], np.int64), "shape")
    content = model([helper.make_node("Reshape", ["x", "shape"], ["y"], name=name)], [shape]).SerializeToString()
    with pytest.raises(BundleError, match=r"^x\.onnx cannot be run") as caught:
        OnnxRuntimeEngine(content, CPU, name="x.onnx").run(x=np.ones((1, 2), np.float32))
    assert not isinstance(caught.value, MemoryShortError)
    assert str(caught.value).isprintable()
    assert r"\x1b[2J" in str(caught.value)
