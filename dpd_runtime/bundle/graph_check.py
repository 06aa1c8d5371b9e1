"""Check of the ONNX graphs of a bundle, from their protobuf, before ONNX Runtime reads them.

A graph is a program. An accepted one has no loops, no branches, no custom code and no tensor larger than its bytes:
it ends, and it always gives the same result. Field numbers are those of onnx.proto3. A message may be written in parts
and in any order; every part is checked.
"""

import math
from collections.abc import Callable, Iterator

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
_LARGEST_SIDE = 2**31
Fields = Iterator[tuple[int, int | memoryview]]


class _Refused(ValueError):
    """The reason why a graph is refused, without its name."""


def check_graph(name: str, content: bytes, beside: int = 0) -> None:
    """Check a graph.

    Args:
        beside: size of the file that holds weights of this graph, in bytes.

    Raises:
        BundleError: not a protobuf, an operator that is not in OPERATORS, or a tensor that is larger than its bytes.
    """
    try:
        graphs = _walk(memoryview(content), {7: lambda graph: _check_contents(graph, beside)}, _MODEL_REFUSED)
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

    def attribute(content: memoryview) -> None:
        _walk(content, {5: tensor, 10: tensor}, _ATTRIBUTE_REFUSED)

    def node(content: memoryview) -> None:
        _walk(content, {4: _check_operator, 5: attribute, 7: _check_domain}, {})

    _walk(graph, {1: node, 5: tensor}, _GRAPH_REFUSED)


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
    sizes = [size for number, value in _fields(content) if number == 1 for size in _sizes(value)]
    if any(size >= _LARGEST_SIDE for size in sizes) or math.prod(sizes) > 2 * (len(content) + beside):
        raise _Refused(f"a tensor of shape {sizes[:8]} in {len(content) + beside} bytes")


def _sizes(value: int | memoryview) -> list[int]:
    """The values of a repeated int64, packed or not. Negative ones appear as 2^63 and more."""
    if isinstance(value, int):
        return [value]
    sizes, at = [], 0
    while at < len(value):
        size, at = _varint(value, at)
        sizes.append(size)
    return sizes


def _walk(message: memoryview, inner: dict[int, Callable[[memoryview], None]], refused: dict[int, str]) -> int:
    """Pass each message of the fields in `inner` to its check. Returns their number."""
    found = 0
    for number, value in _fields(message):
        if number in refused:
            raise _Refused(refused[number])
        if number in inner:
            if isinstance(value, int):
                raise IndexError
            inner[number](value)
            found += 1
    return found


def _fields(message: memoryview) -> Fields:
    """(number, value) of a message's fields, floats as 0. IndexError: not a protobuf, or a group (unused in ONNX)."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif kind == _BYTES:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        elif kind in _FIXED:
            yield number, 0
            at += _FIXED[kind]
        else:
            raise IndexError
    if at != end:
        raise IndexError


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise IndexError
