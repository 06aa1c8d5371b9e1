"""Read bands of a GeoTIFF or a 16-bit PNG with rasterio (GDAL). Only this module uses rasterio."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dpd_runtime.errors import MissingExtraError
from dpd_runtime.images.bands import LONGEST_BAND_NAME, MOST_BANDS
from dpd_runtime.images.effort import CUT_SHORT, MOST_PAGES, excess
from dpd_runtime.images.tags import COLOURS, WHITE_IS_ZERO, Tags, is_mask, read_tags
from dpd_runtime.text import counted, printable

# Other GDAL drivers, such as VRT, open other files and the network. These read only the bytes that they get.
DRIVERS = ["GTiff", "PNG", "JPEG", "BMP", "WEBP"]
MOST_PIXELS = 2**26
MOST_BYTES = 2**28
"""Of the bands that are read: a sparse file of a few kilobytes can claim gigabytes."""
Bands = tuple[int, ...] | tuple[str, ...] | Literal["all"] | None
"""As in `Reading.bands`."""

for name in ("rasterio._env", "rasterio._err"):  # GDAL logs about damaged files; what matters becomes a reason
    logging.getLogger(name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Layout:
    """Which bands of a file were read.

    numbers 1-based
    names   as the file describes them; their numbers where it does not describe them, or two of its bands alike
    units   of their values; empty where the file says none
    of      how many bands the file has
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    of: int


@dataclass(frozen=True)
class Raster:
    """The chosen bands of an image's middle square.

    values [bands, side, side] in the file's own type; physical, and floats, where it gives a scale or an offset
    valid  bool [side, side]: finite and not marked as no data, in every band
    layout which bands these are; None if that does not matter
    bits   of each value, where fewer than its type has; else 0
    scaled as `Tags.scaled`
    """

    values: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    layout: Layout | None = None
    bits: int = 0
    scaled: str = ""

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


def read_raster(content: bytes, bands: Bands, masks: bool = True) -> Raster | str:
    """The bands of an image file, or the reason why they cannot be had.

    bands: numbers (1-based), names or all of them. None takes the image's colours where it has one or three bands,
        beside alpha.
    masks: as in `dpd_runtime.images.pixels.Alike`.
    """
    from rasterio._err import CPLE_BaseError  # which damaged tags raise, unlike damaged pixels
    from rasterio.errors import RasterioError

    damaged = f"damaged, cut short, or not readable as any of {', '.join(DRIVERS)}"
    if reason := excess(content):
        return damaged if reason == CUT_SHORT else reason
    try:
        tags = _tags(content)
        if tags is not None and tags.unclear:
            return tags.unclear
        with _opened(content) as dataset, ExitStack() as stack:
            pages = _pages(dataset, bands, stack)
            if isinstance(pages, str):
                return pages
            if kind := _other_colours(pages):
                return f"{kind} colours; convert to RGB"
            layout = _choose(pages, bands)
            if isinstance(layout, str):
                return layout
            side = min(dataset.width, dataset.height)
            if side * side > MOST_PIXELS:
                return "too many pixels for one image; cut it into tiles"
            if (needed := _bytes_of(pages, layout, side)) > MOST_BYTES:
                return f"{needed / 1e6:.0f} MB of pixels, more than {MOST_BYTES / 1e6:.0f}; cut it into tiles"
            values, valid = _read(pages, layout, side, masks)
            scales = _scales(pages, layout)
    except (RasterioError, CPLE_BaseError):  # its message names a file in memory
        return damaged
    if values.dtype.kind not in "uif":
        return f"{values.dtype} pixels have no brightness; convert them"
    bits = tags.bits if tags is not None and tags.bits < 8 * values.dtype.itemsize else 0
    if tags is not None and tags.photometric == WHITE_IS_ZERO:
        if values.dtype not in (np.uint8, np.uint16) or scales:
            return "0 is white by tag 262, which has a meaning for 8 and 16 bits alone; convert it so that 0 is black"
        values = np.array(2**tags.bits - 1, values.dtype) - values
    if scales:
        values = _physical(values, scales)
    valid &= np.isfinite(values).all(axis=0)
    said = next((f"scale {scale:g} and offset {offset:g}" for scale, offset in scales if (scale, offset) != (1, 0)), "")
    return Raster(values, valid, layout, bits, said) if valid.any() else "no pixel has data"


def _tags(content: bytes) -> Tags | None:
    """The tags of a TIFF; None where there are none, or GDAL may still read what is damaged."""
    try:
        return read_tags(content)
    except Exception:
        return None


def _scales(pages: list[Any], layout: Layout) -> list[tuple[float, float]]:
    """Scale and offset of each chosen band; empty if no value changes by them."""
    every = [pair for page in pages for pair in zip(page.scales, page.offsets, strict=True)]
    chosen = [every[number - 1] for number in layout.numbers]
    return chosen if any(pair != (1, 0) for pair in chosen) else []


def _physical(values: npt.NDArray[Any], scales: list[tuple[float, float]]) -> npt.NDArray[Any]:
    """Physical values, stored value · scale + offset, in float32 where that tells all stored values apart."""
    scaled = np.empty(values.shape, _physical_type(values.dtype))
    for band, (scale, offset) in enumerate(scales):
        scaled[band] = values[band].astype(np.float64) * scale + offset
    return scaled


def _physical_type(dtype: npt.DTypeLike) -> npt.DTypeLike:
    return np.float32 if np.dtype(dtype).itemsize <= 2 else np.float64


def _pages(dataset: Any, bands: Bands, stack: ExitStack) -> list[Any] | str:
    """The images that hold the bands: one, or the pages of a stack, each of which is one band."""
    import rasterio

    names = dataset.subdatasets
    if len(names) < 2:
        return [dataset]
    many = f"multi-page: {len(names)} images"
    if bands is None or dataset.count != 1:
        return f"{many}; save the wanted one as its own file"
    if len(names) > MOST_PAGES:
        return f"{many}, more than {MOST_PAGES}; save the wanted ones as one file of bands"
    pages = [stack.enter_context(rasterio.open(name, driver="GTiff")) for name in names]
    if len({(page.count, page.shape, *page.dtypes) for page in pages}) > 1:
        return f"{many} of several sizes or kinds, which are no bands of one; save the wanted one as its own file"
    return pages


def _other_colours(pages: list[Any]) -> str:
    """The name of colours that are no bands of light; empty for bands. GDAL gives CMYK of 8 bits as RGB."""
    from rasterio.enums import ColorInterp

    meanings = {meaning for page in pages for meaning in page.colorinterp}
    return "palette" if ColorInterp.palette in meanings else "CMYK" if ColorInterp.cyan in meanings else ""


def _read(pages: list[Any], layout: Layout, side: int, masks: bool) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Values [bands, side, side] of the middle square, and where all of them have data."""
    from rasterio.windows import Window

    window = Window((pages[0].width - side) // 2, (pages[0].height - side) // 2, side, side)
    if len(pages) > 1:
        chosen = [pages[number - 1] for number in layout.numbers]
        values = np.stack([page.read(1, window=window) for page in chosen])
        valid = np.stack([page.read_masks(1, window=window) for page in chosen])
        return values, valid.min(axis=0) > 0
    numbers = list(layout.numbers)
    values = pages[0].read(numbers, window=window)
    if _alpha_is_data(pages[0], numbers, window, masks):
        return values, np.ones(values.shape[1:], np.bool_)
    return values, (pages[0].read_masks(numbers, window=window) > 0).all(axis=0)


def _alpha_is_data(dataset: Any, numbers: list[int], window: Any, masks: bool) -> bool:
    """Whether an alpha band hides nothing: it is read as one of many, or it is no mask.

    GDAL marks the fourth band of 8 bits so, which may be infrared.
    """
    from rasterio.enums import ColorInterp, MaskFlags

    if not any(MaskFlags.alpha in dataset.mask_flag_enums[number - 1] for number in numbers):
        return False
    alpha = dataset.colorinterp.index(ColorInterp.alpha) + 1
    one_of_many = alpha in numbers and len(numbers) > 3
    return one_of_many or not masks or not is_mask(dataset.read(alpha, window=window))


def _bytes_of(pages: list[Any], layout: Layout, side: int) -> int:
    types = [np.dtype(str(dtype)) for page in pages for dtype in page.dtypes]
    scaled = bool(_scales(pages, layout))
    chosen = [types[number - 1] for number in layout.numbers]
    return side**2 * sum(np.dtype(_physical_type(dtype) if scaled else dtype).itemsize for dtype in chosen)


def _choose(pages: list[Any], bands: Bands) -> Layout | str:
    from rasterio.enums import ColorInterp

    described = [_plain(text) for page in pages for text in page.descriptions]
    count = len(described)
    numbers: list[int] | str
    if bands is not None:
        numbers = band_numbers(bands, described)
    else:
        meanings = [meaning.name for meaning in pages[0].colorinterp]
        numbers = [i + 1 for i, meaning in enumerate(meanings) if meaning != ColorInterp.alpha.name]
        if len(numbers) == len(COLOURS) and {*COLOURS} <= {*meanings}:
            numbers = [meanings.index(colour) + 1 for colour in COLOURS]
        if len(numbers) not in (1, 3):
            return f"has {counted(len(numbers), 'band')}; say with --bands which are red, green and blue"
    if isinstance(numbers, str):
        return numbers
    names = [text or str(i) for i, text in enumerate(described, start=1)]
    if len({*names}) < count:
        names = [str(i) for i in range(1, count + 1)]
    units = [_plain(text) for page in pages for text in page.units]
    return Layout(tuple(numbers), tuple(names[i - 1] for i in numbers), tuple(units[i - 1] for i in numbers), count)


def _too_many(count: int) -> str:
    return f"has {count} bands, at most {MOST_BANDS} are carried; say with --bands which"


def band_numbers(
    bands: tuple[int, ...] | tuple[str, ...] | Literal["all"], described: Sequence[str]
) -> list[int] | str:
    """The numbers of bands by number or by name, or of all; or what is missing.

    described: the name of each band of the file; empty where it has none.
    """
    count, numbers = len(described), list[int]()
    if bands == "all":
        return [*range(1, count + 1)] if count <= MOST_BANDS else _too_many(count)
    for band in bands:
        if isinstance(band, int):
            numbers.append(band)
            continue
        if described.count(band) > 1:
            return f"has {described.count(band)} bands called {band!r}; say with --bands the numbers"
        if band not in described:
            known = ", ".join(text for text in described if text)
            its = (
                f"its bands are {known}"
                if known
                else f"none of its {counted(count, 'band')} has a name: give --bands numbers"
            )
            return f"has no band called {band!r}; {its}"
        numbers.append(described.index(band) + 1)
    if max(numbers) > count:
        return f"has {counted(count, 'band')}, no band {max(numbers)}"
    return numbers


def _plain(text: str | None) -> str:
    """A text of the file; empty if it has none, or one that does not fit into a line of a record."""
    stripped = (text or "").strip()
    return stripped if len(stripped) <= LONGEST_BAND_NAME and printable(stripped) == stripped else ""


@contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    """A rasterio dataset of bytes in memory, without side files that could change its pixels."""
    import rasterio
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        MemoryFile(content) as memory,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        with memory.open(driver=DRIVERS) as dataset:
            yield dataset
