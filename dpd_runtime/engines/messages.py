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
LARGEST = 2**31  # bytes of one array that an untrusted process sends
DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool")
_LENGTH = struct.Struct("<I")


def send(stream: BinaryIO, content: Mapping[str, Any], arrays: Mapping[str, Array] = {}) -> None:
    """Write a message. The arrays' types are among DTYPES."""
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    raw = json.dumps({**content, "arrays": listed}).encode()
    stream.write(_LENGTH.pack(len(raw)) + raw)
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: BinaryIO, largest: int = LARGEST) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a message.

    Args:
        largest: bytes of one array.

    Raises:
        EOFError: the stream ends.
        ValueError: not a message.
    """
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    if length > LONGEST:
        raise ValueError(f"a message of {length} bytes")
    content = json.loads(_read(stream, length))
    arrays = {}
    for name, dtype, shape in content.pop("arrays"):
        size = math.prod(shape) * np.dtype(dtype).itemsize if dtype in DTYPES else -1
        if not all(type(side) is int and side >= 0 for side in shape) or not 0 <= size <= largest:
            raise ValueError(f"an array of {dtype} {shape}")
        arrays[name] = np.frombuffer(_read(stream, size), dtype).reshape(shape)
    return content, arrays


def _read(stream: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    at, view = 0, memoryview(content)
    while at < size:
        got = stream.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        at += got
    return content
