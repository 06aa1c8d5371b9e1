"""Check of the ONNX graphs of a bundle, from their protobuf, before ONNX Runtime reads them.

A graph is a program. An accepted one has no loops, no branches, no custom code, no strings and no tensor larger than
its bytes: it ends, and it always gives the same result. Without a trusted signature it holds only the operators that
dpd emits, and divides integers only by constants other than 0 and −1, at which a processor stops the process.

Field numbers are those of onnx.proto3. A message may be written in parts and in any order; every part is checked.

Parsers differ in what they make of unusual protobuf: ONNX Runtime's keeps 32 bits of a tag, so that field 2^29 + 4 is
field 4 there. So a graph is accepted only in the form that all parsers read alike, in every message that holds others,
a shape or an operator.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from dpd_runtime.errors import BundleError

OPERATORS_OF = {
    "classifiers": "Add Conv Gemm ReduceMean Relu",
    "VAE decoder": "InstanceNormalization Mul Reshape Resize Shape Sigmoid",
    "text encoder": "Concat Expand Gather IsNaN LayerNormalization MatMul Slice Softmax Transpose Where",
    "UNet": "Cast Cos Div Erf Sin Split Unsqueeze",
    "UNet of nano": "Einsum",
    "--precision fp16": "Not",
    "--precision int8": "DequantizeLinear QuantizeLinear",
    "--dynamic-size": "Squeeze",
    "dpd fit": "Clip MaxPool",
    "dpd fit --backbone": "AveragePool Pow ReduceL2 Tanh",
    "dpd distill --dp": "Log Min Reciprocal ReduceSum Sqrt Sub",
}
"""Operators by what needs them first: a part of a base, an option of `dpd export`, or a classifier.

The names are those of the cases in tests/export/graphs/test_operators.py, which trace such a graph. All end, are
deterministic and use plain tensors.
"""
OPERATORS = frozenset(name for names in OPERATORS_OF.values() for name in names.split())
"""Accepted operators of the ONNX domain in a graph that no trusted key has signed."""

_DIVIDING = "Div"  # the one operator of OPERATORS that may divide whole numbers
_FLOATS = frozenset({1, 10, 11, 16})  # onnx.TensorProto.DataType: float32, float16, float64, bfloat16
_WHOLE = {6: 4, 7: 8}  # int32, int64: bytes of each
_STRING = 8
_INT32_DATA, _INT64_DATA, _RAW = 5, 7, 9  # fields of a TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_MODEL_REFUSED = {20: "training", 25: "functions"}
_GRAPH_REFUSED = {15: "sparse tensors"}
_ATTRIBUTE_REFUSED = {
    9: "strings",
    6: "a graph within the graph",
    11: "graphs within the graph",
    14: "a type",
    15: "types",
    21: "a reference",
    22: "a sparse tensor",
    23: "sparse tensors",
}
_TYPE_REFUSED = {
    4: "sequences",
    5: "maps",
    7: "opaque types",
    8: "sparse tensors",
    9: "optional values",
}
_LARGEST_SIDE = 2**31
MOST_PARTS = 200_000
"""Of a graph: nodes with their inputs and outputs, declared values, and constants with their fields. A part of two
bytes takes up to two hundred here. The UNet of the embedded bundle has 3,256 parts, Stable Diffusion 1.5's 8,619."""
_SHORT_TYPE = 100  # bytes
MAX_DIMENSIONS = 64
"""Of a tensor: NumPy's limit. Multiplying a list of any length takes time that grows with its square."""
_LONGEST_PREFIX, _LONGEST_VARINT = 5, 10  # bytes: tags and sizes have 32 bits, values 64
_ORT_MARK = b"ORTM"
"""ONNX Runtime reads a file with these bytes at 4 to 8 as its own format, whatever protobuf it is."""
Fields = Iterator[tuple[int, int | memoryview | None]]


class _Refused(ValueError):
    """The reason why a graph is refused, without its name."""


def check_graph(
    name: str, content: bytes, beside: int = 0, *, trusted: bool = False, maker: str = "dpd export"
) -> tuple[str, ...]:
    """Check a graph.

    Args:
        beside: size of the file that holds weights of this graph, in bytes.
        trusted: whether a trusted key signed it. Then any operator of the ONNX domain is accepted.
        maker: the command that makes such graphs, for the message.

    Returns:
        The operators that are not in OPERATORS; none if it is not trusted.

    Raises:
        BundleError: not a protobuf, or one that parsers read differently; an operator that is not in OPERATORS; an
            integer division that may stop the process; a string; or a tensor that is larger than its bytes.
    """
    unusual: tuple[str, ...] = ()

    def check(graph: memoryview) -> None:
        nonlocal unusual
        contents = _read_contents(graph, beside)
        unusual = tuple(sorted({node.operator for node in contents.nodes} - OPERATORS))
        if not trusted:
            _check_operators(contents, unusual)

    checked = {7: check} | dict.fromkeys((8, 14, 26), _check_plain)
    try:
        if content[4:8] == _ORT_MARK:
            raise _Refused("the mark of ONNX Runtime's own format in bytes 4 to 8")
        graphs = sum(number == 7 for number in _walk(memoryview(content), checked, _MODEL_REFUSED))
        if graphs != 1:
            raise _Refused(f"{graphs} graphs in one file")
    except (_Refused, IndexError, UnicodeDecodeError) as error:
        said = str(error) if isinstance(error, _Refused) else "not an ONNX file"
        raise BundleError(
            f"{name}: {said}; {maker} makes no such graph: upgrade dpd-distill or run {maker} again"
        ) from error
    return unusual


@dataclass
class _Node:
    """A node, as far as the check of divisions needs it. number: of `to`."""

    operator: str = ""
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    number: int = 0


@dataclass
class _Tensor:
    """A constant. type: of onnx.TensorProto.DataType. content: the fields that can hold integers, as they are."""

    name: bytes = b""
    type: int = 0
    content: list[tuple[int, int | memoryview]] = field(default_factory=list)


@dataclass
class _Contents:
    """What a graph's values are made by. values: element types of inputs, by name."""

    nodes: list[_Node] = field(default_factory=list)
    tensors: list[_Tensor] = field(default_factory=list)
    values: list[tuple[bytes, int]] = field(default_factory=list)


def _read_contents(graph: memoryview, beside: int) -> _Contents:
    """Check everything in a graph but its operators."""
    contents, parts = _Contents(), 0

    def node(content: memoryview) -> None:
        made = _read_node(content, beside)
        contents.nodes.append(made)
        count(1 + len(made.inputs) + len(made.outputs))

    def tensor(content: memoryview) -> None:
        made = _read_tensor(content, beside)
        contents.tensors.append(made)
        count(1 + len(made.content))

    def value(content: memoryview) -> None:
        contents.values.append(_read_value(content))
        count(1)

    def count(more: int) -> None:
        nonlocal parts
        parts += more
        _check_parts(parts)

    checked = {1: node, 5: tensor, 11: value, 12: _read_value, 13: _read_value, 14: _check_plain, 16: _check_plain}
    _walk(graph, checked, _GRAPH_REFUSED)
    return contents


def _read_node(content: memoryview, beside: int) -> _Node:
    made = _Node()

    def operator(text: memoryview) -> None:
        made.operator = bytes(text).decode()

    def attribute(message: memoryview) -> None:
        _read_attribute(message, made, beside)

    def end(name: memoryview, names: list[bytes]) -> None:
        names.append(bytes(name))
        _check_parts(len(names))

    checked = {
        1: lambda name: end(name, made.inputs),
        2: lambda name: end(name, made.outputs),
        4: operator,
        5: attribute,
        7: _check_domain,
        9: _check_plain,
        10: _check_plain,
    }
    _walk(content, checked, {})
    return made


def _read_attribute(content: memoryview, node: _Node, beside: int) -> None:
    name, number = b"", 0
    for field_number, value in _fields(content):
        if field_number in _ATTRIBUTE_REFUSED:
            raise _Refused(_ATTRIBUTE_REFUSED[field_number])
        if field_number == 1:
            name = bytes(_inner(value))
        elif field_number == 3 and isinstance(value, int):
            number = value
        elif field_number in (5, 10):
            _read_tensor(_inner(value), beside)
    if name == b"to":
        node.number = number
    if name in (b"value_string", b"value_strings") or (name == b"to" and number == _STRING):
        raise _Refused("strings")


def _check_operators(contents: _Contents, unusual: tuple[str, ...]) -> None:
    """Check what only a trusted signature may bring."""
    if unusual:
        raise _Refused(f"operator {unusual[0][:60]!r} without a trusted signature")
    divisors = {node.inputs[1] for node in contents.nodes if node.operator == _DIVIDING and len(node.inputs) > 1}
    if not divisors:
        return
    types, constants = _floats(contents), dict[bytes, list[_Tensor]]()
    for tensor in contents.tensors:
        constants.setdefault(tensor.name, []).append(tensor)
    for name in divisors:
        safe = name in constants and all(_divides(tensor) for tensor in constants[name])
        if not (types.get(name, False) or safe):
            raise _Refused("an integer division by what is computed, by 0 or by -1")


def _floats(contents: _Contents) -> dict[bytes, bool]:
    """Whether each value of a graph is a tensor of floats; False if that is not sure, or not for all of its makers.

    ONNX Runtime itself checks that the types of a node's inputs agree. So most outputs have the first input's type.
    """
    types: dict[bytes, bool] = {}

    def learn(name: bytes, floats: bool) -> None:
        types[name] = types.get(name, True) and floats

    for tensor in contents.tensors:
        learn(tensor.name, tensor.type in _FLOATS)
    for name, kind in contents.values:
        learn(name, kind in _FLOATS)
    for node in contents.nodes:  # in the order of computation, or onnxruntime refuses the graph
        if node.operator in _MADE_OF:
            floats = _MADE_OF[node.operator](node)
        else:
            place = 1 if node.operator == "Where" else 0
            floats = len(node.inputs) > place and types.get(node.inputs[place], False)
        for place, name in enumerate(node.outputs):
            learn(name, floats and not (place and node.operator == "MaxPool"))  # its second output: positions
    return types


_MADE_OF: dict[str, Callable[[_Node], bool]] = {
    "Cast": lambda node: node.number in _FLOATS,
    "DequantizeLinear": lambda node: True,
} | dict.fromkeys(("Shape", "QuantizeLinear", "Not", "IsNaN"), lambda node: False)
"""Operators whose output has another type than their first input."""


def _divides(tensor: _Tensor) -> bool:
    """Whether a constant has whole numbers other than 0 and −1; False if it is of another type or lies elsewhere."""
    width = _WHOLE.get(tensor.type)
    if width is None or not tensor.content:
        return False
    numbers: list[int] = []
    for kind, value in tensor.content:
        if kind == _RAW:
            if not isinstance(value, memoryview) or len(value) % width:
                return False
            numbers += [int.from_bytes(value[at : at + width], "little") for at in range(0, len(value), width)]
        else:
            numbers += _numbers(value)
    below_zero = {2 ** (8 * width) - 1, 2**64 - 1}
    return bool(numbers) and not any(number == 0 or number in below_zero for number in numbers)


def _check_plain(content: memoryview) -> None:
    """A message in which nothing can be refused but how it is written."""
    _walk(content, {}, {})


def _read_value(content: memoryview) -> tuple[bytes, int]:
    """The name of a declared input, output or value between nodes, and its element type; 0 if it has none."""
    name, kind = b"", 0
    for number, value in _fields(content):
        if number == 1:
            name = bytes(_inner(value))
        elif number == 2:
            kind = _read_type(_inner(value))
        elif number == 4:
            _check_plain(_inner(value))
    return name, kind


def _read_type(content: memoryview) -> int:
    """A graph declares a thousand values of a few types, which are short."""
    return _read_short_type(bytes(content)) if len(content) <= _SHORT_TYPE else _read_whole_type(content)


@lru_cache(maxsize=256)
def _read_short_type(content: bytes) -> int:
    return _read_whole_type(memoryview(content))


def _read_whole_type(content: memoryview) -> int:
    kinds: list[int] = []

    def tensor(message: memoryview) -> None:
        kinds.extend(value for number, value in _fields(message) if number == 1 and isinstance(value, int))
        _walk(message, {2: _check_shape}, {})

    _walk(content, {1: tensor}, _TYPE_REFUSED)
    if _STRING in kinds:
        raise _Refused("strings")
    return kinds[0] if len(set(kinds)) == 1 else 0


def _check_parts(count: int) -> None:
    if count > MOST_PARTS:
        raise _Refused(f"more than {MOST_PARTS} nodes, names and constants")


def _check_shape(content: memoryview) -> None:
    _check_dimensions(len(_walk(content, {1: _check_plain}, {})))


def _check_dimensions(count: int) -> None:
    if count > MAX_DIMENSIONS:
        raise _Refused(f"a tensor of more than {MAX_DIMENSIONS} dimensions")


def _check_domain(content: memoryview) -> None:
    domain = bytes(content).decode()
    if domain not in ("", "ai.onnx"):
        raise _Refused(f"operators of {domain[:60]!r}")


def _read_tensor(content: memoryview, beside: int) -> _Tensor:
    """A constant, after the check of its size. No type packs more than two values into a byte."""
    made, sizes = _Tensor(), []
    for number, value in _fields(content):
        if number == 1:
            sizes += _sizes(value)
            _check_dimensions(len(sizes))
        elif number in _TENSOR_INNER:
            _TENSOR_INNER[number](_inner(value))
        elif number == 2 and isinstance(value, int):
            made.type = value
        elif number == 8:
            made.name = bytes(_inner(value))
        elif number in (_RAW, _INT32_DATA, _INT64_DATA) and value is not None:
            made.content.append((number, value))
            _check_parts(len(made.content))
        if number == 6 or made.type == _STRING:
            raise _Refused("strings")
    if any(size >= _LARGEST_SIDE for size in sizes) or math.prod(sizes) > 2 * (len(content) + beside):
        raise _Refused(f"a tensor of shape {sizes[:8]} in {len(content) + beside} bytes")
    return made


def _check_outside(content: memoryview) -> None:
    """A key and a value, each once: of two values the check of weights would see one, ONNX Runtime the other."""
    if _walk(content, dict.fromkeys((1, 2), len), {}) != [1, 2]:
        raise _Refused("weights outside the file, described in an unusual way")


_TENSOR_INNER: dict[int, Callable[[memoryview], object]] = {3: _check_plain, 13: _check_outside, 16: _check_plain}


def _sizes(value: int | memoryview | None) -> list[int]:
    """The sizes of a tensor, as `_numbers`."""
    if isinstance(value, memoryview):
        _check_dimensions(len(value) // _LONGEST_VARINT)  # before the list is made
    return _numbers(value)


def _numbers(value: int | memoryview | None) -> list[int]:
    """The values of a repeated int64, packed or not. Negative ones appear as 2^63 and more."""
    if isinstance(value, int):
        return [value]
    if value is None:
        raise IndexError
    numbers, at = [], 0
    while at < len(value):
        number, at = _number(value, at)
        numbers.append(number)
    return numbers


def _walk(
    message: memoryview, inner: Mapping[int, Callable[[memoryview], object]], refused: Mapping[int, str]
) -> list[int]:
    """Pass each message of the fields in `inner` to its check. Returns their numbers."""
    numbers = []
    for number, value in _fields(message):
        if number in refused:
            raise _Refused(refused[number])
        if number in inner:
            inner[number](_inner(value))
            numbers.append(number)
    return numbers


def _inner(value: int | memoryview | None) -> memoryview:
    """The bytes of a field that holds bytes.

    IndexError: it was written as a number.
    """
    if not isinstance(value, memoryview):
        raise IndexError
    return value


def _fields(message: memoryview) -> Fields:
    """(number, value) of a message's fields, floats as None.

    IndexError: not a protobuf, or a group (unused in ONNX).
    """
    at, end = 0, len(message)
    while at < end:
        tag = message[at]  # nearly all tags and many sizes are one byte: calls would take half of the time
        tag, at = (tag, at + 1) if tag < 128 else _prefix(message, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise _Refused("a field with the number 0")
        if kind == _VARINT:
            value, at = _number(message, at)
            yield number, value
        elif kind == _BYTES:
            size = message[at]
            size, at = (size, at + 1) if size < 128 else _prefix(message, at)
            begin, at = at, at + size
            yield number, message[begin:at]
        elif kind in _FIXED:
            yield number, None
            at += _FIXED[kind]
        else:
            raise IndexError
    if at != end:
        raise IndexError


def _prefix(message: memoryview, at: int) -> tuple[int, int]:
    """A tag or a size, and the position after it: of two bytes or more, and not more than it needs."""
    value, after = _varint(message, at)
    if after - at > _LONGEST_PREFIX or value >= 2**32 or message[after - 1] == 0:
        raise _Refused("a tag or a size that parsers read differently")
    return value, after


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """The value of a field, and the position after it: not in more bytes than it needs."""
    value, after = _varint(message, at)
    if message[after - 1] == 0 and after - at > 1:
        raise _Refused("a number in more bytes than it needs")
    return value, after


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and the position after it."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise IndexError
