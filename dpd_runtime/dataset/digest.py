"""The hash that names the content of a distilled set, whatever files it is kept in (DESIGN §8)."""

import hashlib
import struct

import numpy as np
import numpy.typing as npt


class SetDigest:
    """sha256 over images given in the order (class utf-8, index); pixels before encoding."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, name: str, index: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Add one image, uint8 [H, W, 3]."""
        raw = name.encode()
        self._digest.update(struct.pack("<I", len(raw)) + raw + struct.pack("<III", index, *pixels.shape[:2]))
        self._digest.update(np.ascontiguousarray(pixels).tobytes())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
