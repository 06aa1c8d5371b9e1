"""The set hash: it identifies the pixels of a distilled set, independent of the file format."""

import hashlib
import struct
from collections.abc import Iterable

import numpy as np

from dpd_runtime.annotations import Pixels


class SetDigest:
    """sha256 over the pixels of images in the order (class utf-8, index)."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, name: str, index: int, pixels: Pixels) -> None:
        """Add one image, uint8 [H, W, N]. The number of bands is part of the hash where it is not 3."""
        raw, bands = name.encode(), pixels.shape[2:] if pixels.shape[2] != 3 else ()
        sizes = (index, *pixels.shape[:2], *bands)
        self._digest.update(struct.pack("<I", len(raw)) + raw + struct.pack(f"<{len(sizes)}I", *sizes))
        self._digest.update(np.ascontiguousarray(pixels).tobytes())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def set_hash(images: Iterable[tuple[str, int, Pixels]]) -> str:
    """The set hash of (class name, index, uint8 [H, W, N]) in any order."""
    digest = SetDigest()
    for entry in sorted(images, key=lambda entry: (entry[0].encode(), entry[1])):
        digest.update(*entry)
    return digest.hexdigest()
