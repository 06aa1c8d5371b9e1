"""Bands: what the channels of an image stand for where they are not red, green and blue.

Inside, each band has eight bits between two limits. This module knows how they become physical values again, and which
three of them make a picture that people can look at.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpd_runtime.annotations import Float32, Images


MOST_BANDS = 64
LONGEST_BAND_NAME = 64
COLOURS = {"red": 0.665, "green": 0.560, "blue": 0.490}  # µm
NEAR = 0.035  # µm; a band whose centre is farther from a colour does not show it
DECIBELS = 300  # of a value that float32 holds
SENTINEL2 = {
    **{"B1": 0.443, "B2": 0.490, "B3": 0.560, "B4": 0.665, "B5": 0.705, "B6": 0.740, "B7": 0.783, "B8": 0.842},
    **{"B8A": 0.865, "B9": 0.945, "B10": 1.375, "B11": 1.610, "B12": 2.190},
}
"""Centre wavelengths (µm) of Sentinel-2's bands, as ESA's user guide rounds them."""
SENTINEL2_BANDS = (12, 13)
"""Bands of its products, in which numbers 4, 3 and 2 are red, green and blue."""


@dataclass(frozen=True)
class Band:
    """One band.

    Args:
        name: as the file says, or its number, counted from 1.
        low, high: physical values that 0 and 255 stand for; in decibels where `decibels` is set.
        wavelength: of its centre in µm; 0 where it is not known.
        unit: of the physical values; empty where it is not known.
        decibels: whether the limits are 10 · log10 of the physical values, as of radar's backscatter.
    """

    name: str
    low: float
    high: float
    wavelength: float = 0.0
    unit: str = ""
    decibels: bool = False

    def fault(self) -> str:
        """What is wrong with it, as the end of a sentence that begins with its place; empty if nothing is."""
        if not 0 < len(self.name) <= LONGEST_BAND_NAME:
            return f"name has {len(self.name)} characters, it must be 1 … {LONGEST_BAND_NAME}"
        if not -math.inf < self.low < self.high < math.inf:
            return f"limits are {self.low} and {self.high}: the first must be below the second, both finite"
        if self.decibels and not -DECIBELS <= self.low < self.high <= DECIBELS:
            return f"limits are {self.low} and {self.high} dB, they must lie in -{DECIBELS} … {DECIBELS}"
        if not float32_holds(self.low, self.high):
            return f"limits are {self.low} and {self.high}: float32 cannot hold them as two numbers"
        if not 0 <= self.wavelength <= 1e6:
            return f"wavelength is {self.wavelength} µm, it must be 0 … 1e6"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def float32_holds(low: float, high: float) -> bool:
    """Whether both are finite in float32, as which a site gets them back, and the first is below the second there."""
    try:
        narrow = struct.unpack("<2f", struct.pack("<2f", float(low), float(high)))
    except OverflowError:  # a float too large for float32, or a whole number too large for a float
        return False
    return math.isfinite(narrow[0]) and narrow[0] < narrow[1] < math.inf


def physical(images: "Images", bands: Sequence[Band]) -> "Float32":
    """Physical values, float32 [..., N], of uint8 [..., N]: linear between the limits of each band."""
    import numpy as np  # here, as --help imports this module

    low, high = (np.array([getattr(band, name) for band in bands], np.float64) for name in ("low", "high"))
    values = low + (high - low) * (images.astype(np.float64) / 255)
    decibels = np.array([band.decibels for band in bands])
    with np.errstate(over="ignore"):  # of bands that are not in decibels
        values = np.where(decibels, 10 ** (np.clip(values, -DECIBELS, DECIBELS) / 10), values)
    return values.astype(np.float32)


def shown_bands(bands: Sequence[Band]) -> tuple[int, int, int]:
    """The places of the bands that a picture shows as red, green and blue, so that people can look at them.

    They are those nearest to these colours by wavelength or by name; else 4, 3 and 2 of Sentinel-2's number of bands,
    and 3, 2 and 1 of others. One or two bands are shown in grey, by the first.
    """
    names = [band.name.casefold() for band in bands]
    if all(colour in names for colour in COLOURS):
        return tuple(names.index(colour) for colour in COLOURS)  # type: ignore[return-value]
    nearest = [min(range(len(bands)), key=lambda i: abs(bands[i].wavelength - length)) for length in COLOURS.values()]
    close = zip(nearest, COLOURS.values(), strict=True)
    if all(abs(bands[place].wavelength - length) <= NEAR for place, length in close) and len({*nearest}) == 3:
        return nearest[0], nearest[1], nearest[2]
    if len(bands) < 3:
        return 0, 0, 0
    return (3, 2, 1) if len(bands) in SENTINEL2_BANDS else (2, 1, 0)


def picture(images: "Images", bands: Sequence[Band]) -> "Images":
    """What people see of images: uint8 [..., H, W, 3] of uint8 [..., H, W, N]. Without `bands` they are RGB already."""
    if not bands:
        return images
    import numpy as np

    return np.ascontiguousarray(images[..., list(shown_bands(bands))])
