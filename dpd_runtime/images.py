"""An image file → pixels, or the reason why not."""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from dpd_runtime.annotations import Pixels
from dpd_runtime.files import open_regular
from dpd_runtime.tags import (
    MOST_PAGES,
    MULTI_PAGE,
    PIECES,
    TIFF_STARTS,
    WHITE_IS_ZERO,
    Tags,
    costly_headers,
    first_directory,
    is_mask,
    read_tags,
)
from dpd_runtime.text import printable

# -- Read one file as a square image, RGB with Pillow, or say why it cannot be read.


MOST_BYTES = 2**31
STRIP = 256  # rows
BRIGHT = 0.98  # share of the values below which one counts as bright: single glints do not make an image bright
DARK = 2**12
CONTRAST = 2**14
"""Least distance of the 2nd and the 98th percentile of 16-bit values, of 65536: a quarter of the grey levels."""
SAMPLE, SAMPLE_VALUES = 256, 4096  # files, and values of each
COLOUR16 = ("RGB;16", "RGBA;16", "RGBX;16", "RGBa;16", "LA;16")
WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
LEVELS = range(256)
Values = npt.NDArray[np.uint16]
Void = npt.NDArray[np.bool_]
ToPixels = Callable[[bytes], Image.Image | Pixels | str]
"""A file's bytes → RGB image or bands, uint8 [H, W, N]; or the reason why there are none. May raise anything that a
decoder raises."""

# What it logs about files of many bands is reported with the file's name in `SceneSet.rejected`.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)


def read_bytes(path: Path) -> bytes | str:
    """The file's bytes, or the reason why they cannot be used."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe or device could block forever
            return "not a regular file"
        if path.stat().st_size > MOST_BYTES:
            return f"larger than {MOST_BYTES >> 30} GiB; cut it into tiles"
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size + 1)
        if len(content) > size:  # of the system, such as /proc/self/pagemap, or growing
            return "not a regular file" if size == 0 else "has changed while it was read; try again"
        return content or "empty file"
    except FileNotFoundError:
        return "broken link" if path.is_symlink() else "no such file"
    except Exception as error:
        return reason_of(error)


def evenly_spaced(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the files, at even distances in their order."""
    count = min(most, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def read_square(path: Path, resolution: int, to_pixels: ToPixels) -> tuple[bytes, Pixels] | str:
    """The file's bytes and its middle square, resized (Lanczos), uint8 [resolution, resolution, 3]; or a reason.

    Of images with bands, each band is resized by itself: [resolution, resolution, N].
    """
    content = read_bytes(path)
    if isinstance(content, str):
        return content
    try:
        with _quiet():
            image = to_pixels(content)
        if isinstance(image, str):
            return image
        if isinstance(image, Image.Image):
            return content, middle(image, resolution)
        bands = (Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(image, -1, 0))
        return content, np.stack([middle(band, resolution) for band in bands], axis=-1)
    except Exception as error:  # decoders raise almost any type on damaged bytes, and one bad file must not end a run
        return reason_of(error)


def middle(image: Image.Image, resolution: int, resampling: Image.Resampling = Image.Resampling.LANCZOS) -> Pixels:
    """The middle square of an image, resized, uint8 [resolution, resolution, channels]; masks take NEAREST."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image if image.width == image.height else image.crop((left, top, left + side, top + side))
    if side != resolution:
        square = square.resize((resolution, resolution), resampling)
    return np.asarray(square, np.uint8)


def size_in_header(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels from the header; None if it has none."""
    try:
        with open_regular(path) as file, _quiet(), Image.open(file, formats=DECODERS) as image:
            return image.size
    except Exception:  # the reason is reported when the file itself is read
        return _tiff_size(path)


@dataclass(frozen=True)
class Alike:
    """What files have in common that one alone does not tell: water looks as grey in every range.

    span   2nd and 98th percentile of the values of their 16-bit images; None: of each image by itself
    masks  False where most of their bands that are marked as alpha are no masks, so that none is
    unread files with bands beyond their colours, of the files that were looked at
    """

    span: tuple[int, int] | None = None
    masks: bool = True
    unread: tuple[int, int] = (0, 0)

    @property
    def note(self) -> str:
        """What the user should know of the bands that are not read; empty if all are."""
        beyond, files = self.unread
        many = "all files" if beyond == files else f"{beyond} of {files} files"
        return f"{many} of a sample have bands beyond their colours, which are not read" if beyond else ""


ALONE = Alike()


def alike(paths: Sequence[Path]) -> Alike:
    """Look at up to 256 of the files, at even distances. It depends only on their order and content."""
    spans: list[Values] = []
    masks: list[bool] = []
    beyond, looked = 0, evenly_spaced(paths, SAMPLE)
    for path in looked:
        if not _may_need_others(path) or isinstance(content := read_bytes(path), str):
            continue
        try:
            with _quiet(), open_image(content) as image:
                tags, deep = read_tags(content), _is_deep(image)
                if (tags is not None and (tags.fault or _unread(tags))) or _in_separate_planes(image):
                    continue
                image.load()
                alpha = _alpha(image, tags)
                masked = alpha is not None and is_mask(np.asarray(alpha))
                beyond += not masked if alpha is not None else _bands_beyond(image, tags)
                if alpha is not None:
                    masks.append(masked)
                if deep and not (image.mode.startswith("I") and _without_range(image, tags)):
                    values = _seen(*_values_16(image, content, tags))
                    if len(values) and not _eight_bits(values):
                        spans.append(values[:: -(-len(values) // SAMPLE_VALUES)])
        except Exception:  # the reason is reported when the file itself is read
            continue
    return Alike(
        span=_span(np.concatenate(spans)) if spans else None,
        masks=2 * sum(masks) >= len(masks),
        unread=(beyond, len(looked)),
    )


def pillow_rgb(content: bytes, files: Alike = ALONE, gaps: list[bool] | None = None) -> Image.Image | str:
    """RGB, 8 bits; or the reason why there is no meaningful conversion.

    Args:
        files: what is known of those among which this one lies.
        gaps: gets one more entry for an image, whether pixels of it have no data or are transparent; they are black.
    """
    try:
        with open_image(content) as image:
            result = _to_rgb(image, content, files)
    except Exception as error:
        if hint := _many_bands(content, least=2):
            return hint
        if isinstance(error, UnidentifiedImageError) and content.startswith(TIFF_STARTS):
            return "a damaged TIFF, or one of other bands than grey or RGB: those are read with --bands"
        raise
    if isinstance(result, str):
        return _many_bands(content, least=4) or result
    if gaps is not None:
        gaps.append(result[1])
    return result[0]


def _many_bands(content: bytes, least: int) -> str | None:
    """Say how a TIFF of at least so many bands is read; None for other files, and fewer than four bands of 8 bits."""
    try:
        tags = read_tags(content)
    except Exception:  # damaged
        return None
    if tags is None or tags.bands < least or (tags.bands < 4 and tags.bits <= 8 and tags.colours is None):
        return None
    which = "which one is grey" if tags.bands == 2 else "which are red, green and blue"
    return f"{tags.bands} bands of {tags.bits} bits: say {which}, such as {tags.options}"


def reason_of(error: Exception) -> str:
    """The reason in one line, for the report."""
    if isinstance(error, UnidentifiedImageError):
        return f"not readable as any of {', '.join(DECODERS)}"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels for one image; cut it into tiles"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"damaged or unsupported: {printable(' '.join(text.split()))[:200] or type(error).__name__}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings about odd tags; what matters becomes a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tiff_size(path: Path) -> tuple[int, int] | None:
    """Size from the first directory of a TIFF that Pillow does not open, such as one of thirteen bands."""
    try:
        with open_regular(path) as file:
            tags = first_directory(file)
        width, height = int(tags[256]), int(tags[257])
    except Exception:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _may_need_others(path: Path) -> bool:
    """Whether an image is one that `Alike` tells something of, by its header."""
    try:
        with open_regular(path) as file, _quiet(), Image.open(file, formats=DECODERS) as image:
            tiff = isinstance(image, TiffImagePlugin.TiffImageFile) and int(image.tag_v2.get(277, 1)) not in (1, 3)
            return image.mode in WITH_ALPHA or tiff or _is_deep(image)
    except Exception:  # the reason is reported when the file itself is read
        return False


def _to_rgb(image: ImageFile.ImageFile, content: bytes, files: Alike) -> tuple[Image.Image, bool] | str:
    """RGB, and whether pixels of it are black because they have no data; or a reason."""
    tags = read_tags(content)
    if tags is None and image.format != "MPO" and _has_second_frame(image):
        return MULTI_PAGE  # an MPO is a camera's JPEG with previews after the picture
    if tags is not None and (fault := tags.fault or _unread(tags)):
        return fault
    if _in_separate_planes(image):
        return "16-bit bands in separate planes, which Pillow misreads; pass --bands, or convert to 8 bits"
    deep = _is_deep(image)
    image.load()
    if image.mode == "F":
        return "floating-point pixels have no known range; pass --stretch 2,98, or convert to 8 bits"
    if image.mode.startswith("I") and (reason := _without_range(image, tags)):
        return reason
    if deep:
        return _from_16_bit(image, content, tags, files)
    void = _void(_levels(image), _no_data_level(image, tags))
    return _on_black(image, content, tags, files, void)


def _unread(tags: Tags) -> str:
    """Why Pillow's pixels are not the values that the tags tell of; empty if they are."""
    if tags.masked:
        return f"a mask is stored beside the image (tag 254), which Pillow does not read; pass {tags.options}"
    if tags.scaled:
        return f"its values are physical by {tags.scaled} in tag 42112; pass {tags.options}"
    if tags.signed and tags.bits <= 8:
        return f"signed integers (tag 339) have no known range; pass {tags.options}, or convert to 8 bits"
    if tags.colours not in (None, (1, 2, 3)):
        return f"tag 42112 gives its colours another order than tag 262; pass {tags.options}"
    return ""


def _has_second_frame(image: ImageFile.ImageFile) -> bool:
    """Whether there is a second frame. To count them takes hours for a TIFF of a million pages."""
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def _on_black(
    image: Image.Image, content: bytes, tags: Tags | None, files: Alike, void: Void | None
) -> tuple[Image.Image, bool] | str:
    """Aerial tiles are black where they have no data; colours under transparency are arbitrary.

    void: bool [H, W], further pixels without data.
    """
    alpha, gaps = _alpha(image, tags), False
    if (alpha is None and "transparency" in image.info) or (
        alpha is not None and files.masks and is_mask(np.asarray(alpha))
    ):
        composed = _composed(image, 255 if alpha is None else int(np.asarray(alpha).max()))
        if isinstance(composed, str):
            return composed
        canvas, gaps = composed
    elif image.mode in WITH_ALPHA:
        canvas = _colours_alone(image, content)
    else:
        canvas = image if image.mode == "RGB" else image.convert("RGB")
    if void is None or not void.any():
        return canvas, gaps
    if void.all():
        return "no pixel has data"
    pixels = np.array(canvas)
    pixels[void] = 0
    return Image.fromarray(pixels), True


def _composed(image: Image.Image, opaque: int) -> tuple[Image.Image, bool] | str:
    """On black, and whether anything is transparent. opaque: the value of alpha that hides nothing.

    In strips, because each step makes a copy of four bytes a pixel.
    """
    canvas, visible, whole = Image.new("RGB", image.size), False, True
    for top in range(0, image.height, STRIP):
        with_alpha = image.crop((0, top, image.width, min(top + STRIP, image.height))).convert("RGBA")
        least, most = with_alpha.getchannel("A").getextrema()
        visible, whole = visible or most != 0, whole and least != 0
        if 0 < opaque < 255:
            with_alpha.putalpha(with_alpha.getchannel("A").point([min(255, level * 255 // opaque) for level in LEVELS]))
        black = Image.new("RGBA", with_alpha.size, (0, 0, 0, 255))
        canvas.paste(Image.alpha_composite(black, with_alpha).convert("RGB"), (0, top))
    return (canvas, not whole) if visible else "fully transparent"


def _alpha(image: Image.Image, tags: Tags | None) -> Image.Image | None:
    """The band that is marked as alpha; None without one."""
    if image.mode not in WITH_ALPHA or (tags is not None and not tags.alpha):
        return None
    return image.getchannel(len(image.getbands()) - 1)


def _colours_alone(image: Image.Image, content: bytes) -> Image.Image:
    """The colours as they are stored, of an image whose last band is no mask."""
    with _quiet(), open_image(content) as header:
        associated = any("RGBa" in mode for mode in _raw_modes(header))
    if associated:  # Pillow has divided the colours by that band
        image = _decoded_again(content, {"RGBa": "RGBA"})
    colours = image.convert("RGBA") if image.mode == "PA" else image
    bands = colours.split()[:-1]
    return Image.merge("RGB", bands if len(bands) == 3 else bands * 3)


def _bands_beyond(image: Image.Image, tags: Tags | None) -> bool:
    """Whether a TIFF has more bands than Pillow gives, or one that something else than alpha is said of."""
    return tags is not None and (tags.bands > len(image.getbands()) or image.mode in WITH_ALPHA)


def _levels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """What a value for no data is compared with: the colours [H, W, bands] without alpha, or the palette's index."""
    levels = np.asarray(image.convert("L") if image.mode == "1" else image)
    levels = levels.reshape(*levels.shape[:2], -1)
    return levels[..., :-1] if image.mode in WITH_ALPHA else levels


def _no_data_level(image: Image.Image, tags: Tags | None) -> int | None:
    """The value for no data as Pillow gives it, which makes fewer than 8 bits eight and white the largest value."""
    if tags is None or tags.no_data is None:
        return None
    most = (1 << tags.bits) - 1
    if not (tags.no_data.is_integer() and 0 <= tags.no_data <= most):
        return None
    value = int(tags.no_data)
    if image.mode not in ("1", "L"):
        return value
    return 255 // most * (most - value if tags.photometric == WHITE_IS_ZERO else value)


def _void(values: npt.NDArray[np.generic], no_data: float | Sequence[float] | None) -> Void | None:
    """Where all bands of values [H, W, bands] have the value for no data, bool [H, W]; None without such a value."""
    return None if no_data is None else (values == np.asarray(no_data)).all(axis=-1)


def _raw_modes(image: ImageFile.ImageFile) -> list[str]:
    """The decoder's raw modes, such as RGB;16B: the only place where Pillow tells the depth."""
    every = [args for _, _, _, args in image.tile]  # its entries have no names before Pillow 11
    return [args if isinstance(args, str) else str(args[0]) for args in every if args]


def _in_separate_planes(image: ImageFile.ImageFile) -> bool:
    """Whether this is an uncompressed planar TIFF with more than 8 bits, which Pillow 13 unpacks as 8 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or len(image.getbands()) == 1:
        return False
    deep = any(bits > 8 for bits in image.tag_v2.get(258, (1,)))
    return deep and image.tag_v2.get(284) == 2 and any(codec == "raw" for codec, *_ in image.tile)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the values have 16 bits."""
    return image.mode.startswith("I") or any(part.startswith(COLOUR16) for part in _raw_modes(image))


def _without_range(image: Image.Image, tags: Tags | None) -> str:
    """Why integers have no known range; empty for those of 16 bits without a sign."""
    low, high = np.asarray(image.getextrema(), np.int64).tolist()
    if low < 0 or high > 65535 or (tags is not None and (tags.signed or tags.bits > 16)):
        return f"integer pixels from {low} to {high} have no known range; pass --stretch 2,98, or convert to 8 bits"
    return ""


def _from_16_bit(
    image: ImageFile.ImageFile, content: bytes, tags: Tags | None, files: Alike
) -> tuple[Image.Image, bool] | str:
    """Map 0…65535 to 0…255; stretching each image by itself would lose differences in brightness."""
    if not image.mode.startswith("I"):
        return _from_16_bit_colour(image, content, tags, files)
    values, void = _values_16(image, content, tags)
    seen = _seen(values, void)
    if not len(seen):
        return "no pixel has data"
    bright = int(np.quantile(seen, BRIGHT))
    if bright < DARK:
        return _almost_black("grey", bright)
    if reason := _flat("grey", seen, files):
        return reason
    rounded = values[..., 0].astype(np.uint32) + 128
    rounded //= 257  # no value lies in the middle between two results
    if void is not None:
        rounded[void] = 0
    return Image.fromarray(rounded.astype(np.uint8)).convert("RGB"), void is not None and bool(void.any())


def _from_16_bit_colour(
    image: ImageFile.ImageFile, content: bytes, tags: Tags | None, files: Alike
) -> tuple[Image.Image, bool] | str:
    """Of each colour Pillow keeps the upper byte; the lower ones are decoded where they decide something."""
    levels, void = _levels(image), None
    if (tags is not None and tags.no_data is not None) or "transparency" in image.info:
        _, void = _values_16(image, content, tags)
        image.info.pop("transparency", None)
    seen = _seen(levels, void)
    if not len(seen):
        return "no pixel has data"
    counts = np.bincount(seen, minlength=256)
    if (high := int(np.searchsorted(counts.cumsum(), BRIGHT * counts.sum()))) < DARK // 256:
        return _almost_black("colour", 256 * high + 255)
    low, high = files.span or _span(256 * seen.astype(np.uint32))
    if high - low < CONTRAST + 256:  # then the lower bytes matter
        values, _ = _values_16(image, content, tags)
        if reason := _flat("colour", _seen(values, void), files):
            return reason
    return _on_black(image, content, tags, files, void)


def _values_16(image: Image.Image, content: bytes, tags: Tags | None) -> tuple[Values, Void | None]:
    """The values of an image of 16 bits [H, W, bands] without alpha, white the largest, and where it has no data."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint16)[..., None]
    else:
        values = 256 * _levels(image).astype(np.uint16) + _levels(_lower_bytes(content))
    no_data = image.info.get("transparency") if tags is None else tags.no_data
    void = _void(values, no_data)
    return 65535 - values if tags is not None and tags.photometric == WHITE_IS_ZERO else values, void


def _lower_bytes(content: bytes) -> Image.Image:
    """The lower bytes of 16-bit colours: what Pillow keeps if it is told the other order of bytes."""
    native = "B" if sys.byteorder == "little" else "L"
    return _decoded_again(content, {";16L": ";16B", ";16B": ";16L", ";16N": f";16{native}"})


def _decoded_again(content: bytes, raw_modes: Mapping[str, str]) -> Image.Image:
    """The image decoded with other raw modes: each name in one is replaced by what it stands for."""
    with _quiet(), open_image(content) as image:
        tiles: list[Any] = []
        for entry in image.tile:
            codec, box, offset, args = entry
            given: list[Any] = [args] if isinstance(args, str) else list(args or ())
            for name in [name for name in raw_modes if name in given[0]][:1]:
                given[0] = given[0].replace(name, raw_modes[name])
            again = given[0] if isinstance(args, str) else tuple(given)
            named = hasattr(entry, "_replace")  # since Pillow 11
            tiles.append(entry._replace(args=again) if named else (codec, box, offset, again))
        image.tile = tiles
        image.load()
        return image.copy()


def _seen(values: npt.NDArray[Any], void: Void | None) -> npt.NDArray[Any]:
    """The values of pixels that have data, in one row."""
    return (values if void is None else values[~void]).ravel()


def _span(values: npt.NDArray[Any]) -> tuple[int, int]:
    low, high = (int(value) for value in np.quantile(values, (1 - BRIGHT, BRIGHT)))
    return low, high


def _eight_bits(values: npt.NDArray[Any]) -> bool:
    """Whether 16-bit values are 8 bits written twice or before a zero, so that nothing is lost with the lower byte."""
    return not (values % 257).any() or not (values & 255).any()


def _flat(what: str, values: Values, files: Alike) -> str:
    """Why 16-bit values would leave few grey levels; empty if they leave many, or if they were 8 bits before."""
    low, high = files.span or _span(values)
    if high - low >= CONTRAST or _eight_bits(values):
        return ""
    all_of = "" if files.span is None else " of all files"
    return (
        f"16-bit {what} with most values{all_of} from {low} to {high} would keep {(high - low) // 257 + 1} of 256 grey "
        "levels; pass --stretch 2,98, or --stretch 0:65535 if that is their range, or convert to 8 bits"
    )


def _almost_black(what: str, high: int) -> str:
    way_out = "pass --stretch 2,98, or convert to 8 bits"
    return f"16-bit {what} with most values up to {high} only would turn almost black; {way_out}"


# -- Open image files that others may have made: few formats, regular files, and a limit on the pixels.


# Only these decoders are used, whatever the file is called: EPS, for example, would start Ghostscript.
DECODERS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
UNREAD = frozenset({".gif", ".jp2", ".heic", ".avif"})  # images that no decoder here reads: a reason, not silence
MOST_PIXELS = 2**25  # Pillow needs up to 8 bytes for each, and a file of 8 KB can hold that many
MOST_PIXELS_OF_SET = 2**24  # as in a bundle's manifest
MOST_FILE_BYTES = 2**28


def is_image(path: Path) -> bool:
    """Whether a file counts as an image where a folder is listed, by its name alone. Those of UNREAD get a reason."""
    return path.suffix.lower() in SUFFIXES | UNREAD and not path.name.startswith(".") and not path.is_dir()


def open_image(content: bytes) -> ImageFile.ImageFile:
    """Open an image by its header, without decoding it. Damaged bytes raise almost any type, here and on decoding.

    Raises:
        PIL.UnidentifiedImageError: not in one of the formats.
        PIL.Image.DecompressionBombError: more than 2**25 pixels.
        ValueError: it would take far longer than its pixels do.
    """
    if reason := costly_headers(content):
        raise ValueError(reason)
    image = Image.open(io.BytesIO(content), formats=DECODERS)
    if image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} × {image.height} pixels")
    if reason := excess(content):
        raise ValueError(reason)
    return image


def read_pixels(path: Path, most: int = MOST_PIXELS_OF_SET) -> Pixels | None:
    """The pixels of an image file, uint8 [H, W, 3], or of an array of bands (.npy), uint8 [H, W, N].

    None if it is missing, damaged or no regular file.

    Args:
        most: width times height; an image of more pixels is not decoded.
    """
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MOST_FILE_BYTES:
                return None
            content = file.read(size)
        if path.suffix == ".npy":
            array = np.load(io.BytesIO(content), allow_pickle=False)
            return array if array.dtype == np.uint8 and array.ndim == 3 else None
        with warnings.catch_warnings(action="ignore"), open_image(content) as image:  # the TIFF reader warns
            return np.asarray(image.convert("RGB")) if image.width * image.height <= most else None
    except Exception:  # decoders raise almost any type on damaged bytes
        return None


# -- What decoding an image file costs beyond its pixels, counted from its bytes before any decoder starts.
#
# A decoder's time is bounded by the pixels and the bytes, except where a few bytes ask for the same pixels or the same
# bytes again: scans of a JPEG, each of which goes over the whole image, and strips or tiles of a TIFF that lie on top
# of each other. Pillow offers no limit for either.


MOST_SCANS = 100
"""Of a JPEG, as in libtiff and GDAL; progressive ones have about ten."""
MOST_SCANNED = 2**29
"""Scans times pixels: a decoder takes a nanosecond or more for each."""
JPEG_START = b"\xff\xd8"
CUT_SHORT = "a TIFF that is cut short"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not zeros after 0xff, nor restarts, which stand in coded data
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN, _END, _BARE = 0xDA, 0xD9, frozenset({0x01, 0xD8})


def excess(content: bytes) -> str:
    """Why an image file would take a decoder far longer than its pixels do; empty for all others."""
    if content.startswith(JPEG_START):
        return _excess_of_jpeg(content)
    if content.startswith(TIFF_STARTS):
        return _excess_of_tiff(content)
    return ""


def _excess_of_jpeg(content: bytes) -> str:
    """Walks from marker to marker, as decoders do, up to the end of the image."""
    at, scans, pixels = len(JPEG_START), 0, 0
    while match := _MARKER.search(content, at):
        kind, at = content[match.end() - 1], match.end()
        if kind == _END:
            break
        if kind in _BARE:
            continue
        if kind in _FRAMES:  # length, bits, height, width
            height, width = (int.from_bytes(content[at + i : at + i + 2], "big") for i in (3, 5))
            pixels = max(pixels, height * width)
        scans += kind == _SCAN
        if scans > MOST_SCANS or scans * pixels > MOST_SCANNED:
            return f"a JPEG of more than {scans - 1} scans of {pixels} pixels; save it again without progressive scans"
        at += max(2, int.from_bytes(content[at : at + 2], "big"))
    return ""


def _excess_of_tiff(content: bytes) -> str:
    """Adds up what the strips and tiles of all pages claim; they would have to share bytes to claim more than all."""
    file = io.BytesIO(content)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if content.startswith(TIFF_STARTS[2:]) else 8])
        claimed = 0
        for _ in range(MOST_PAGES):
            if not tags.next:
                break
            file.seek(tags.next)
            with warnings.catch_warnings(action="ignore"):
                tags.load(file)
            pieces = [piece for names in PIECES for piece in zip(*(tags.get(name, ()) for name in names), strict=False)]
            claimed += sum(size for _, size in pieces)
            if claimed > len(content):
                cut = any(begin + size > len(content) for begin, size in pieces)
                return CUT_SHORT if cut else "a TIFF whose strips or tiles share bytes; save it again"
    except Exception:  # damaged tags raise almost any type
        return "a TIFF with damaged tags"
    return ""
