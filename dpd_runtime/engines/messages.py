"""Messages between this process and one that computes untrusted graphs: a JSON object, and arrays behind it.

A message is u32le n ‖ n bytes of JSON ‖ the arrays' bytes. The JSON has the key "arrays": [[name, dtype, shape], …].
Nothing is unpickled, since the other process may be in an attacker's hands.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from dpd_runtime.annotations import Array

LONGEST = 2**20  # bytes of JSON
LARGEST = 2**31  # bytes of all arrays that an untrusted process sends, where nothing tells how many there will be
MOST_AXES = 64  # of NumPy
DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool")
_LENGTH = struct.Struct("<I")


def send(stream: BinaryIO, content: Mapping[str, Any], arrays: Mapping[str, Array] = {}) -> None:
    """Write a message. The arrays' types are among DTYPES."""
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    raw = json.dumps({**content, "arrays": listed}, allow_nan=False).encode()
    stream.write(_LENGTH.pack(len(raw)) + raw)
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


class TooLargeError(ValueError):
    """An array of more bytes than were asked for. The text is its type and shape, such as "float32 [8, 100000]"."""


def receive(stream: BinaryIO, most: int = LARGEST) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a message.

    Args:
        most: bytes of all its arrays together.

    Raises:
        EOFError: the stream ends.
        ValueError: not a message.
    """
    content = receive_content(stream)
    return content, receive_arrays(stream, content.pop("arrays"), most)


def receive_content(stream: BinaryIO) -> dict[str, Any]:
    """Read the first part of a message: its content, with the key "arrays".

    Raises:
        EOFError: the stream ends.
        ValueError: not a message.
    """
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    if length > LONGEST:
        raise ValueError(f"a message of {length} bytes")
    content: dict[str, Any] = json.loads(_read(stream, length))
    return content


def receive_arrays(stream: BinaryIO, listed: Any, most: int) -> dict[str, Array]:
    """Read the arrays of a message, which are `listed` in its content, if they have at most so many bytes together.

    Raises:
        EOFError: the stream ends.
        TooLargeError: more bytes. None of the array that goes beyond `most` was read.
        ValueError: no list of arrays.
    """
    arrays, left = {}, most
    for name, dtype, shape in listed:
        # the types first: Python multiplies texts and lists as well, into gigabytes
        good = dtype in DTYPES and isinstance(shape, list) and len(shape) <= MOST_AXES
        if not good or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"a message with an array of {dtype!r:.40} {shape!r:.200}")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > left:
            raise TooLargeError(f"{dtype} {shape!r:.200}")
        left -= size
        arrays[name] = np.frombuffer(_read(stream, size), dtype).reshape(shape)
    return arrays


def _read(stream: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    at, view = 0, memoryview(content)
    while at < size:
        got = stream.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        at += got
    return content
