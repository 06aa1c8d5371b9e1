"""Turn bands and values into 8 bits with one stretch for the whole data set, so that brightness is comparable."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dpd_runtime.annotations import Pixels
from dpd_runtime.errors import DataError
from dpd_runtime.images.bands import SENTINEL2, Band
from dpd_runtime.images.pixels import ALONE, Alike, ToPixels, alike, evenly_spaced, pillow_rgb, read_bytes, reason_of
from dpd_runtime.text import counted, printable
from dpd_train.images.arrays import START, read_array
from dpd_train.images.arrays import WAY_OUT as ARRAY
from dpd_train.images.rasters import Bands, Layout, Raster, read_raster, require_rasterio
from dpd_train.reading import PERCENTILES, Reading

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
    masks       as in `dpd_runtime.images.pixels.Alike`
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
        deciding: list[Any] = [self.bands, self.limits]
        if self.carried or self.decibels:
            deciding += [self.decibels, bool(self.carried)]
        if not self.masks:
            deciding.append("no masks")
        decisive = json.dumps(deciding, separators=(",", ":"), allow_nan=False).encode()
        return hashlib.sha256(b"dpd rendering\0" + decisive + b"\0" + hashlib.sha256(content).digest()).hexdigest()

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
    return ARRAY if content.startswith(START) else pillow_rgb(content, files, gaps)


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
