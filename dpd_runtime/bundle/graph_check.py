"""Check of the ONNX graphs of a bundle, from their protobuf, before ONNX Runtime reads them.

A graph is a program. An accepted one has no loops, no branches, no custom code and no tensor larger than its bytes:
it ends, and it always gives the same result. Field numbers are those of onnx.proto3. A message may be written in parts
and in any order; every part is checked.

Parsers differ in what they make of unusual protobuf: ONNX Runtime's keeps 32 bits of a tag, so that field 2^29 + 4 is
field 4 there. So a graph is accepted only in the form that all parsers read alike, in every message that holds others,
a shape or an operator.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from dpd_runtime.errors import BundleError

_NAMES = """
Abs Acos Add And ArgMax ArgMin Asin Atan Attention AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot
BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose
Cos Cosh CumSum DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike
Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu
Less LessOrEqual Log LogSoftmax LpNormalization MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization
Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization Range
Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
Relu Reshape Resize RotaryEmbedding Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh Tile TopK Transpose Trilu
Unsqueeze Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
"""Accepted operators of the ONNX domain: they end, are deterministic, and use plain tensors only."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_MODEL_REFUSED = {20: "training", 25: "functions"}
_GRAPH_REFUSED = {15: "sparse tensors"}
_ATTRIBUTE_REFUSED = {
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
_SHORT_TYPE = 100  # bytes
MAX_DIMENSIONS = 64
"""Of a tensor: NumPy's limit. Multiplying a list of any length takes time that grows with its square."""
_LONGEST_PREFIX, _LONGEST_VARINT = 5, 10  # bytes: tags and sizes have 32 bits, values 64
_ORT_MARK = b"ORTM"
"""ONNX Runtime reads a file with these bytes at 4 to 8 as its own format, whatever protobuf it is."""
Fields = Iterator[tuple[int, int | memoryview | None]]


class _Refused(ValueError):
    """The reason why a graph is refused, without its name."""


def check_graph(name: str, content: bytes, beside: int = 0) -> None:
    """Check a graph.

    Args:
        beside: size of the file that holds weights of this graph, in bytes.

    Raises:
        BundleError: not a protobuf, or one that parsers read differently; an operator that is not in OPERATORS; or a
            tensor that is larger than its bytes.
    """
    checked = {7: lambda graph: _check_contents(graph, beside)} | dict.fromkeys((8, 14, 26), _check_plain)
    try:
        if content[4:8] == _ORT_MARK:
            raise _Refused("the mark of ONNX Runtime's own format in bytes 4 to 8")
        graphs = sum(number == 7 for number in _walk(memoryview(content), checked, _MODEL_REFUSED))
        if graphs != 1:
            raise _Refused(f"{graphs} graphs in one file")
    except (_Refused, IndexError, UnicodeDecodeError) as error:
        said = str(error) if isinstance(error, _Refused) else "not an ONNX file"
        raise BundleError(
            f"{name}: {said}; dpd export makes no such graph: upgrade dpd-distill or export the bundle again"
        ) from error


def _check_contents(graph: memoryview, beside: int) -> None:
    def tensor(content: memoryview) -> None:
        _check_tensor(content, beside)

    attribute_fields = {5: tensor, 10: tensor}

    def attribute(content: memoryview) -> None:
        _walk(content, attribute_fields, _ATTRIBUTE_REFUSED)

    node_fields = {4: _check_operator, 5: attribute, 7: _check_domain, 9: _check_plain, 10: _check_plain}

    def node(content: memoryview) -> None:
        _walk(content, node_fields, {})

    values = dict.fromkeys((11, 12, 13), _check_value)
    _walk(graph, {1: node, 5: tensor, 14: _check_plain, 16: _check_plain} | values, _GRAPH_REFUSED)


def _check_plain(content: memoryview) -> None:
    """A message in which nothing can be refused but how it is written."""
    _walk(content, {}, {})


def _check_value(content: memoryview) -> None:
    """The declaration of an input, an output or a value between nodes."""
    _walk(content, _VALUE_FIELDS, {})


def _check_type(content: memoryview) -> None:
    """A graph declares a thousand values of a few types, which are short."""
    if len(content) <= _SHORT_TYPE:
        _check_short_type(bytes(content))
    else:
        _walk(content, _TYPE_FIELDS, _TYPE_REFUSED)


@lru_cache(maxsize=256)
def _check_short_type(content: bytes) -> None:
    _walk(memoryview(content), _TYPE_FIELDS, _TYPE_REFUSED)


def _check_tensor_type(content: memoryview) -> None:
    _walk(content, {2: _check_shape}, {})


def _check_shape(content: memoryview) -> None:
    _check_dimensions(len(_walk(content, {1: _check_plain}, {})))


_VALUE_FIELDS = {2: _check_type, 4: _check_plain}
_TYPE_FIELDS = {1: _check_tensor_type}


def _check_dimensions(count: int) -> None:
    if count > MAX_DIMENSIONS:
        raise _Refused(f"a tensor of more than {MAX_DIMENSIONS} dimensions")


def _check_operator(content: memoryview) -> None:
    operator = bytes(content).decode()
    if operator not in OPERATORS:
        raise _Refused(f"operator {operator[:60]!r}")


def _check_domain(content: memoryview) -> None:
    domain = bytes(content).decode()
    if domain not in ("", "ai.onnx"):
        raise _Refused(f"operators of {domain[:60]!r}")


def _check_tensor(content: memoryview, beside: int) -> None:
    """Check the size of a tensor. No type packs more than two values into a byte."""
    sizes: list[int] = []
    for number, value in _fields(content):
        if number == 1:
            sizes += _sizes(value)
            _check_dimensions(len(sizes))
        elif number in _TENSOR_INNER:
            if not isinstance(value, memoryview):
                raise IndexError
            _TENSOR_INNER[number](value)
    if any(size >= _LARGEST_SIDE for size in sizes) or math.prod(sizes) > 2 * (len(content) + beside):
        raise _Refused(f"a tensor of shape {sizes[:8]} in {len(content) + beside} bytes")


def _check_outside(content: memoryview) -> None:
    """A key and a value, each once: of two values the check of weights would see one, ONNX Runtime the other."""
    if _walk(content, dict.fromkeys((1, 2), len), {}) != [1, 2]:
        raise _Refused("weights outside the file, described in an unusual way")


_TENSOR_INNER: dict[int, Callable[[memoryview], object]] = {3: _check_plain, 13: _check_outside, 16: _check_plain}


def _sizes(value: int | memoryview | None) -> list[int]:
    """The values of a repeated int64, packed or not. Negative ones appear as 2^63 and more."""
    if isinstance(value, int):
        return [value]
    if value is None:
        raise IndexError
    _check_dimensions(len(value) // _LONGEST_VARINT)  # before the list is made
    sizes, at = [], 0
    while at < len(value):
        size, at = _number(value, at)
        sizes.append(size)
    return sizes


def _walk(
    message: memoryview, inner: Mapping[int, Callable[[memoryview], object]], refused: Mapping[int, str]
) -> list[int]:
    """Pass each message of the fields in `inner` to its check. Returns their numbers."""
    found = []
    for number, value in _fields(message):
        if number in refused:
            raise _Refused(refused[number])
        if number in inner:
            if not isinstance(value, memoryview):
                raise IndexError
            inner[number](value)
            found.append(number)
    return found


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
