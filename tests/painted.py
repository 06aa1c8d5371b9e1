"""Scene folders whose pixels say which file they came from, and TIFFs byte by byte."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dpd_train.scene_set import SceneSet


def paint(path: Path, grey: int, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


def tree(root: Path, count: int = 4, classes: tuple[str, ...] = ("Alpha", "Beta")) -> Path:
    """Grey level 10 · class + index, so that a pixel says which file it came from."""
    for label, name in enumerate(classes):
        for index in range(count):
            paint(root / name / f"{name}_{index}.png", 100 * label + index)
    return root


def greys(scenes: SceneSet) -> list[int]:
    return [int(value) for value in scenes.images[:, 0, 0, 0]]


def reasons(scenes: SceneSet) -> dict[str, str]:
    return {entry.path: entry.reason for entry in scenes.rejected}


def tiff(bands: npt.NDArray[np.generic], planar: bool = False) -> bytes:
    """An uncompressed little-endian TIFF of bands [n, H, W], three of them RGB, written here: independent of GDAL."""
    count, height, width = bands.shape
    kind = bands.dtype.newbyteorder("<")
    strips = (
        [band.astype(kind).tobytes() for band in bands] if planar else [bands.transpose(1, 2, 0).astype(kind).tobytes()]
    )
    fields = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [8 * kind.itemsize] * count),
        (259, 3, [1]),
        (262, 3, [2 if count == 3 else 1]),
        (273, 4, []),
        (277, 3, [count]),
        (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]),
        (284, 3, [2 if planar else 1]),
        (339, 3, [{"u": 1, "i": 2, "f": 3}[kind.kind]] * count),
    ]
    starts = np.cumsum([8, *map(len, strips)])
    fields[5] = (273, 4, [int(start) for start in starts[:-1]])
    place = int(starts[-1]) + 2 + 12 * len(fields) + 4
    entries, beyond = b"", b""
    for tag, form, values in fields:
        content = struct.pack(f"<{len(values)}{'H' if form == 3 else 'I'}", *values)
        if len(content) > 4:
            entries += struct.pack("<HHII", tag, form, len(values), place + len(beyond))
            beyond += content
        else:
            entries += struct.pack("<HHI", tag, form, len(values)) + content.ljust(4, b"\0")
    header = struct.pack("<2sHI", b"II", 42, int(starts[-1]))
    return header + b"".join(strips) + struct.pack("<H", len(fields)) + entries + bytes(4) + beyond
