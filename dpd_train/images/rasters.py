"""Read bands of a GeoTIFF or a 16-bit PNG with rasterio (GDAL). Only this module uses rasterio."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from dpd_runtime.errors import MissingExtraError

# Other GDAL drivers, such as VRT, open other files and the network. These read only the bytes that they get.
DRIVERS = ["GTiff", "PNG", "JPEG", "BMP", "WEBP"]
MOST_PIXELS = 2**26
MOST_BYTES = 2**28
"""Of the bands that are read: a sparse file of a few kilobytes can claim gigabytes."""

for name in ("rasterio._env", "rasterio._err"):  # GDAL logs about damaged files; what matters becomes a reason
    logging.getLogger(name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Raster:
    """The chosen bands of an image's middle square.

    values [bands, side, side] in the file's own type; bands is 1 or 3
    valid  bool [side, side]: finite and not marked as no data, in every band
    """

    values: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]

    @property
    def kind(self) -> tuple[str, int]:
        """Pixel type and number of bands, which images under one stretch have in common."""
        return str(self.values.dtype), len(self.values)


def require_rasterio() -> None:
    """Check that rasterio is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if find_spec("rasterio") is None:
        raise MissingExtraError("rasterio", "geo")


def read_raster(content: bytes, bands: tuple[int, ...] | None) -> Raster | str:
    """The bands of an image file, or the reason why they cannot be had.

    bands: 1-based; None takes the image's colours where it has one or three bands, beside alpha.
    """
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    try:
        with _opened(content) as dataset:
            chosen = _choose(dataset, bands)
            if isinstance(chosen, str):
                return chosen
            side = min(dataset.width, dataset.height)
            if side * side > MOST_PIXELS:
                return "too many pixels for one image; cut it into tiles"
            if (needed := _bytes_of(dataset, chosen, side)) > MOST_BYTES:
                return f"{needed / 1e6:.0f} MB of pixels, more than {MOST_BYTES / 1e6:.0f}; cut it into tiles"
            window = Window((dataset.width - side) // 2, (dataset.height - side) // 2, side, side)
            values = dataset.read(chosen, window=window)
            valid = (dataset.read_masks(chosen, window=window) > 0).all(axis=0)
    except RasterioError:  # its message names a file in memory
        return f"damaged, cut short, or not readable as any of {', '.join(DRIVERS)}"
    if values.dtype.kind not in "uif":
        return f"{values.dtype} pixels have no brightness; convert them"
    valid &= np.isfinite(values).all(axis=0)
    return Raster(values, valid) if valid.any() else "no pixel has data"


def _bytes_of(dataset: Any, bands: list[int], side: int) -> int:
    return side**2 * sum(np.dtype(str(dataset.dtypes[band - 1])).itemsize for band in bands)


def _choose(dataset: Any, bands: tuple[int, ...] | None) -> list[int] | str:
    from rasterio.enums import ColorInterp

    if len(dataset.subdatasets) > 1:
        return f"multi-page: {len(dataset.subdatasets)} images; save the wanted one as its own file"
    if ColorInterp.palette in dataset.colorinterp:
        return "palette colours; convert to RGB"
    count = dataset.count
    if bands is not None:
        return list(bands) if max(bands) <= count else f"has {count} band{'s' * (count != 1)}, no band {max(bands)}"
    colours = [i + 1 for i, meaning in enumerate(dataset.colorinterp) if meaning != ColorInterp.alpha]
    if len(colours) in (1, 3):
        return colours
    return f"has {len(colours)} bands; say with --bands which are red, green and blue"


@contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    """A rasterio dataset of bytes in memory, without side files that could change its pixels."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        MemoryFile(content) as memory,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver=DRIVERS) as dataset:
            yield dataset
