"""Protobuf written by hand: what no library writes, put into a message at any depth of a model."""

from collections.abc import Callable

WIDE = 2**29
"""A parser that keeps 32 bits of a tag reads field n + WIDE as field n."""
PLACES = {
    "model": (),
    "opset": (8,),
    "graph": (7,),
    "node": (7, 1),
    "attribute": (7, 1, 5),
    "tensor of an attribute": (7, 1, 5, 5),
    "tensor": (7, 5),
    "weights outside": (7, 5, 13),
    "input": (7, 11),
    "output": (7, 12),
    "value": (7, 13),
    "type": (7, 11, 2),
    "tensor type": (7, 11, 2, 1),
    "shape": (7, 11, 2, 1, 2),
    "dimension": (7, 11, 2, 1, 2, 1),
}
"""Field numbers of onnx.proto3 on the way from the model to a message."""


def varint(value: int, length: int = 1) -> bytes:
    """A number in as few bytes as possible, but at least `length`."""
    written = bytearray()
    while value > 127 or len(written) < length - 1:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def field(number: int, content: bytes, tag_length: int = 1, size_length: int = 1) -> bytes:
    """A field of bytes; its tag and its size take at least so many bytes."""
    return varint(number << 3 | 2, tag_length) + varint(len(content), size_length) + content


def unvarint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and the position after it."""
    value, shift = 0, 0
    while message[at] > 127:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1


def appended(message: bytes, place: tuple[int, ...], extra: bytes) -> bytes:
    """The message with `extra` at the end of the first message at `place`, which is added where there is none."""
    return changed(message, place, lambda content: content + extra)


def changed(message: bytes, place: tuple[int, ...], change: Callable[[bytes], bytes]) -> bytes:
    """The message with another content of the first message at `place`, which is empty where there is none."""
    if not place:
        return change(message)
    at = 0
    while at < len(message):
        begin = at
        tag, at = unvarint(message, at)
        if tag & 7 == 2:
            size, at = unvarint(message, at)
            if tag >> 3 == place[0]:
                inner = changed(message[at : at + size], place[1:], change)
                return message[:begin] + field(place[0], inner) + message[at + size :]
            at += size
        elif tag & 7 == 0:
            _, at = unvarint(message, at)
        else:
            at += {1: 8, 5: 4}[tag & 7]
    return message + field(place[0], changed(b"", place[1:], change))
