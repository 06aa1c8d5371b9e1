"""Read scenes that are NumPy arrays: .npz files that hold one array each."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from dpd_runtime.files import open_regular
from dpd_train.images.rasters import MOST_BYTES, Bands, Layout, Raster, band_numbers

SUFFIX = ".npz"
START = b"PK\x03\x04"
DAMAGED = "damaged, or no .npz file of NumPy"
WAY_OUT = "an array, whose bands mean nothing by themselves: say with --bands which"


def read_array(content: bytes, bands: Bands) -> Raster | str:
    """The bands of the middle square of an array, or the reason why they cannot be had.

    It is [H, W], [H, W, N] or [N, H, W]; the shorter end has the bands. Bands have no names but their numbers.

    Args:
        content: of an .npz file. bands: as `read_raster` takes them.
    """
    try:
        member = _member(BytesIO(content))
        if isinstance(member, str):
            return member
        name, shape, dtype = member
        with np.load(BytesIO(content), allow_pickle=False) as archive:
            array: npt.NDArray[Any] = archive[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return DAMAGED
    if array.shape != shape or array.dtype != dtype:
        return DAMAGED
    if dtype.kind not in "uif":
        return f"{dtype} pixels have no brightness; convert them"
    values = np.moveaxis(array.reshape(*shape, *(1,) * (3 - len(shape))), _band_axis(shape), 0)
    if bands is None:
        return WAY_OUT
    numbers = band_numbers(bands, [""] * len(values))
    if isinstance(numbers, str):
        return numbers
    side = min(values.shape[1:])
    top, left = ((length - side) // 2 for length in values.shape[1:])
    chosen = values[np.array(numbers) - 1, top : top + side, left : left + side]
    valid = np.isfinite(chosen).all(axis=0)
    layout = Layout(tuple(numbers), tuple(map(str, numbers)), ("",) * len(numbers), len(values))
    return Raster(chosen, valid, layout) if valid.any() else "no pixel has data"


def array_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an array from its header; None for any other file."""
    if path.suffix.lower() != SUFFIX:
        return None
    try:
        with open_regular(path) as file:
            member = _member(file)
    except Exception:  # the reason is reported when the file itself is read
        return None
    if isinstance(member, str):
        return None
    sides = [length for axis, length in enumerate(member[1]) if axis != _band_axis(member[1])]
    return sides[1], sides[0]


def _member(file: BinaryIO) -> tuple[str, tuple[int, ...], np.dtype[Any]] | str:
    """Name, shape and type of the one array, from its header; or why it cannot be used."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) != 1:
            return f"holds {len(entries)} arrays; save the image as the only one"
        with archive.open(entries[0]) as entry:
            version = npy.read_magic(entry)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(entry)
    needed = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
    if max(needed, entries[0].file_size) > MOST_BYTES:
        return f"{needed / 1e6:.0f} MB of pixels, more than {MOST_BYTES / 1e6:.0f}; cut it into tiles"
    if len(shape) not in (2, 3) or not all(shape):
        return f"an array of shape {list(shape)}, not [H, W], [H, W, N] or [N, H, W]"
    return entries[0].filename.removesuffix(".npy"), shape, dtype


def _band_axis(shape: tuple[int, ...]) -> int:
    return 0 if len(shape) == 3 and shape[0] < shape[2] else 2
