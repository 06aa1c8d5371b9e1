"""Hostile safetensors: headers that declare what is not there, other types, numbers that are none."""

import json
import struct

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import load, save

from tests.hostile.fuzz.material import Material

FILES = ("prompts.safetensors", "prototypes.safetensors", "golden.safetensors")
_NAMES = "BOOL U8 I8 F8_E5M2 F8_E4M3 F4 I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64 X9"
TYPES = _NAMES.split()
SIZES = st.one_of(st.integers(0, 20), st.sampled_from([10**12, 2**31, 2**60, 2**63, 2**64 - 1, -1]))


def packed(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


@st.composite
def tensor_headers(draw: st.DrawFn, material: Material) -> Material:
    """The header rewritten over the true data."""
    name = draw(st.sampled_from(FILES))
    raw = material.files[name]
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    for _ in range(draw(st.integers(1, 3))):
        entry = header[draw(st.sampled_from(sorted(header)))]
        what = draw(st.sampled_from(["shape", "dtype", "data_offsets", "more"]))
        if what == "shape":
            entry["shape"] = draw(st.lists(SIZES, max_size=5))
        elif what == "dtype":
            entry["dtype"] = draw(st.sampled_from(TYPES))
        elif what == "data_offsets":
            entry["data_offsets"] = draw(st.lists(SIZES, min_size=2, max_size=2))
        else:
            begin = draw(st.sampled_from([0, len(data), 2**62]))
            shape = draw(st.lists(SIZES, max_size=4))
            header[draw(st.sampled_from(["class.0", "class.99", "x", "empty"]))] = {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [begin, begin],
            }
    length = draw(st.none() | st.sampled_from([0, 1, 2**40, 2**64 - 1]))
    return material.with_file(name, packed(json.dumps(header).encode(), data, length))


@st.composite
def tensor_values(draw: st.DrawFn, material: Material) -> Material:
    """Good files with other numbers, shapes and types."""
    name = draw(st.sampled_from(FILES))
    tensors = {key: np.array(value) for key, value in load(material.files[name]).items()}
    key = draw(st.sampled_from(sorted(tensors)))
    array = tensors[key]
    kind = draw(st.integers(0, 4))
    if kind == 0:
        array = array.astype(draw(st.sampled_from(["<f8", "<i4", "u1", "?", "<f2", "<f4"])))
    elif kind == 1 and array.dtype.kind == "f":
        array.reshape(-1)[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 6e4]))
    elif kind == 2:
        array = array[:0] if draw(st.booleans()) else np.repeat(array, 2, axis=0)
    elif kind == 3:
        array = array.reshape(draw(st.sampled_from([(-1,), (1, -1), (-1, 1), (*array.shape, 1)])))
    else:
        array = (array.astype(np.float32) * np.float32(1e37)).astype(np.float32)
    facts = {"seed": "0", "solver": "ddim", "steps": draw(st.sampled_from(["2", "-1", "x", "9" * 30]))}
    return material.with_file(name, save(tensors | {key: np.ascontiguousarray(array)}, facts))


@st.composite
def tensor_bytes(draw: st.DrawFn, material: Material) -> Material:
    name = draw(st.sampled_from(FILES))
    raw = bytearray(material.files[name])
    for _ in range(draw(st.integers(1, 4))):
        raw[draw(st.integers(0, min(400, len(raw) - 1)))] ^= draw(st.integers(1, 255))
    return material.with_file(name, bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw))
