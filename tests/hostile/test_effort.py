"""What decoding costs beyond pixels is counted before: scans of a JPEG, strips of a TIFF on top of each other."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_runtime.images import (
    MOST_SCANNED,
    MOST_SCANS,
    excess,
    open_image,
    pillow_rgb,
    read_bytes,
    read_pixels,
    read_square,
    size_in_header,
)
from dpd_runtime.tags import costly_headers

FORMS = [
    ("JPEG", {"progressive": True}),
    ("JPEG", {"progressive": True, "subsampling": 0, "quality": 100}),
    ("JPEG", {"restart_marker_blocks": 1}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate", "tiffinfo": {278: 1}}),
    ("TIFF", {"compression": "jpeg"}),
    ("TIFF", {"big_tiff": True}),
    ("TIFF", {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
    ("PNG", {}),
    ("WEBP", {}),
    ("BMP", {}),
]


def saved(image: Image.Image, form: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8))


def repeated(image: Image.Image, more: int) -> bytes:
    """A progressive JPEG whose last scan stands there again and again."""
    raw = saved(image, "JPEG", {"progressive": True, "quality": 50})
    last = raw[raw.rindex(b"\xff\xda") : -2]
    return raw[:-2] + last * more + raw[-2:]


def stacked(strips: int, empty: int) -> bytes:
    """A TIFF whose strips, one row of eight pixels each, all are the same bytes: so many empty blocks, and a row."""
    body = b"\x78\x01" + b"\x00\x00\x00\xff\xff" * empty + zlib.compress(bytes(8), 0)[2:]
    begin = 8 + 2 + 12 * 9 + 4
    tags = [(256, 8), (257, strips), (258, 8), (259, 8), (262, 1), (273, begin), (277, 1), (278, 1)]
    tags += [(279, begin + 4 * strips)]
    listed = b"".join(struct.pack("<HHII", name, 4, strips if name in (273, 279) else 1, value) for name, value in tags)
    places = struct.pack("<I", begin + 8 * strips) * strips + struct.pack("<I", len(body)) * strips
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + listed + bytes(4) + places + body


def headers(tags: int, again: int, big: bool, pieces: int = 1) -> bytes:
    """A TIFF of so many tags of an unknown type in one directory, whose next one is at `again`."""
    order, number, entry = ("<Q", "<Q", "<HHQQ") if big else ("<H", "<I", "<HHII")
    start = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) if big else b"II*\0" + struct.pack("<I", 8)
    listed = b"".join(struct.pack(entry, 273 if pieces > 1 else 40000, 4, pieces, 0) for _ in range(tags))
    return start + struct.pack(order, tags) + listed + struct.pack(number, again)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("tags", "pieces", "why"),
    [(300, 1, "come round again"), (60_000, 1, "a TIFF of 60000 tags"), (1, 9_000_000, "a TIFF of 9000000 strips")],
)
def test_headers_alone_cost_nothing(tmp_path: Path, tags: int, pieces: int, why: str, big: bool) -> None:
    """A directory whose next one is itself took 36 s; a list of strips a hundred times its own size."""
    content, begun = headers(tags, 16 if big else 8, big, pieces), time.perf_counter()
    assert why in costly_headers(content)
    with pytest.raises(ValueError, match=why):
        open_image(content)
    (tmp_path / "a.tif").write_bytes(content)
    assert why in str(read_square(tmp_path / "a.tif", 8, pillow_rgb))
    size_in_header(tmp_path / "a.tif")
    assert time.perf_counter() - begun < 0.5
    assert costly_headers(content[:9]) == "", "what is cut short is left to readers"


@pytest.mark.parametrize(("form", "options"), FORMS)
def test_headers_of_usual_files_are_no_effort(form: str, options: dict[str, object]) -> None:
    assert costly_headers(saved(noise(100), form, options)) == ""


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="needs /proc")
def test_a_file_of_the_system_without_end_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/proc/self/pagemap")
    assert read_bytes(tmp_path / "a.png") == "not a regular file"
    assert read_pixels(tmp_path / "a.png") is None


@pytest.mark.parametrize(("form", "options"), FORMS)
@pytest.mark.parametrize("side", [8, 100])
def test_ordinary_images_are_read(form: str, options: dict[str, object], side: int) -> None:
    content = saved(noise(side), form, options)
    assert excess(content) == ""
    with open_image(content) as image:
        assert image.size == (side, side)


def test_scans_are_counted_as_a_decoder_reads_them() -> None:
    """Not those of a thumbnail, of bytes that only look like a scan, or behind the end."""
    picture, fake = repeated(Image.new("L", (64, 64)), 20), b"\xff\xda\x00\x08" * 10_000
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(fake)) + fake
    assert excess(picture[:2] + segment + picture[2:] + fake) == ""
    assert excess(picture[:2] + segment + repeated(Image.new("L", (64, 64)), MOST_SCANS)[2:]) != ""
    filled = picture.replace(b"\xff\xda", b"\xff\xff\xff\xda")  # fill bytes, which decoders skip
    assert filled != picture
    assert excess(filled[:-2] + filled[filled.rindex(b"\xff\xff\xda") : -2] * MOST_SCANS + filled[-2:]) != ""


@pytest.mark.parametrize(("side", "more"), [(64, MOST_SCANS), (4096, MOST_SCANNED >> 24)])
def test_a_jpeg_of_many_scans_is_set_aside(side: int, more: int, tmp_path: Path) -> None:
    content = repeated(Image.new("L", (side, side)), more)
    with Image.open(io.BytesIO(content)) as image:  # control: Pillow opens it, and would read every scan
        assert image.size == (side, side)
    (tmp_path / "a.jpg").write_bytes(content)
    said = read_square(tmp_path / "a.jpg", 64, pillow_rgb)
    assert isinstance(said, str)
    assert said.startswith("damaged or unsupported: a JPEG of more than ")
    assert read_pixels(tmp_path / "a.jpg") is None
    assert excess(repeated(Image.new("L", (side, side)), 3)) == ""


def test_a_small_jpeg_that_would_take_half_a_minute(tmp_path: Path) -> None:
    content = repeated(Image.new("L", (4096, 4096)), 3000)
    assert len(content) < 200_000
    (tmp_path / "a.jpg").write_bytes(content)
    began = time.process_time()
    assert isinstance(read_square(tmp_path / "a.jpg", 64, pillow_rgb), str)
    assert time.process_time() - began < 1


def test_strips_on_top_of_each_other_are_set_aside(tmp_path: Path) -> None:
    content = stacked(3, 0)  # control: a TIFF that Pillow reads, of 12 bytes of overhead for a row
    with Image.open(io.BytesIO(content)) as image:
        assert np.asarray(image).shape == (3, 8)
    (tmp_path / "a.tif").write_bytes(stacked(20_000, 20_000))
    began = time.process_time()
    said = read_square(tmp_path / "a.tif", 4, pillow_rgb)
    assert said == "damaged or unsupported: a TIFF whose strips or tiles share bytes; save it again"
    assert time.process_time() - began < 1
    assert read_pixels(tmp_path / "a.tif") is None


def test_gdal_does_not_see_them() -> None:
    pytest.importorskip("rasterio")
    from dpd_train.rasters import read_raster

    assert read_raster(stacked(20_000, 20_000), None) == ("a TIFF whose strips or tiles share bytes; save it again")
    assert str(read_raster(repeated(Image.new("L", (64, 64)), MOST_SCANS), None)).startswith("a JPEG of more than")


def test_a_tiff_that_is_cut_short_is_not_called_hostile() -> None:
    assert excess(saved(noise(100), "TIFF", {})[:-1]) in ("", "a TIFF that is cut short")
    whole = stacked(300, 0)  # whose last bytes are the strips
    assert excess(whole[:-10]) == "a TIFF that is cut short"
