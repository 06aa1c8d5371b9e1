"""What a folder may hold beside images: told at the start, converted or listed, never read wrongly in silence."""

import io
import os
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dpd_runtime.errors import DataError, MissingExtraError
from dpd_runtime.images import pillow_rgb
from dpd_train.reading import Reading
from dpd_train.scenes import open_scenes, read_scenes
from tests.painted import greys, paint, reasons, tiff, tree


def png16(pixels: npt.NDArray[np.uint16]) -> bytes:
    """PNG of 16-bit RGB or RGBA [H, W, c], which Pillow reads but does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, count = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 6 if count == 4 else 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bit_colours_are_converted_or_rejected_but_never_black_or_garbled(tmp_path: Path) -> None:
    root = tree(tmp_path, count=1)
    bright, dark = np.full((3, 8, 8), 128 * 257, np.uint16), np.full((3, 8, 8), 3000, np.uint16)
    glint = np.full((3, 8, 8), 2000, np.uint16)
    glint[:, 3, 3] = 65535
    grey = io.BytesIO()
    Image.fromarray(glint[0]).save(grey, "PNG")
    seen = np.full((8, 8, 4), 65535, np.uint16)
    seen[..., :3] = 3000
    for name, content in {
        "bright.tif": tiff(bright),
        "bright.png": png16(bright.transpose(1, 2, 0)),
        "dark.tif": tiff(dark),
        "dark.png": png16(dark.transpose(1, 2, 0)),
        "dark_alpha.png": png16(seen),
        "planes.tif": tiff(bright, planar=True),
        "planes8.tif": tiff(np.full((3, 8, 8), 99, np.uint8), planar=True),
        "float3.tif": tiff(bright.astype(np.float32)),
        "thirteen.tif": tiff(np.zeros((13, 8, 8), np.uint16)),
        "glint.png": png16(glint.transpose(1, 2, 0)),
        "grey_glint.png": grey.getvalue(),
    }.items():
        (root / "Beta" / name).write_bytes(content)
    scenes = read_scenes(root, part="all")
    assert dict(zip(scenes.paths, greys(scenes), strict=True)) == {
        "Alpha/Alpha_0.png": 0,
        "Beta/Beta_0.png": 100,
        "Beta/bright.png": 128,
        "Beta/bright.tif": 128,
        "Beta/planes8.tif": 99,
    }
    found = {Path(path).stem: reason for path, reason in reasons(scenes).items()}
    for name in ("dark", "dark_alpha"):
        said = "16-bit colour with most values up to 3071 only would turn almost black; pass --stretch 2,98"
        assert said in found.pop(name)
    assert "separate planes, which Pillow misreads; pass --bands" in found.pop("planes")
    assert found.pop("float3").endswith("red, green and blue, such as --bands 1,2,3 --stretch 2,98")
    assert found.pop("glint") == found.pop("grey_glint").replace("grey", "colour").replace("2000", "2047")
    assert found.pop("thirteen").endswith("such as --bands 4,3,2 --stretch 2,98")
    assert found == {}


def test_a_dark_picture_of_8_bits_is_no_16_bit_one(tmp_path: Path) -> None:
    root = tree(tmp_path)
    for kind in ("png", "bmp", "tif", "webp", "jpg"):
        paint(root / "Alpha" / f"night.{kind}", 3)
    high_colour = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 1, 1)).save(high_colour, "BMP")
    (root / "Alpha" / "x.bmp").write_bytes(high_colour.getvalue())
    assert read_scenes(root, part="all").rejected == ()


def test_sizes_are_found_without_decoding(tmp_path: Path) -> None:
    root = tree(tmp_path, count=1)
    for index in range(3):
        (root / "Beta" / f"{index}.tif").write_bytes(tiff(np.zeros((13, 24, 20), np.uint16)))
    assert open_scenes(root).side == 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_loops_and_folders_do_not_block(tmp_path: Path) -> None:
    root = tree(tmp_path)
    os.mkfifo(root / "Alpha" / "pipe.png")
    (root / "Alpha" / "loop.png").symlink_to("loop.png")
    (root / "Alpha" / "folder.png").mkdir()
    (root / "Alpha" / "to_folder.png").symlink_to(root / "Beta")
    scenes = read_scenes(root, part="all")
    assert len(scenes.labels) == 8
    assert open_scenes(root).side == 8
    found = reasons(scenes)
    assert found.pop("Alpha/pipe.png") == "not a regular file"
    assert "symbolic links" in found.pop("Alpha/loop.png")
    assert found == {}


def test_a_file_larger_than_memory_is_not_loaded(tmp_path: Path) -> None:
    root = tree(tmp_path)
    with (root / "Alpha" / "sparse.tif").open("wb") as file:
        file.truncate(2**31 + 1)
    assert reasons(read_scenes(root, part="all")) == {"Alpha/sparse.tif": "larger than 2 GiB; cut it into tiles"}


def test_names_with_control_characters(tmp_path: Path) -> None:
    root = tree(tmp_path)
    paint(root / "Alpha" / "two\nlines.png", 50)
    (root / "Alpha" / "\x1b[31mred\u202egnp.png").write_bytes(b"")
    (root / os.fsdecode(b"Alpha/\xff.png")).write_bytes(b"")
    scenes = read_scenes(root, part="all")
    assert "Alpha/two\\nlines.png" in scenes.paths
    assert set(reasons(scenes)) == {"Alpha/\\x1b[31mred\\u202egnp.png", "Alpha/\\udcff.png"}
    (root / "Beta").rename(root / "Be\nta")
    with pytest.raises(
        DataError, match=r"Be\\nta: the class name is not UTF-8 or has control characters; rename"
    ) as caught:
        read_scenes(root, part="all")
    assert "\n" not in str(caught.value)


def test_links_that_leave_the_folder_are_read_and_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    (root / "Alpha" / "inside.png").symlink_to(root / "Beta" / "Beta_0.png")
    (root / "Alpha" / "outside.png").symlink_to(paint(tmp_path / "elsewhere.png", 77))
    (tmp_path / "more").mkdir()
    tree(tmp_path / "more", count=1, classes=("Gamma",))
    (root / "Gamma").symlink_to(tmp_path / "more" / "Gamma")
    scenes = read_scenes(root, part="all")
    assert scenes.outside == ("Alpha/outside.png", "Gamma/Gamma_0.png")
    (tmp_path / "link").symlink_to(root)
    assert read_scenes(tmp_path / "link", part="all").outside == scenes.outside


def test_too_few_images_are_told_before_any_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, count=3)
    paint(root / "Gamma" / "one.png", 1)
    monkeypatch.setattr(Image, "open", lambda *given, **named: pytest.fail("an image was opened"))
    with pytest.raises(DataError, match=r"'Gamma' has 0 usable images in part 'train', at least 2 needed"):
        read_scenes(root, part="train")


@contextmanager
def another_user() -> Iterator[Path]:
    """A folder to work in and, for root, who may read everything, the rights of nobody."""
    folder = Path(tempfile.mkdtemp(prefix="dpd-test-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        if os.geteuid() != os.getuid():
            os.seteuid(os.getuid())
        for path in [folder, *folder.iterdir()]:
            path.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users here")
def test_what_may_not_be_read_is_listed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with another_user() as root:
        tree(root)
        (root / "Alpha" / "Alpha_3.png").chmod(0)
        read_scenes(root, part="all")  # before the rights go: whatever is imported late
        if os.geteuid() == 0:
            os.seteuid(65534)
        assert reasons(read_scenes(root, part="all")) == {"Alpha/Alpha_3.png": "no permission to read it"}
        if os.getuid() == 0:
            os.seteuid(0)
        (root / "Beta").chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        with pytest.raises(DataError, match=r"Beta: cannot be listed \(Permission denied\); grant the permission"):
            read_scenes(root, part="all")


def test_a_missing_backend_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path)
    for package in ("rasterio", "pyarrow"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r'rasterio is not installed: pip install .*\[geo\]"') as caught:
        read_scenes(root, part="all", reading=Reading((1, 2, 3)))
    assert caught.value.exit_code == 5
    (root / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=r'pyarrow is not installed: pip install .*\[parquet\]"'):
        read_scenes(root / "list.parquet", part="all")


@pytest.mark.parametrize(
    ("bands", "photometric", "options"),
    [
        (2, "minisblack", "--bands 1 --stretch 2,98"),
        (3, "minisblack", "--bands 1,2,3 --stretch 2,98"),
        (4, "rgb", "--bands 1,2,3 --stretch 2,98"),
        (4, "minisblack", "--bands 3,2,1 --stretch 2,98"),
        (13, "minisblack", "--bands 4,3,2 --stretch 2,98"),
    ],
)
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_geotiff_of_16_bits_says_which_options_read_it(
    bands: int, photometric: str, options: str, tmp_path: Path
) -> None:
    rasterio = pytest.importorskip("rasterio")
    shape = {"height": 8, "width": 8, "count": bands, "dtype": "uint16", "photometric": photometric}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **shape) as file:
        file.write(np.full((bands, 8, 8), 2000, np.uint16))
    assert str(pillow_rgb((tmp_path / "a.tif").read_bytes())).endswith(options)
