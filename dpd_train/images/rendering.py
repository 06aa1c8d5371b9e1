"""Turn bands and values into 8-bit RGB with one stretch for the whole data set, so that brightness is comparable."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dpd_runtime.annotations import Pixels
from dpd_runtime.errors import DataError
from dpd_runtime.images.pixels import ToRgb, evenly_spaced, pillow_rgb, printable, read_bytes, reason_of
from dpd_train.images.rasters import Raster, read_raster, require_rasterio
from dpd_train.reading import PERCENTILES, Reading

SAMPLE_IMAGES = 512
SAMPLE_SIDE = 64


@dataclass(frozen=True)
class Rendering:
    """A `Reading` with the limits of a data set: all that decides an image's RGB besides its bytes.

    bands       1-based; None takes the images' own colours
    limits      (low, high) in pixel values that become 0 and 255, once or for each band; None keeps 8-bit values
    kind        pixel type and number of bands that every image must have; None: any (limits were given)
    percentiles that gave the limits, over `sampled` images; None if limits were given
    """

    bands: tuple[int, ...] | None
    limits: tuple[tuple[float, float], ...] | None
    kind: tuple[str, int] | None = None
    percentiles: tuple[float, float] | None = None
    sampled: int = 0

    def rgb(self, content: bytes) -> Image.Image | str:
        """A file's bytes as a square RGB image, black where there is no data; or the reason why there is none."""
        raster = read_raster(content, self.bands)
        if isinstance(raster, str):
            return raster
        if self.kind is not None and raster.kind != self.kind:
            return f"{_described(raster.kind)} where the other images have {_described(self.kind)}"
        if self.limits is not None and len(self.limits) not in (1, len(raster.values)):
            return f"{_described(raster.kind)}, the stretch is for {len(self.limits)} bands"
        return Image.fromarray(stretched(raster, self.limits))

    def identity(self, content: bytes) -> str:
        """sha256 (hex) of a file's bytes, bands and limits, so that other pixels have another key in a cache."""
        decisive = json.dumps([self.bands, self.limits], separators=(",", ":")).encode()
        return hashlib.sha256(b"dpd rendering\0" + decisive + b"\0" + hashlib.sha256(content).digest()).hexdigest()

    def record(self) -> dict[str, Any]:
        """The content for run.json; `stretch` is the value of `--stretch` that treats other images in the same way."""
        return {
            "bands": None if self.bands is None else list(self.bands),
            "stretch": None if self.limits is None else ",".join(f"{low!r}:{high!r}" for low, high in self.limits),
            "percentiles": None if self.percentiles is None else list(self.percentiles),
            "sampled_images": self.sampled,
            "pixel_type": None if self.kind is None else self.kind[0],
        }


def identity(content: bytes, rendering: Rendering | None) -> str:
    """The hash of an image in `SceneSet.hashes`, from the bytes of its file."""
    return hashlib.sha256(content).hexdigest() if rendering is None else rendering.identity(content)


def reader(rendering: Rendering | None) -> ToRgb:
    """What turns a file's bytes into RGB; Pillow for None."""
    return pillow_rgb if rendering is None else rendering.rgb


def settle(reading: Reading, files: Mapping[str, Sequence[Path]], root: Path) -> Rendering:
    """Find the limits of the stretch on a sample of `files` (paths by class), unless `reading` gives them.

    The sample has up to 512 images, equally many from each class, evenly spaced in its order, and every n-th row and
    column of the middle square, at most 64 × 64 pixels per image. It depends only on names and content.

    Raises:
        MissingExtraError: rasterio is not installed.
        DataError: no image of the sample can be read, or a band is constant over it.
    """
    require_rasterio()
    if reading.limits is not None:
        return Rendering(reading.bands, reading.limits)
    rasters, first_reason = _sample(files, reading.bands)
    if not rasters:
        raise DataError(f"{root}: no image of the sample for the stretch can be read, first {first_reason}")
    kind = Counter(raster.kind for raster in rasters).most_common(1)[0][0]
    if kind[0] == "uint8" and reading.percentiles is None:
        return Rendering(reading.bands, None, kind)
    percentiles = reading.percentiles or PERCENTILES
    alike = [raster for raster in rasters if raster.kind == kind]
    limits = tuple(_limits(alike, band, percentiles) for band in range(kind[1]))
    for band, (low, high) in enumerate(limits):
        if not low < high:
            number = reading.bands[band] if reading.bands else band + 1
            raise DataError(
                f"{root}: band {number} is {low:g} at both percentiles {percentiles[0]:g} and {percentiles[1]:g} of "
                "the sample; choose other bands, wider percentiles, or give --stretch LOW:HIGH"
            )
    return Rendering(reading.bands, limits, kind, percentiles, len(alike))


def stretched(raster: Raster, limits: tuple[tuple[float, float], ...] | None) -> Pixels:
    """Stretch to uint8 [side, side, 3]: low becomes 0, high 255, linear between, clipped outside; no data is 0."""
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
    return np.stack(bands if len(bands) == 3 else bands * 3, axis=-1)


def _sample(files: Mapping[str, Sequence[Path]], bands: tuple[int, ...] | None) -> tuple[list[Raster], str]:
    """Thinned rasters, and the first file that could not be read with its reason."""
    share = max(1, SAMPLE_IMAGES // len(files))
    rasters, first_reason = [], ""
    for paths in files.values():
        for path in evenly_spaced(paths, share):
            raster = _read(path, bands)
            if isinstance(raster, Raster):
                rasters.append(raster)
            else:
                first_reason = first_reason or f"{printable(path.name)}: {raster}"
    return rasters, first_reason


def _read(path: Path, bands: tuple[int, ...] | None) -> Raster | str:
    content = read_bytes(path)
    if isinstance(content, str):
        return content
    try:
        raster = read_raster(content, bands)
    except Exception as error:  # as in `read_square`, one bad file must not end a run
        return reason_of(error)
    if isinstance(raster, str):
        return raster
    every = -(-len(raster.valid) // SAMPLE_SIDE)
    return Raster(raster.values[:, ::every, ::every].copy(), raster.valid[::every, ::every].copy())


def _limits(rasters: Sequence[Raster], band: int, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Rounded to six digits, so that the last bits of a library's interpolation do not change a hash."""
    values = np.concatenate([raster.values[band][raster.valid] for raster in rasters]).astype(np.float64)
    if not len(values):
        return 0.0, 0.0
    low, high = (float(f"{value:.6g}") for value in np.percentile(values, percentiles))
    return low, high


def _described(kind: tuple[str, int]) -> str:
    return f"{kind[1]} band{'s' * (kind[1] != 1)} of {kind[0]}"
