"""The one reader of ONNX: what a graph may hold is read from its protobuf before ONNX Runtime sees it.

A graph is a program. An accepted one has no loops, no branches, no custom code, no strings, no weights elsewhere and no
tensor larger than its bytes: it ends, and it always gives the same result. Without a trusted signature it holds only
the operators that dpd emits, and divides integers only by constants other than 0 and −1, at which a processor stops the
process.

Parsers differ in what they make of unusual protobuf: ONNX Runtime's keeps 32 bits of a tag, so that field 2^29 + 4 is
field 4 there; each joins a message that is written in parts; each skips fields that it does not know. So a graph is
accepted only in the form that all parsers read alike: every message is read here, each of its fields is one of
onnx.proto3 with that field's type and width, and a field with one value stands once.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from dpd_runtime.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    "dpd private": "Log Min Reciprocal ReduceSum Sqrt Sub",
}
"""Operators by what needs them first: a part of a base, an option of `dpd export`, or a classifier.

The names are those of the cases in tests/contract/test_operators.py, which trace such a graph. All end, are
deterministic and use plain tensors.
"""
OPERATORS = frozenset(name for names in OPERATORS_OF.values() for name in names.split())
"""Accepted operators of the ONNX domain in a graph that no trusted key has signed."""

_DIVIDING = "Div"  # the one operator of OPERATORS that may divide whole numbers
_FLOATS = frozenset({1, 10, 11, 16})  # onnx.TensorProto.DataType: float32, float16, float64, bfloat16
_STRING = 8
_WIDTH_AND_DATA = {6: (4, 5), 7: (8, 7)}
"""Of int32 and int64: bytes of a number, and the field of a TensorProto with their numbers where it is not raw_data."""
_RAW, _INT32_DATA, _INT64_DATA = 9, 5, 7  # fields of a TensorProto
_OF_TYPES = frozenset({b"to", b"dtype", b"output_dtype", b"stash_type"})
"""Attributes that name an element type: 64 bits in the file, of which ONNX Runtime keeps 32."""
WEIGHTS_NAME = "model.onnx_data"
"""The file beside `model.onnx` with its weights, if they are too large for a protobuf file."""
_UNUSUAL = "described in an unusual way"
_PLACE_KEYS = frozenset({b"location", b"offset", b"length", b"checksum"})
_LARGEST_SIDE = 2**31
MOST_PARTS = 200_000
"""Of a graph: nodes with their inputs, outputs and attributes, declared values, and constants with their fields. A part
of two bytes takes up to two hundred here. The UNet of the embedded bundle has 5,000 parts."""
MOST_FIELDS = 500_000
"""Of all messages of a graph, so that a small file ends soon. That UNet has 12,000."""
_SHORT_TYPE = 100  # bytes
_MOST_FACTS = 2**23
"""Bytes of a model's metadata in all: ten thousand names of two hundred letters of any script have eight million."""
_LONGEST_NAME = 1000  # bytes, of an operator or a domain
MAX_DIMENSIONS = 64
"""Of a tensor: NumPy's limit. Multiplying a list of any length takes time that grows with its square."""
_LONGEST_PREFIX, _LONGEST_VARINT = 5, 10  # bytes: tags and sizes have 32 bits, values 64
_SHORT_LIST = 100  # bytes
_PIECE = 2**18  # bytes of packed numbers that are decoded together
_ORT_MARK = b"ORTM"
"""ONNX Runtime reads a file with these bytes at 4 to 8 as its own format, whatever protobuf it is."""
Value = int | memoryview | None
"""Of a field: a number, bytes, or None for floats."""


class _Refused(ValueError):
    """The reason why a graph is refused, without its name."""


class _WeightsElsewhere(ValueError):
    """How a tensor says that its values lie elsewhere than in the graph or the file beside it."""


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_ONCE, _ONCE_SHORT, _NUMBERS, _SHORTS, _FLOATS_4, _FLOATS_8, _MANY, _REFUSED = range(8)


class _Message:
    """The fields of one message of onnx.proto3, by their numbers.

    once, many: bytes, texts and messages, of which there is one or any number. number, short: one of 64 or 32 bits.
    single: one float. numbers, shorts, floats, doubles: lists, packed or not. refused: what such a field is.
    """

    def __init__(
        self,
        name: str,
        *,
        once: tuple[int, ...] = (),
        many: tuple[int, ...] = (),
        number: tuple[int, ...] = (),
        short: tuple[int, ...] = (),
        single: tuple[int, ...] = (),
        numbers: tuple[int, ...] = (),
        shorts: tuple[int, ...] = (),
        floats: tuple[int, ...] = (),
        doubles: tuple[int, ...] = (),
        refused: dict[int, str] | None = None,
    ) -> None:
        self.name, self.refused = name, refused or {}
        self.kinds: dict[int, int] = {}
        for fields, kind, wires in (
            (once, _ONCE, (_BYTES,)),
            (many, _MANY, (_BYTES,)),
            (number, _ONCE, (_VARINT,)),
            (short, _ONCE_SHORT, (_VARINT,)),
            (single, _ONCE, (_FIXED32,)),
            (numbers, _NUMBERS, (_VARINT, _BYTES)),
            (shorts, _SHORTS, (_VARINT, _BYTES)),
            (floats, _FLOATS_4, (_FIXED32, _BYTES)),
            (doubles, _FLOATS_8, (_FIXED64, _BYTES)),
            (tuple(self.refused), _REFUSED, (_VARINT, _FIXED64, _BYTES, _FIXED32)),
        ):
            self.kinds |= {number << 3 | wire: kind for number in fields for wire in wires}
        self.numbers = {tag >> 3 for tag in self.kinds}


_ENTRY = _Message("an entry of metadata", once=(1, 2))
_PLACE = _Message("the place of weights", many=(1, 2))
_OPSET = _Message("a set of operators", once=(1,), number=(2,))
_MODEL = _Message(
    "the model",
    once=(2, 3, 4, 6, 7),
    number=(1, 5),
    many=(8, 14),
    refused={20: "training", 25: "functions", 26: "configurations of devices"},
)
_GRAPH = _Message("the graph", once=(2, 10), many=(1, 5, 11, 12, 13, 14, 16), refused={15: "sparse tensors"})
_QUANTISED = _Message("an annotation", once=(1,), many=(2,))
_NODE = _Message("a node", once=(3, 4, 6, 7, 8), many=(1, 2, 5, 9), refused={10: "configurations of devices"})
_ATTRIBUTE = _Message(
    "an attribute",
    once=(1, 4, 5, 13),
    many=(10,),
    number=(3,),
    short=(20,),
    single=(2,),
    numbers=(8,),
    floats=(7,),
    refused={
        9: "strings",
        6: "a graph within the graph",
        11: "graphs within the graph",
        14: "a type",
        15: "types",
        21: "a reference",
        22: "a sparse tensor",
        23: "sparse tensors",
    },
)
_TENSOR = _Message(
    "a tensor",
    once=(8, 9, 12),
    many=(13, 16),
    short=(2, 14),
    numbers=(1, 7, 11),
    shorts=(5,),
    floats=(4,),
    doubles=(10,),
    refused={3: "a tensor in segments", 6: "strings"},
)
_VALUE = _Message("a declared value", once=(1, 2, 3), many=(4,))
_TYPE = _Message(
    "a type",
    once=(1, 6),
    refused={4: "sequences", 5: "maps", 7: "opaque types", 8: "sparse tensors", 9: "optional values"},
)
_TENSOR_TYPE = _Message("the type of a tensor", once=(2,), short=(1,))
_SHAPE = _Message("a shape", many=(1,))
_DIMENSION = _Message("a dimension", once=(2, 3), number=(1,))


@dataclass(frozen=True)
class CheckedGraph:
    """What only a trusted signature may bring, of a graph that is accepted otherwise.

    Args:
        unusual: its operators that are not in OPERATORS, in order.
        may_stop: whether it divides whole numbers by what is computed, by 0 or by −1.
        facts: the entries of the model's metadata, for other tools (`dpd_runtime.graph_facts`).
    """

    name: str
    unusual: tuple[str, ...]
    may_stop: bool
    facts: Mapping[str, str]

    def require_usual(self, maker: str = "dpd export") -> None:
        """Check that it may run although no trusted key signed it.

        Raises:
            BundleError: it may not.
        """
        if self.unusual:
            raise _error(self.name, f"operator {self.unusual[0][:60]!r} without a trusted signature", maker)
        if self.may_stop:
            raise _error(self.name, "an integer division by what is computed, by 0 or by -1", maker)

    def require_facts(self, facts: Mapping[str, str], maker: str = "dpd export") -> None:
        """Check that it says nothing of itself, as older ones, or what its bundle or classifier says.

        Raises:
            BundleError: it says something else, which other tools would believe.
        """
        wrong = sorted(key for key in {*self.facts, *facts} if self.facts.get(key) != facts.get(key))
        if self.facts and wrong:
            raise _error(self.name, f"metadata {wrong[0][:60]!r} that contradicts the files beside it", maker)


def check_graph(
    name: str, content: bytes, beside: int = 0, *, trusted: bool = False, maker: str = "dpd export"
) -> tuple[str, ...]:
    """Read a graph, and check that it may run.

    Args:
        trusted: whether a trusted key signed it. Then any operator of the ONNX domain is accepted.

    Returns:
        The operators that are not in OPERATORS; none if it is not trusted.

    Raises:
        BundleError: as `read_graph` and `CheckedGraph.require_usual`.
    """
    graph = read_graph(name, content, beside, maker=maker)
    if not trusted:
        graph.require_usual(maker)
    return graph.unusual


def read_graph(name: str, content: bytes, beside: int = 0, *, maker: str = "dpd export") -> CheckedGraph:
    """Read a graph whole.

    Args:
        beside: size of the file WEIGHTS_NAME beside it, in bytes; 0 where there is none. Then all weights must be in
            the graph itself.
        maker: the command that makes such graphs, for the message.

    Raises:
        BundleError: not a protobuf, or one that parsers read differently; a string, a loop, functions; weights
            elsewhere; or a tensor that is larger than its bytes.
    """
    reader = _Reader(beside)
    try:
        if content[4:8] == _ORT_MARK:
            raise _Refused("the mark of ONNX Runtime's own format in bytes 4 to 8")
        reader.read_model(memoryview(content))
    except _WeightsElsewhere as error:
        raise BundleError(
            f"{name} has weights outside itself {error}; {maker} makes no such graph: run {maker} again"
        ) from error
    except (_Refused, IndexError, UnicodeDecodeError) as error:
        raise _error(name, str(error) if isinstance(error, _Refused) else "not an ONNX file", maker) from error
    unusual = tuple(sorted({node.operator for node in reader.nodes} - OPERATORS))
    return CheckedGraph(name, unusual, _may_stop(reader), reader.facts)


def _error(name: str, said: str, maker: str) -> BundleError:
    return BundleError(f"{name}: {said}; {maker} makes no such graph: upgrade dpd-distill or run {maker} again")


@dataclass
class _Node:
    """A node, as far as the check of divisions needs it. type: of its attribute `to`."""

    operator: str = ""
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    type: int = 0


@dataclass
class _Tensor:
    """A constant. type: of onnx.TensorProto.DataType. content: the fields that can hold integers, as they are."""

    name: bytes = b""
    type: int = 0
    content: list[tuple[int, int | memoryview]] = field(default_factory=list)


class _Reader:
    """Reads one model, and keeps what its graph's values are made by.

    values: element types of declared values, by name. facts: the model's metadata. beside: bytes of the file with
    weights.
    """

    def __init__(self, beside: int) -> None:
        self.beside = beside
        self.nodes: list[_Node] = []
        self.tensors: list[_Tensor] = []
        self.values: list[tuple[bytes, int]] = []
        self.facts: dict[str, str] = {}
        self._parts = self._fields = self._told = 0

    def read_model(self, message: memoryview) -> None:
        found = False
        for number, value in self._read(message, _MODEL):
            if number == 7:
                found = True
                self._read_graph(_inner(value))
            elif number == 8:
                for _ in self._read(_inner(value), _OPSET):
                    pass
            elif number == 14:
                self._told += len(_inner(value))
                if self._told > _MOST_FACTS:  # before they are decoded, which takes up to four bytes a letter
                    raise _Refused(f"metadata of more than {_MOST_FACTS} bytes")
                entry = self._read_entry(value)
                key, text = (bytes(entry.get(number, b"")).decode() for number in (1, 2))
                if key in self.facts:
                    raise _Refused("metadata with two values of one key")
                self.facts[key] = text
        if not found:
            raise _Refused("no graph in the file")

    def _read_graph(self, message: memoryview) -> None:
        for number, value in self._read(message, _GRAPH):
            if number == 1:
                self.nodes.append(self._read_node(_inner(value)))
            elif number == 5:
                self.tensors.append(self._read_tensor(_inner(value)))
            elif number in (11, 12, 13):
                declared = self._read_value(_inner(value))
                if number != 12:
                    self.values.append(declared)
                self._count(1)
            elif number == 14:
                for inner, entry in self._read(_inner(value), _QUANTISED):
                    if inner == 2:
                        self._read_entry(entry)
            elif number == 16:
                self._read_entry(value)

    def _read_node(self, message: memoryview) -> _Node:
        made, names = _Node(), set[bytes]()
        for number, value in self._read(message, _NODE):
            content = _inner(value)
            if number == 1:
                made.inputs.append(bytes(content))
                self._count(1)
            elif number == 2:
                made.outputs.append(bytes(content))
                self._count(1)
            elif number == 4:
                made.operator = _name(content)
            elif number == 5:
                name, whole = self._read_attribute(content)
                if name in names:
                    raise _Refused("a node with two attributes of one name")
                names.add(name)
                if name == b"to":
                    made.type = whole
                self._count(1)
            elif number == 7:
                domain = _name(content)
                if domain not in ("", "ai.onnx"):
                    raise _Refused(f"operators of {domain[:60]!r}")
            elif number == 9:
                self._read_entry(value)
        self._count(1)
        return made

    def _read_attribute(self, message: memoryview) -> tuple[bytes, int]:
        """Name and whole number of an attribute; 0 if it has none."""
        name, whole = b"", 0
        for number, value in self._read(message, _ATTRIBUTE):
            if number == 1:
                name = bytes(_inner(value))
            elif number == 3 and isinstance(value, int):
                whole = value
            elif number in (5, 10):
                self._read_tensor(_inner(value))
        if name in (b"value_string", b"value_strings"):
            raise _Refused("strings")
        if name in _OF_TYPES:
            if whole >= 2**31:
                raise _Refused("an element type of more than 32 bits")
            if whole == _STRING:
                raise _Refused("strings")
        return name, whole

    def _read_tensor(self, message: memoryview) -> _Tensor:
        """A constant, after the check of its size. No type packs more than two values into a byte."""
        made, sizes, place, elsewhere = _Tensor(), list[int](), dict[bytes, bytes](), 0
        for number, value in self._read(message, _TENSOR):
            if number == 1:
                sizes += _sizes(value)
                _check_dimensions(len(sizes))
            elif number == 2 and isinstance(value, int):
                made.type = value
            elif number == 8:
                made.name = bytes(_inner(value))
            elif number == 13:
                key, text = self._read_place(_inner(value))
                if key in place or key not in _PLACE_KEYS:
                    raise _WeightsElsewhere(_UNUSUAL)
                place[key] = text
            elif number == 14 and isinstance(value, int):
                elsewhere = value
            elif number == 16:
                self._read_entry(value)
            elif number in (_RAW, _INT32_DATA, _INT64_DATA) and value is not None:
                made.content.append((number, value))
                self._count(1)
        self._count(1)
        if made.type == _STRING:
            raise _Refused("strings")
        if (place or elsewhere) and (not self.beside or place.get(b"location") != WEIGHTS_NAME.encode()):
            raise _WeightsElsewhere(f"that are not in {WEIGHTS_NAME} beside it")
        if bool(place) is not (elsewhere == 1):
            raise _WeightsElsewhere(_UNUSUAL)
        size = len(message) + self.beside
        if any(side >= _LARGEST_SIDE for side in sizes) or math.prod(sizes) > 2 * size:
            raise _Refused(f"a tensor of shape {sizes[:8]} in {size} bytes")
        return made

    def _read_place(self, message: memoryview) -> tuple[bytes, bytes]:
        """A key and a value, each once: of two values this check would see one, ONNX Runtime the other."""
        found = list(self._read(message, _PLACE))
        if [number for number, _ in found] != [1, 2]:
            raise _WeightsElsewhere(_UNUSUAL)
        return bytes(_inner(found[0][1])), bytes(_inner(found[1][1]))

    def _read_entry(self, value: Value) -> dict[int, memoryview]:
        """Key 1 and value 2, undecoded: those of nodes and tensors are notes that nobody reads."""
        self._count(1)
        return {number: _inner(part) for number, part in self._read(_inner(value), _ENTRY)}

    def _read_value(self, message: memoryview) -> tuple[bytes, int]:
        """The name of a declared input, output or value between nodes, and its element type; 0 if it has none."""
        name, kind = b"", 0
        for number, value in self._read(message, _VALUE):
            if number == 1:
                name = bytes(_inner(value))
            elif number == 2:
                content = _inner(value)
                # a graph declares a thousand values of a few types, which are short
                kind = _short_type(bytes(content)) if len(content) <= _SHORT_TYPE else self.read_type(content)
            elif number == 4:
                self._read_entry(value)
        return name, kind

    def read_type(self, message: memoryview) -> int:
        """The element type of a tensor's type; 0 if it has none."""
        kind = 0
        for number, value in self._read(message, _TYPE):
            if number != 1:
                continue
            for inner, content in self._read(_inner(value), _TENSOR_TYPE):
                if inner == 1 and isinstance(content, int):
                    kind = content
                elif inner == 2:
                    self._read_shape(_inner(content))
        if kind == _STRING:
            raise _Refused("strings")
        return kind

    def _read_shape(self, message: memoryview) -> None:
        for place, (_, value) in enumerate(self._read(message, _SHAPE)):
            _check_dimensions(place + 1)
            for _ in self._read(_inner(value), _DIMENSION):
                pass

    def _count(self, parts: int) -> None:
        self._parts += parts
        if self._parts > MOST_PARTS:
            raise _Refused(f"more than {MOST_PARTS} nodes, names and constants")

    def _read(self, message: memoryview, kind: _Message) -> Iterator[tuple[int, Value]]:
        """(number, value) of the fields of a message that is of this kind.

        Raises:
            IndexError: not a protobuf, a group (unused in ONNX), or a field of another type.
            _Refused: as `_Message` says, a field that is not in it, a number of too many bits, or a field that has one
                value and stands twice: a message in parts.
        """
        at, end, seen, twice, kinds = 0, len(message), set[int](), False, kind.kinds
        fields = 0
        while at < end:
            tag = message[at]  # nearly all tags and many sizes are one byte: calls would take half of the time
            tag, at = (tag, at + 1) if tag < 128 else _prefix(message, at)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise _Refused("a field with the number 0")
            value: Value = None
            if wire == _VARINT:
                value, at = _number(message, at)
            elif wire == _BYTES:
                size = message[at]
                size, at = (size, at + 1) if size < 128 else _prefix(message, at)
                begin, at = at, at + size
                if at > end:
                    raise IndexError
                value = message[begin:at]
            elif wire in _FIXED:
                at += _FIXED[wire]
            else:
                raise IndexError
            fields += 1
            what = kinds.get(tag)
            if what is None:
                if number in kind.numbers:
                    raise IndexError
                raise _Refused(f"field {number} of {kind.name}, which this dpd does not know")
            if what == _REFUSED:
                raise _Refused(kind.refused[number])
            if what <= _ONCE_SHORT:
                twice = twice or number in seen
                seen.add(number)
                if what == _ONCE_SHORT and isinstance(value, int) and value >= 2**31:
                    raise _Refused("a number of more than 32 bits")
            elif what < _MANY and value is not None:
                _check_list(what, value)
            yield number, value
            if fields & 1023 == 0:
                self._count_fields(1024)
        if at != end:
            raise IndexError
        self._count_fields(fields & 1023)
        if twice:
            raise _Refused("a message in parts, of which parsers make one")

    def _count_fields(self, fields: int) -> None:
        self._fields += fields
        if self._fields > MOST_FIELDS:
            raise _Refused(f"more than {MOST_FIELDS} fields")


@lru_cache(maxsize=256)
def _short_type(content: bytes) -> int:
    return _Reader(0).read_type(memoryview(content))


def _may_stop(graph: _Reader) -> bool:
    """Whether a graph divides whole numbers by anything but constants other than 0 and −1."""
    divisors = {node.inputs[1] for node in graph.nodes if node.operator == _DIVIDING and len(node.inputs) > 1}
    if not divisors:
        return False
    types, constants = _floats(graph), dict[bytes, list[_Tensor]]()
    for tensor in graph.tensors:
        constants.setdefault(tensor.name, []).append(tensor)
    for name in divisors:
        safe = name in constants and all(_divides(tensor) for tensor in constants[name])
        if not (types.get(name, False) or safe):
            return True
    return False


def _floats(graph: _Reader) -> dict[bytes, bool]:
    """Whether each value of a graph is a tensor of floats; False if that is not sure, or not for all of its makers.

    ONNX Runtime itself checks that the types of a node's inputs agree. So most outputs have the first input's type.
    """
    types: dict[bytes, bool] = {}

    def learn(name: bytes, floats: bool) -> None:
        types[name] = types.get(name, True) and floats

    for tensor in graph.tensors:
        learn(tensor.name, tensor.type in _FLOATS)
    for name, kind in graph.values:
        learn(name, kind in _FLOATS)
    for node in graph.nodes:  # in the order of computation, or onnxruntime refuses the graph
        if node.operator in _MADE_OF:
            floats = _MADE_OF[node.operator](node)
        else:
            place = 1 if node.operator == "Where" else 0
            floats = len(node.inputs) > place and types.get(node.inputs[place], False)
        for place, name in enumerate(node.outputs):
            learn(name, floats and not (place and node.operator == "MaxPool"))  # its second output: positions
    return types


_MADE_OF: dict[str, Callable[[_Node], bool]] = {
    "Cast": lambda node: node.type in _FLOATS,
    "DequantizeLinear": lambda node: True,
} | dict.fromkeys(("Shape", "QuantizeLinear", "Not", "IsNaN"), lambda node: False)
"""Operators whose output has another type than their first input."""


def _divides(tensor: _Tensor) -> bool:
    """Whether a constant has whole numbers other than 0 and −1; False if it is of another type or lies elsewhere."""
    import numpy as np  # here, as --help imports this module

    width, data = _WIDTH_AND_DATA.get(tensor.type, (0, 0))
    mask, any_number = 2 ** (8 * width) - 1, False
    for kind, value in tensor.content:
        if kind == _RAW and width and isinstance(value, memoryview) and len(value) % width == 0:
            pieces = iter([np.frombuffer(value, f"<u{width}")])
        elif kind == data:
            pieces = _numbers(value)
        else:
            return False
        for numbers in pieces:
            numbers = numbers & np.uint64(mask)  # of a 32-bit number in more bits, parsers keep 32
            if (numbers == 0).any() or (numbers == mask).any():
                return False
            any_number = any_number or numbers.size > 0
    return any_number


def _check_dimensions(count: int) -> None:
    if count > MAX_DIMENSIONS:
        raise _Refused(f"a tensor of more than {MAX_DIMENSIONS} dimensions")


def _sizes(value: Value) -> list[int]:
    """The sizes of a tensor, packed or not. Negative ones appear as 2^63 and more."""
    if isinstance(value, int):
        return [value]
    _check_dimensions(len(_inner(value)) // _LONGEST_VARINT)  # before the list is made
    return [size for numbers in _numbers(value) for size in numbers.tolist()]


def _check_list(kind: int, value: int | memoryview) -> None:
    """Check a field of a list, packed or not: all parsers read its numbers alike, and 32-bit ones have 32 bits."""
    if kind in (_FLOATS_4, _FLOATS_8):
        if isinstance(value, memoryview) and len(value) % (4 if kind == _FLOATS_4 else 8):
            raise IndexError
    elif isinstance(value, int):
        if kind == _SHORTS and 2**31 <= value < 2**64 - 2**31:
            raise _Refused("a number of more than 32 bits")
    else:
        for numbers in _numbers(value):
            if kind == _SHORTS and ((numbers >= 2**31) & (numbers < 2**64 - 2**31)).any():
                raise _Refused("a number of more than 32 bits")


def _numbers(value: Value) -> "Iterator[NDArray[np.uint64]]":
    """The values of a repeated whole number, packed or not, in pieces. Negative ones appear as 2^63 and more."""
    import numpy as np

    if isinstance(value, int):
        yield np.array([value], np.uint64)
        return
    content, at = _inner(value), 0
    if len(content) <= _SHORT_LIST:  # arrays would take a hundred times as long
        few = []
        while at < len(content):
            number, at = _number(content, at)
            few.append(number)
        yield np.array(few, np.uint64)
        return
    while at < len(content):
        octets = np.frombuffer(content[at : at + _PIECE], np.uint8)
        ends = np.flatnonzero(octets < 128)
        if not ends.size:
            raise IndexError
        begins = np.concatenate([[0], ends[:-1] + 1])
        lengths, last = ends - begins + 1, octets[ends]
        if lengths.max() > _LONGEST_VARINT:
            raise IndexError
        if ((lengths > 1) & (last == 0)).any() or ((lengths == _LONGEST_VARINT) & (last > 1)).any():
            raise _Refused("a number in more bytes than it needs")
        numbers = np.zeros(ends.size, np.uint64)
        for place in range(int(lengths.max())):
            longer = lengths > place
            part = (octets[begins[longer] + place] & 127).astype(np.uint64)
            numbers[longer] |= part << np.uint64(7 * place)
        yield numbers
        at += int(ends[-1]) + 1


def _name(content: memoryview) -> str:
    """The name of an operator or of a domain."""
    if len(content) > _LONGEST_NAME:
        raise _Refused(f"a name of {len(content)} bytes")
    return bytes(content).decode()


def _inner(value: Value) -> memoryview:
    """The bytes of a field that holds bytes.

    IndexError: it was written as a number.
    """
    if not isinstance(value, memoryview):
        raise IndexError
    return value


def _prefix(message: memoryview, at: int) -> tuple[int, int]:
    """A tag or a size, and the position after it: of two bytes or more, and not more than it needs."""
    value, after = _varint(message, at)
    if after - at > _LONGEST_PREFIX or value >= 2**32 or message[after - 1] == 0:
        raise _Refused("a tag or a size that parsers read differently")
    return value, after


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """The value of a field, and the position after it: not in more bytes than it needs."""
    value, after = _varint(message, at)
    length, last = after - at, message[after - 1]
    if length > 1 and (last == 0 or (length == _LONGEST_VARINT and last > 1)):
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
