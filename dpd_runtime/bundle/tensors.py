"""Reading a bundle's safetensors files: prompts, prototypes and golden images."""

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from dpd_runtime.annotations import Array
from dpd_runtime.errors import BundleError

MAX_HEADER_BYTES = 2 * 2**20
"""Each class has a tensor, and Python needs up to 40 times as much to hold their names."""


def read_tensors(raw: bytes, name: str) -> dict[str, Array]:
    """The tensors of a file, by name. They take as much memory as the file.

    Args:
        name: of the file in the bundle, for errors.

    Raises:
        BundleError: the header is too long, or this is no safetensors file.
        MemoryError: it does not fit into memory.
    """
    if int.from_bytes(raw[:8], "little") > MAX_HEADER_BYTES:
        raise BundleError(f"{name} has a header of more than {MAX_HEADER_BYTES} bytes; export the bundle again")
    # safetensors panics or hangs where memory ends in the middle of its work. This raises MemoryError before.
    np.empty(3 * len(raw) + 2**24, np.uint8)
    try:
        return load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{name} cannot be read as safetensors ({error}); export the bundle again") from error
