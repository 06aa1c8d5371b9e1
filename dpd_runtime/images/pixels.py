"""Read one file as a square image, RGB with Pillow, or say why it cannot be read."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from dpd_runtime.annotations import Pixels
from dpd_runtime.files import open_regular
from dpd_runtime.images.bands import SENTINEL2_BANDS
from dpd_runtime.images.effort import TIFF_STARTS
from dpd_runtime.images.pictures import DECODERS, open_image
from dpd_runtime.text import printable

MOST_BYTES = 2**31
STRIP = 256  # rows
PHOTOMETRIC_RGB = 2  # of TIFF's tag 262: the first three bands are red, green and blue
BRIGHT = 0.98  # share of the values below which one counts as bright: single glints do not make an image bright
COLOUR16 = ("RGB;16", "RGBA;16", "RGBX;16", "RGBa;16", "LA;16")
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
            return file.read() or "empty file"
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


def pillow_rgb(content: bytes) -> Image.Image | str:
    """RGB, 8 bits; or the reason why there is no meaningful conversion."""
    try:
        with open_image(content) as image:
            result = _to_rgb(image)
    except Exception as error:
        if hint := _many_bands(content, least=2):
            return hint
        if isinstance(error, UnidentifiedImageError) and content.startswith(TIFF_STARTS):
            return "a damaged TIFF, or one of other bands than grey or RGB: those are read with --bands"
        raise
    return _many_bands(content, least=4) or result if isinstance(result, str) else result


def _many_bands(content: bytes, least: int) -> str | None:
    """Say how a TIFF of at least so many bands is read; None for other files, and fewer than four bands of 8 bits."""
    try:
        tags = first_directory(BytesIO(content))
        bands, bits, photometric = int(tags.get(277, 1)), max(tags.get(258, (1,))), tags.get(262)
    except Exception:  # damaged
        return None
    if bands < least or (bands < 4 and bits <= 8):
        return None
    stretch = " --stretch 2,98" if bits > 8 else ""
    if bands == 2:
        return f"2 bands of {bits} bits: say which one is grey, such as --bands 1{stretch}"
    in_order = bands == 3 or photometric == PHOTOMETRIC_RGB
    usual = "1,2,3" if in_order else "4,3,2" if bands in SENTINEL2_BANDS else "3,2,1"
    return f"{bands} bands of {bits} bits: say which are red, green and blue, such as --bands {usual}{stretch}"


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


def first_directory(file: BinaryIO) -> Mapping[int, Any]:
    """The tags of a TIFF's first image; empty for other files."""
    start = file.read(8)
    if not start.startswith(TIFF_STARTS):
        return {}
    start += file.read(8) if start.startswith(TIFF_STARTS[2:]) else b""
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    file.seek(tags.next)
    with _quiet():
        tags.load(file)
    return tags


def _to_rgb(image: ImageFile.ImageFile) -> Image.Image | str:
    if image.format != "MPO" and _has_second_frame(image):  # an MPO is a camera's JPEG with previews after the picture
        return "animated or multi-page; save the wanted image as its own file"
    colour16 = any(part.startswith(COLOUR16) for part in _raw_modes(image))
    if _in_separate_planes(image):
        return "16-bit bands in separate planes, which Pillow misreads; pass --bands, or convert to 8 bits"
    image.load()
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if image.mode == "F":
        return "floating-point pixels have no known range; pass --stretch 2,98, or convert to 8 bits"
    if colour16 and (high := _bright(image)) < 16:
        return _almost_black("colour", 256 * high + 255)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_black(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _has_second_frame(image: ImageFile.ImageFile) -> bool:
    """Whether there is a second frame. To count them takes hours for a TIFF of a million pages."""
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def _on_black(image: Image.Image) -> Image.Image | str:
    """Aerial tiles are black where they have no data; colours under transparency are arbitrary.

    In strips, because each step makes a copy of four bytes a pixel.
    """
    canvas, visible = Image.new("RGB", image.size), False
    for top in range(0, image.height, STRIP):
        with_alpha = image.crop((0, top, image.width, min(top + STRIP, image.height))).convert("RGBA")
        visible = visible or with_alpha.getchannel("A").getextrema() != (0, 0)
        black = Image.new("RGBA", with_alpha.size, (0, 0, 0, 255))
        canvas.paste(Image.alpha_composite(black, with_alpha).convert("RGB"), (0, top))
    return canvas if visible else "fully transparent"


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


def _bright(image: Image.Image) -> int:
    """The value below which BRIGHT of the colours lie, without alpha; of 16-bit colours Pillow keeps the upper byte."""
    counts = np.reshape(image.convert("RGB").histogram(), (3, 256)).sum(axis=0)
    return int(np.searchsorted(counts.cumsum(), BRIGHT * counts.sum()))


def _from_16_bit(values: npt.NDArray[np.integer]) -> Image.Image | str:
    """Map 0…65535 to 0…255; stretching each image by itself would lose differences in brightness."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        return f"integer pixels from {low} to {high} have no known range; pass --stretch 2,98, or convert to 8 bits"
    bright = int(np.quantile(values, BRIGHT))
    if bright < 4096:
        return _almost_black("grey", bright)
    rounded = values.astype(np.uint32) + 128
    rounded //= 257  # no value lies in the middle between two results
    return Image.fromarray(rounded.astype(np.uint8)).convert("RGB")


def _almost_black(what: str, high: int) -> str:
    way_out = "pass --stretch 2,98, or convert to 8 bits"
    return f"16-bit {what} with most values up to {high} only would turn almost black; {way_out}"
