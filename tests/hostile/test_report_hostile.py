"""`dpd report` and the audit's scan on sets of strangers: no other program, no memory, no traceback."""

import html
import io
import json
import math
import os
import re
import shlex
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
from dpd_eval.artefacts import check_layout, check_table, find_pictures
from dpd_eval.report import write_report
from dpd_eval.report_records import hide_paths
from dpd_export.peak_memory import peak_bytes, reset_peak
from dpd_runtime.dataset import packed_format
from dpd_runtime.errors import BundleError, DataError, InputError
from dpd_runtime.images import DECODERS, MOST_PIXELS, pillow_rgb, read_pixels, read_square
from dpd_train.scenes import read_scenes
from tests.drawn_results import write_set
from tests.painted import reasons, tree

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
        "from dpd_runtime.images import read_pixels\n"
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


@pytest.mark.parametrize("name", ["a\0b", "../other", "", ".", "a/b", "-rf", "=1+1", "a\u202eb"])
def test_a_class_whose_name_is_no_folder(name: str, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", ("A", "B"))
    content = json.loads((folder / "dataset.json").read_text())
    content["counts"] = {name: 1}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="is not a folder of the set") as caught:
        write_report([folder], tmp_path / "page.html")
    assert caught.value.exit_code == 2
    assert "\0" not in str(caught.value)


def run_folder(tmp_path: Path, content: object) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    return tmp_path / "run"


def shown_commands(page: Path) -> list[list[str]]:
    """The words of each command of the page, as a shell reads them."""
    found = re.findall(r'<pre tabindex="0"><code>(dpd .*?)</code>', page.read_text(), re.S)
    return [shlex.split(html.unescape(line).replace("\\\n", "")) for line in found]


@pytest.mark.parametrize(
    "key", ["x; touch RAN; #", "x$(touch RAN)", "x`touch RAN`", "x\ntouch RAN", "x' y", "overwrite"]
)
def test_keys_of_a_foreign_record_are_no_words_of_a_command(key: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"config": {"base": "nano", "seed": 3, "groups": "a; touch RAN", key: 1}})
    write_report([run], tmp_path / "page.html")
    trained = next(words for words in shown_commands(tmp_path / "page.html") if words[:2] == ["dpd", "train"])
    assert trained[2:] == ["DATA", "--config", "run/run.json", "--out", "run-again"]


@pytest.mark.parametrize("config", [{"ipc": "x"}, {"seed": [1]}, {"base": {}}, {"ipc": -1}, {"bands": "7;,"}])
def test_a_foreign_config_of_wrong_types_is_an_input_error(config: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_report([run_folder(tmp_path, {"config": {"base": "nano", **config}})], tmp_path / "page.html")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400, "NaN"])
def test_numbers_that_are_not_finite(number: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"seconds": "@"})
    (run / "run.json").write_text((run / "run.json").read_text().replace('"@"', number))
    with pytest.raises(InputError, match=r"too large a number|no number of JSON"):
        write_report([run], tmp_path / "page.html")


@pytest.mark.parametrize(
    "content",
    [
        {"timings": [{f"c{i}": 1} for i in range(5_000)]},
        {"config": {}, "metrics": {"noise_levels": {f"w{i}": {f"t{i}": 0.5} for i in range(9_000)}}},
    ],
    ids=["timings", "noise levels"],
)
def test_tables_of_many_rows_by_many_columns_are_refused(content: dict[str, object], tmp_path: Path) -> None:
    """A short record: 5,000 rows, each with a column of its own, are 25 million cells."""
    (tmp_path / "r.json").write_text(json.dumps(content))
    path = tmp_path / "r.json" if "timings" in content else run_folder(tmp_path, content)
    began = time.process_time()
    with pytest.raises(InputError, match=r"would fill \d+ cells of tables"):
        write_report([path], tmp_path / "page.html")
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "unit", ["/:", "./", "../", "~/", "file:///", "C:\\", "/a//", "'/:", "http:/", ":\\\\", "/.", "~a"]
)
def test_texts_of_many_paths_take_a_time_in_proportion(unit: str) -> None:
    """40 kB of them took nine seconds."""
    text = unit * (200_000 // len(unit))
    began = time.process_time()
    hide_paths(text)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see /home/ann/euro/test: 3 files", "see test: 3 files"),
        ("/home//ann/x", "x"),
        ("file:///srv/data/a.json:12", "a.json:12"),
        ("(C:\\Users\\ann\\run)", "(run)"),
        ("../../ann/run/", "run"),
        ("/a /:/:/: /", "a /:/:/: /"),
        ("at https://example.org/a/b, /srv/c", "at https://example.org/a/b, c"),
        ("/srv/x:https://example.org/a", "x:https://example.org/a"),
        ("and/or, 3/4, a/b", "and/or, 3/4, a/b"),
    ],
)
def test_paths_become_their_last_name(text: str, shown: str) -> None:
    assert hide_paths(text) == shown
