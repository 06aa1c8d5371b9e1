"""`dpd report` and the audit's scan on sets of strangers: no other program, no memory, no traceback."""

import io
import json
import math
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_eval.audit.artefacts.layout import check_layout, check_table
from dpd_eval.audit.artefacts.pictures import find_pictures
from dpd_eval.report.report import write_report
from dpd_export.graphs.peak_memory import peak_bytes, reset_peak
from dpd_runtime.dataset.folder import packed_format
from dpd_runtime.errors import BundleError, DataError, InputError
from dpd_runtime.images.pictures import DECODERS, MOST_PIXELS, read_pixels
from dpd_runtime.images.pixels import pillow_rgb, read_square
from dpd_train.images import read_scenes
from tests.eval.drawn_results import write_set
from tests.train.painted import reasons, tree

GHOSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n(ran) print\nshowpage\n%%EOF\n"


def bomb(width: int = 13_000, height: int = 13_000) -> bytes:
    """A palette PNG of one colour: 21 KB that become 2.4 GB as RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress((b"\0" + bytes(-(-width // 8))) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", bytes(6)), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def broken_tiff() -> bytes:
    """A TIFF whose tags end early, which Pillow ends with struct.error or SyntaxError."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    return buffer.getvalue()[:-60]


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


FOREIGN = {
    "eps": GHOSTSCRIPT,
    "gif": saved("GIF"),
    "pdf": b"%PDF-1.4\n",
    "ppm": saved("PPM"),
    "ico": saved("ICO"),
    "bomb": bomb(),
    "tiff": broken_tiff(),
    "png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 5) + b"IHDRx",
    "empty": b"",
}


@pytest.fixture
def no_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the PATH whose `gs` leaves a mark when it is started."""
    (tmp_path / "bin").mkdir()
    gs, mark = tmp_path / "bin" / "gs", tmp_path / "started"
    gs.write_text(f"#!/bin/sh\ntouch {mark}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gs.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None, raising=False)
    return mark


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_set_with_a_foreign_picture_ends_in_one_line(kind: str, tmp_path: Path, no_ghostscript: Path) -> None:
    folder = write_set(tmp_path / "set", ("A", "B"))
    (folder / "A" / "A_00000.png").write_bytes(FOREIGN[kind])
    tracemalloc.start()
    with pytest.raises(DataError, match=r"A_00000\.png: cannot be read as an image") as caught:
        write_report([folder], tmp_path / "page.html")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.exit_code == 2
    assert peak < 50e6
    assert not no_ghostscript.exists()
    assert not (tmp_path / "page.html").exists()


def test_a_bomb_of_palette_colours_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb())
    assert (tmp_path / "bomb.png").stat().st_size < 40_000
    code = (
        "import pathlib\n"
        "from dpd_runtime.images.pictures import read_pixels\n"
        f"assert read_pixels(pathlib.Path({str(tmp_path / 'bomb.png')!r})) is None\n"
        # not ru_maxrss, which a child begins with its parent's peak
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) * 1024 < 400e6


def test_an_image_at_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(bomb(2**12, 2**12))
    found = read_pixels(tmp_path / "wide.png")
    assert found is not None
    assert found.shape == (2**12, 2**12, 3)
    (tmp_path / "wider.png").write_bytes(bomb(2**12, 2**12 + 1))
    assert read_pixels(tmp_path / "wider.png") is None


@pytest.mark.parametrize("transparent", [False, True], ids=["opaque", "transparent"])
def test_training_reads_the_largest_images_in_little_memory(transparent: bool, tmp_path: Path) -> None:
    """The largest of which a few kilobytes are enough; those of half transparent colours are composed."""
    content = bomb(math.isqrt(MOST_PIXELS), math.isqrt(MOST_PIXELS))
    if transparent:
        at, chunk = content.index(b"IDAT") - 4, b"tRNS\x80\x10"
        content = content[:at] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[at:]
    (tmp_path / "large.png").write_bytes(content)
    assert len(content) < 10_000
    reset_peak()
    base = peak_bytes()
    found = read_square(tmp_path / "large.png", 64, pillow_rgb)
    assert not isinstance(found, str)
    assert found[1].shape == (64, 64, 3)
    assert peak_bytes() - base < 250e6
    (tmp_path / "larger.png").write_bytes(bomb(2**13, 2**13))
    assert read_square(tmp_path / "larger.png", 64, pillow_rgb) == "too many pixels for one image; cut it into tiles"


@pytest.mark.parametrize("kind", DECODERS)
def test_every_supported_format_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.image").write_bytes(saved(kind))
    found = read_pixels(tmp_path / "a.image")
    assert found is not None
    assert found.dtype == np.uint8


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    assert read_pixels(tmp_path / "pipe.png") is None
    assert read_pixels(tmp_path / "zero.png") is None
    folder = write_set(tmp_path / "set", ("A", "B"))
    (folder / "A" / "A_00000.png").unlink()
    os.mkfifo(folder / "A" / "A_00000.png")
    with pytest.raises(DataError, match="cannot be read as an image"):
        write_report([folder], tmp_path / "page.html")


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_audit_lists_a_foreign_picture(kind: str, no_ghostscript: Path) -> None:
    found = find_pictures("A/A_00000.png", FOREIGN[kind], of_set=True)
    wanted = "picture metadata" if kind == "tiff" else "a picture that cannot be opened"  # the TIFF's tags are whole
    assert [artefact.what for artefact in found] == [wanted]
    assert not no_ghostscript.exists()


def test_training_images_are_held_to_the_same_limits(tmp_path: Path, no_ghostscript: Path) -> None:
    root = tree(tmp_path / "data")
    for kind in ("eps", "gif", "bomb"):
        (root / "Alpha" / f"{kind}.png").write_bytes(FOREIGN[kind])
    found = reasons(read_scenes(root, part="all"))
    assert found["Alpha/bomb.png"] == "too many pixels for one image; cut it into tiles"
    assert found["Alpha/eps.png"] == found["Alpha/gif.png"] == "not readable as any of JPEG, PNG, BMP, TIFF, WEBP"
    assert not no_ghostscript.exists()


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    """Opening one would wait for its other end for ever."""
    for name in ("result.json", "site.dpd", "anything"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="is no regular file"):
            write_report([tmp_path / name], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"kind": ' + b"[" * 500 + b"]" * 500 + b"}", "nested deeper than 32 levels"),
        (b'{"kind": ' + b"[" * 10**5, "is not JSON"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"a": "' + b"x" * (8 * 2**20) + b'"}', "more than 8388608 bytes"),
        (b"{" + b",".join(b'"%d":0' % i for i in range(20_000)) + b"}", "20000 keys"),
    ],
    ids=["deep", "deeper", "twice", "long", "keys"],
)
def test_hostile_json_is_an_input_error(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(raw)
    with pytest.raises(InputError, match=said):
        write_report([tmp_path / "result.json"], tmp_path / "report.html")


@pytest.mark.parametrize("raw", [b'{"x":' * 900 + b"0" + b"}" * 900, b"[" * 10**5, b'{"caption": 1, "caption": 2}'])
def test_json_that_hides_from_the_audits_scan_is_refused(raw: bytes) -> None:
    with pytest.raises(BundleError, match="is not valid JSON"):
        check_layout({"unet/config.json": raw})


@pytest.mark.parametrize("counts", ["x", [None], [[1]], {"a": 1}])
def test_prototype_counts_that_are_no_numbers(counts: object) -> None:
    table = {"classes": [{"name": "Forest", "prototype_counts": counts}]}
    with pytest.raises(BundleError, match="prototype_counts of Forest are no whole numbers"):
        check_table({"classes.json": json.dumps(table).encode()})


def test_a_set_whose_description_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dataset.json")
    assert packed_format(tmp_path) is None
