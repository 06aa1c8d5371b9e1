"""Images of any bands: GeoTIFF, arrays, and how bands become the values of an image."""

import hashlib
import json
import logging
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from PIL import Image

from dpd_runtime.annotations import Pixels
from dpd_runtime.bands import LONGEST_BAND_NAME, MOST_BANDS, SENTINEL2, Band
from dpd_runtime.errors import DataError, MissingExtraError
from dpd_runtime.files import open_regular
from dpd_runtime.images import (
    ALONE,
    CUT_SHORT,
    Alike,
    ToPixels,
    alike,
    evenly_spaced,
    excess,
    pillow_rgb,
    read_bytes,
    reason_of,
)
from dpd_runtime.tags import COLOURS, MOST_PAGES, WHITE_IS_ZERO, Tags, is_mask, read_tags
from dpd_runtime.text import counted, printable
from dpd_train.reading import PERCENTILES, Reading

# -- Read bands of a GeoTIFF or a 16-bit PNG with rasterio (GDAL). Only this module uses rasterio.


# Other GDAL drivers, such as VRT, open other files and the network. These read only the bytes that they get.
DRIVERS = ["GTiff", "PNG", "JPEG", "BMP", "WEBP"]
UNREADABLE = f"damaged, cut short, or not readable as any of {', '.join(DRIVERS)}"
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
    masks: as in `dpd_runtime.images.Alike`.
    """
    from rasterio._err import CPLE_BaseError  # which damaged tags raise, unlike damaged pixels
    from rasterio.errors import RasterioError

    if reason := excess(content):
        return UNREADABLE if reason == CUT_SHORT else reason
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
            values, valid = _read_pages(pages, layout, side, masks)
            scales = _scales(pages, layout)
    except (RasterioError, CPLE_BaseError):  # its message names a file in memory
        return UNREADABLE
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


def _read_pages(
    pages: list[Any], layout: Layout, side: int, masks: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
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

    described = [_plain_text(text) for page in pages for text in page.descriptions]
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
    units = [_plain_text(text) for page in pages for text in page.units]
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


def _plain_text(text: str | None) -> str:
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


def centre_of(path: Path) -> tuple[float, float] | str:
    """Longitude and latitude in degrees (WGS 84) of the middle of a georeferenced image; the reason if it has none.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    require_rasterio()
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    content = read_bytes(path)
    if isinstance(content, str):
        return content
    try:
        with _opened(content) as dataset:
            crs, (a, b, c, d, e, f), (x, y) = (
                dataset.crs,
                dataset.transform[:6],
                (dataset.width / 2, dataset.height / 2),
            )
            placed = crs is not None and not dataset.transform.is_identity  # as GDAL says of files without a place
    except (RasterioError, CPLE_BaseError):  # its message names a file in memory
        return UNREADABLE
    if not placed:
        return "has no georeference"
    nowhere = "has a georeference that leads to no place on Earth"
    try:
        (longitude,), (latitude,) = transform(crs, "EPSG:4326", [a * x + b * y + c], [d * x + e * y + f])
    except (RasterioError, CPLE_BaseError):  # of the Moon, of a drawing, or far outside of a zone
        return nowhere
    return (longitude, latitude) if -180 <= longitude <= 180 and -90 <= latitude <= 90 else nowhere


# -- Turn bands and values into 8 bits with one stretch for the whole data set, so that brightness is comparable.


SAMPLE_IMAGES = 512
SAMPLE_SIDE = 64
EIGHT_BITS = (0.0, 255.0)


@dataclass(frozen=True)
class Rendering:
    """A `Reading` with the limits of a data set: all that decides an image's pixels besides its bytes.

    bands       numbers, 1-based; None takes the images' own colours
    limits      (low, high) in pixel values that become 0 and 255, once or for each band; None keeps 8-bit values
    kind        pixel type and number of bands that every image must have; None: any (limits were given)
    percentiles that gave the limits, over `sampled` images; None if limits were given
    carried     what the bands are where images keep them, [H, W, N]; empty: they become RGB
    decibels    whether the limits are 10 · log10 of pixel values
    names       that every image must give its `bands`; empty: any
    of          how many bands every image must have; 0: any that has `bands`
    masks       as in `dpd_runtime.images.Alike`
    """

    bands: tuple[int, ...] | None
    limits: tuple[tuple[float, float], ...] | None
    kind: tuple[str, int] | None = None
    percentiles: tuple[float, float] | None = None
    sampled: int = 0
    carried: tuple[Band, ...] = ()
    decibels: bool = False
    names: tuple[str, ...] = ()
    of: int = 0
    masks: bool = True

    def pixels(self, content: bytes, gaps: list[bool] | None = None) -> Image.Image | Pixels | str:
        """A file's bytes as a square RGB image, or with its bands, 0 where there is no data; or why there is none.

        gaps: gets one more entry, whether pixels of the image have no data.
        """
        raster = _raster(content, self.bands, self.masks)
        reason = raster if isinstance(raster, str) else self._misfit(raster)
        if isinstance(raster, str) or reason:
            return reason
        if self.decibels:
            raster = in_decibels(raster)
        share = float(raster.valid.mean())
        if share == 0:
            return "no pixel has a value above 0, and others have no decibels"
        if self.carried and share < 0.5:
            return f"{100 * (1 - share):.0f} % of its pixels have no data, more than half"
        if raster.scaled and self.limits is not None and _outside(raster, self.limits):
            return f"all values lie outside of the stretch, which is for those after {raster.scaled} of its tags"
        if gaps is not None:
            gaps.append(share < 1)
        if self.carried:
            return np.stack(levels(raster, self.limits), axis=-1)
        return Image.fromarray(stretched(raster, self.limits))

    def _misfit(self, raster: Raster) -> str:
        """Why an image does not fit the others; empty if it does."""
        layout = raster.layout
        if self.of and layout is not None and layout.of != self.of:
            return f"has {counted(layout.of, 'band')} where the other images have {self.of}"
        if self.kind is not None and raster.kind != self.kind:
            return f"{_described(raster.kind)} where the other images have {_described(self.kind)}"
        if self.names and layout is not None:
            for number, name, usual in zip(layout.numbers, layout.names, self.names, strict=True):
                if name != usual:
                    return f"band {number} is called {name!r} where the other images have {usual!r}"
        if self.limits is None and raster.bits:
            return f"{raster.bits} bits a sample (tag 258); pass --stretch 0:{2**raster.bits - 1}"
        if self.limits is not None and len(self.limits) not in (1, len(raster.values)):
            return f"{_described(raster.kind)}, the stretch is for {counted(len(self.limits), 'band')}"
        return ""

    @property
    def of_sets(self) -> "Rendering":
        """The same limits for files that hold just the carried bands, in their order, in physical values of any kind.

        Only where bands are carried; a distilled set of other images is RGB.
        """
        count = len(self.carried)
        limits = tuple((band.low, band.high) for band in self.carried)
        numbers = tuple(range(1, count + 1))
        return replace(self, bands=numbers, limits=limits, kind=None, percentiles=None, sampled=0, of=count)

    def identity(self, content: bytes) -> str:
        """sha256 (hex) of a file's bytes, bands and limits, so that other pixels have another key in a cache."""
        return self.identity_of(hashlib.sha256(content).digest())

    def identity_of(self, digest: bytes) -> str:
        """As `identity`, from the sha256 of a file's bytes."""
        deciding: list[Any] = [self.bands, self.limits]
        if self.carried or self.decibels:
            deciding += [self.decibels, bool(self.carried)]
        if not self.masks:
            deciding.append("no masks")
        decisive = json.dumps(deciding, separators=(",", ":"), allow_nan=False).encode()
        return hashlib.sha256(b"dpd rendering\0" + decisive + b"\0" + digest).hexdigest()

    def record(self) -> dict[str, Any]:
        """The content for run.json; `stretch` is the value of `--stretch` that treats other images in the same way."""
        pairs = None if self.limits is None else [f"{low!r}:{high!r}" for low, high in self.limits]
        stretch = None if pairs is None else "dB:" + pairs[0] if self.decibels else ",".join(pairs)
        record = {
            "bands": None if self.bands is None else list(self.bands),
            "stretch": stretch,
            "percentiles": None if self.percentiles is None else list(self.percentiles),
            "sampled_images": self.sampled,
            "pixel_type": None if self.kind is None else self.kind[0],
        }
        return record | ({"carried": [band.to_dict() for band in self.carried]} if self.carried else {})


def rendering_of_set(bands: tuple[Band, ...]) -> Rendering:
    """How the GeoTIFFs of a distilled set become pixels again: they hold just these bands, in physical values."""
    return Rendering(None, None, carried=bands, decibels=bands[0].decibels).of_sets


def identity(content: bytes, rendering: Rendering | None) -> str:
    """The hash of an image in `SceneSet.hashes`, from the bytes of its file."""
    return hashlib.sha256(content).hexdigest() if rendering is None else rendering.identity(content)


def reader(rendering: Rendering | None, files: Alike = ALONE, gaps: list[bool] | None = None) -> ToPixels:
    """What turns a file's bytes into RGB or bands; Pillow for None.

    Args:
        files: what Pillow's reader should know of the data set. gaps: as in `Rendering.pixels`.
    """
    return partial(_plain, files=files, gaps=gaps) if rendering is None else partial(rendering.pixels, gaps=gaps)


def _plain(content: bytes, files: Alike, gaps: list[bool] | None) -> Image.Image | str:
    return WAY_OUT if content.startswith(START) else pillow_rgb(content, files, gaps)


def _raster(content: bytes, bands: Bands, masks: bool) -> Raster | str:
    return read_array(content, bands) if content.startswith(START) else read_raster(content, bands, masks)


def settle(reading: Reading, files: Mapping[str, Sequence[Path]], root: Path) -> Rendering:
    """Find the bands and the limits of the stretch on a sample of `files` (paths by class), unless `reading` has them.

    The sample has up to 512 images, equally many from each class, evenly spaced in its order, and every n-th row and
    column of the middle square, at most 64 × 64 pixels per image. It depends only on names and content.

    Raises:
        MissingExtraError: rasterio is not installed.
        DataError: no image of the sample can be read, or a band is constant over it; limits for another number of
            bands.
    """
    require_rasterio()
    by_layout = reading.carries or (reading.bands is not None and isinstance(reading.bands[0], str))
    masks = alike([path for paths in files.values() for path in paths]).masks
    if reading.limits is not None and not by_layout:
        return Rendering(_as_numbers(reading.bands), reading.limits, decibels=reading.decibels, masks=masks)
    rasters, first_reason = _sample(files, reading.bands, masks)
    if not rasters:
        raise DataError(f"{root}: no image of the sample for the stretch can be read, first {first_reason}")
    kind = Counter(raster.kind for raster in rasters).most_common(1)[0][0]
    fitting = [raster for raster in rasters if raster.kind == kind]
    if not by_layout:
        return _limited(Rendering(_as_numbers(reading.bands), None, kind, masks=masks), reading, fitting, root)
    layout = Counter(raster.layout for raster in fitting).most_common(1)[0][0]
    assert layout is not None  # of every file
    fitting = [raster for raster in fitting if raster.layout == layout]
    of = layout.of * (reading.bands == "all")
    unlimited = Rendering(layout.numbers, None, kind, names=layout.names, of=of, masks=masks)
    rendering = _limited(unlimited, reading, fitting, root)
    return _carrying(rendering, layout) if reading.carries else rendering


def _as_numbers(bands: Bands) -> tuple[int, ...] | None:
    """The bands of a reading that names none."""
    return None if bands is None else tuple(int(band) for band in bands)


def _limited(rendering: Rendering, reading: Reading, fitting: Sequence[Raster], root: Path) -> Rendering:
    """With the limits of a reading, or of these images, which are of the rendering's kind."""
    assert rendering.kind is not None
    dtype, count = rendering.kind
    if reading.limits is not None:
        if len(reading.limits) not in (1, count):
            raise DataError(
                f"{root}: the images have {counted(count, 'band')}, the stretch is for {len(reading.limits)}; give one "
                "LOW:HIGH, or one for each"
            )
        return replace(rendering, limits=reading.limits, kind=None, decibels=reading.decibels)
    if dtype == "uint8" and reading.percentiles is None:
        return rendering
    percentiles = reading.percentiles or PERCENTILES
    limits = tuple(_limits(fitting, band, percentiles) for band in range(count))
    for band, (low, high) in enumerate(limits):
        if not low < high:
            number = rendering.bands[band] if rendering.bands else band + 1
            raise DataError(
                f"{root}: band {number} is {low:g} at both percentiles {percentiles[0]:g} and {percentiles[1]:g} of "
                "the sample; choose other bands, wider percentiles, or give --stretch LOW:HIGH"
            )
    return replace(rendering, limits=limits, percentiles=percentiles, sampled=len(fitting))


def _carrying(rendering: Rendering, layout: Layout) -> Rendering:
    """The rendering of images that keep the bands of this layout."""
    limits = rendering.limits or (EIGHT_BITS,)
    pairs = limits * len(layout.names) if len(limits) == 1 else limits
    carried = tuple(
        Band(name, low, high, SENTINEL2.get(name, 0.0), unit, rendering.decibels)
        for name, unit, (low, high) in zip(layout.names, layout.units, pairs, strict=True)
    )
    return replace(rendering, limits=limits, carried=carried)


def in_decibels(raster: Raster) -> Raster:
    """10 · log10 of the values in float64; values of 0 and less have none, and count as no data."""
    valid = raster.valid & (raster.values > 0).all(axis=0)
    values = np.where(valid, raster.values, 1).astype(np.float64)
    return replace(raster, values=10 * np.log10(values), valid=valid)


def stretched(raster: Raster, limits: tuple[tuple[float, float], ...] | None) -> Pixels:
    """RGB, uint8 [side, side, 3], of three bands or one, as `levels` gives them."""
    bands = levels(raster, limits)
    return np.stack(bands if len(bands) == 3 else bands * 3, axis=-1)


def levels(raster: Raster, limits: tuple[tuple[float, float], ...] | None) -> list[Pixels]:
    """Each band in uint8 [side, side]: low becomes 0, high 255, linear between, clipped outside; no data is 0."""
    bands = []
    for band, values in enumerate(raster.values):
        if limits is None:
            grey = np.where(raster.valid, values, 0).astype(np.uint8)
        else:
            low, high = limits[min(band, len(limits) - 1)]
            share = (np.where(raster.valid, values, low).astype(np.float64) - low) / (high - low)
            grey = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
            grey[~raster.valid] = 0
        bands.append(grey)
    return bands


def _outside(raster: Raster, limits: tuple[tuple[float, float], ...]) -> bool:
    """Whether no valid value of any band lies between its limits."""
    pairs = limits * len(raster.values) if len(limits) == 1 else limits
    seen = (values[raster.valid] for values in raster.values)
    return all(values.max() <= low or values.min() >= high for values, (low, high) in zip(seen, pairs, strict=True))


def _sample(files: Mapping[str, Sequence[Path]], bands: Bands, masks: bool) -> tuple[list[Raster], str]:
    """Thinned rasters, and the first file that could not be read with its reason."""
    share = max(1, SAMPLE_IMAGES // len(files))
    rasters, first_reason = [], ""
    for paths in files.values():
        for path in evenly_spaced(paths, share):
            raster = _read(path, bands, masks)
            if isinstance(raster, Raster):
                rasters.append(raster)
            else:
                first_reason = first_reason or f"{printable(path.name)}: {raster}"
    return rasters, first_reason


def _read(path: Path, bands: Bands, masks: bool) -> Raster | str:
    content = read_bytes(path)
    if isinstance(content, str):
        return content
    try:
        raster = _raster(content, bands, masks)
    except Exception as error:  # as in `read_square`, one bad file must not end a run
        return reason_of(error)
    if isinstance(raster, str):
        return raster
    every = -(-len(raster.valid) // SAMPLE_SIDE)
    thin = (slice(None, None, every),) * 2
    return replace(raster, values=raster.values[:, *thin].copy(), valid=raster.valid[thin].copy())


def _limits(rasters: Sequence[Raster], band: int, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Rounded to six digits, so that the last bits of a library's interpolation do not change a hash."""
    values = np.concatenate([raster.values[band][raster.valid] for raster in rasters]).astype(np.float64)
    if not len(values):
        return 0.0, 0.0
    low, high = (float(f"{value:.6g}") for value in np.percentile(values, percentiles))
    return low, high


def _described(kind: tuple[str, int]) -> str:
    return f"{counted(kind[1], 'band')} of {kind[0]}"


# -- Read scenes that are NumPy arrays: .npz files that hold one array each.


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
