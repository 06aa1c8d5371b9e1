"""Distilled sets on disk, as far as no graph is needed. The tests write the sets themselves."""

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dpd_runtime.annotations import Pixels
from dpd_runtime.dataset import _Gathered, check_beside, check_output_folder, contact_sheet, remove_set, set_hash
from dpd_runtime.errors import InputError, OutputFolderError
from dpd_runtime.formats import Sample
from dpd_runtime.images import read_pixels
from dpd_runtime.set_state import State

HEADER: dict[str, Any] = {
    "bundle": "0" * 64,
    "seed": 3,
    "sampler": {"solver": "ddim", "guidance": [{"from_block": 0}]},
    "provider": "cpu",
    "classes": ["Forest", "River"],
}


def pixels_of(name: str, index: int, height: int = 6, width: int = 5) -> Pixels:
    seed = int.from_bytes(hashlib.sha256(f"{name}{index}".encode()).digest()[:4], "little")
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def record_of(name: str, index: int) -> dict[str, Any]:
    return {
        "file_name": f"{name}/{name}_{index:05d}.png",
        "class": name,
        "index": index,
        "pixels_sha256": hashlib.sha256(pixels_of(name, index).tobytes()).hexdigest(),
    }


def make_set(out: Path, *, ipc: int = 2, finished: bool = True) -> list[Path]:
    """A set as `write_set` leaves it, complete or interrupted. Returns its image files."""
    records = [record_of(name, index) for name in HEADER["classes"] for index in range(ipc)]
    for record in records:
        path = out / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels_of(record["class"], record["index"])))
    lines = [json.dumps(record) for record in records]
    if finished:
        (out / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (out / "dataset.json").write_text(json.dumps({"set_hash": "1", "made_with": HEADER}), encoding="utf-8")
        (out / "contact_sheet.png").write_bytes(b"sheet")
    else:
        (out / "state.jsonl").write_text("\n".join([json.dumps(HEADER), *lines]) + "\n", encoding="utf-8")
    return [out / record["file_name"] for record in records]


def tree(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*")}


# set hash


def reference_hash(images: list[tuple[str, int, Pixels]]) -> str:
    message = b""
    for name, index, pixels in sorted(images, key=lambda image: (image[0].encode("utf-8"), image[1])):
        raw = name.encode("utf-8")
        height, width, channels = pixels.shape
        message += struct.pack("<I", len(raw)) + raw
        message += struct.pack("<I", index) + struct.pack("<I", height) + struct.pack("<I", width)
        message += b"" if channels == 3 else struct.pack("<I", channels)
        message += bytes(int(pixels[y, x, c]) for y in range(height) for x in range(width) for c in range(channels))
    return hashlib.sha256(message).hexdigest()


IMAGES = [(name, index, pixels_of(name, index)) for name in ("River", "Forest", "Ünland", "Z") for index in (2, 10, 0)]


def test_set_hash_is_that_of_the_design() -> None:
    assert set_hash(IMAGES) == reference_hash(IMAGES)
    assert set_hash([]) == hashlib.sha256().hexdigest()
    tiny = np.array([[[1, 2, 3]]], np.uint8)
    by_hand = b"\x01\0\0\0A" + b"\x07\0\0\0" + b"\x01\0\0\0" * 2 + b"\x01\x02\x03"
    assert set_hash([("A", 7, tiny)]) == hashlib.sha256(by_hand).hexdigest()


@pytest.mark.parametrize("bands", [1, 4])
def test_set_hash_of_other_images_than_rgb_has_their_number_of_bands(bands: int) -> None:
    images = [("A", index, np.random.default_rng(index).integers(0, 256, (2, 3, bands), np.uint8)) for index in (1, 0)]
    assert set_hash(images) == reference_hash(images)


@given(st.permutations(IMAGES))
def test_set_hash_does_not_hang_on_order(images: list[tuple[str, int, Pixels]]) -> None:
    assert set_hash(iter(images)) == set_hash(IMAGES)


def test_set_hash_sees_every_part() -> None:
    def changed(name: str, index: int, pixels: Pixels) -> str:
        return set_hash([(name, index, pixels), *IMAGES[1:]])

    name, index, pixels = IMAGES[0]
    flipped = pixels.copy()
    flipped[-1, -1, -1] ^= 1
    hashes = {
        set_hash(IMAGES),
        changed("Rives", index, pixels),
        changed(name, 3, pixels),
        changed(name, index, flipped),
        changed(name, index, pixels.reshape(5, 6, 3)),
        set_hash(IMAGES[1:]),
    }
    assert len(hashes) == 6


def test_set_hash_reads_strided_pixels_in_order() -> None:
    mirrored = IMAGES[0][2][:, ::-1]
    assert set_hash([("A", 0, mirrored)]) == set_hash([("A", 0, mirrored.copy())]) != set_hash([("A", 0, IMAGES[0][2])])


# whose folder is it


@pytest.mark.parametrize("finished", [True, False])
def test_folders_which_may_be_written(finished: bool, tmp_path: Path) -> None:
    check_output_folder(tmp_path / "absent")
    check_output_folder(tmp_path)
    make_set(tmp_path, finished=finished)
    check_output_folder(tmp_path)


def test_what_a_kill_in_the_first_write_leaves_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "state.jsonl.partial").write_bytes(b'{"bun')
    check_output_folder(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"photo.png": "x"},
        {"dataset.json": '{"name": "my photos"}'},
        {"dataset.json": "[]"},
        {"dataset.json": "not json"},
        {"dataset.json": '{"made_with": "gimp"}'},
        {"state.jsonl": '{"step": 1}\n{"step": 2}\n'},
        {"state.jsonl": ""},
        {"state.jsonl.partial": "", "photo.png": "x"},
    ],
    ids=repr,
)
def test_folders_of_others_are_refused_and_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    files = files | {"metadata.jsonl": '{"file_name": "photo.png"}\n'}  # the format of Hugging Face's ImageFolder
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    before = tree(tmp_path)
    for refuse in (check_output_folder, remove_set):
        with pytest.raises(OutputFolderError, match="is not a distilled set; choose another --out") as caught:
            refuse(tmp_path)
        assert caught.value.exit_code == 2
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x")
    with pytest.raises(OutputFolderError, match="is a file"):
        check_output_folder(tmp_path / "out")


# removal


@pytest.mark.parametrize("finished", [True, False])
def test_remove_set_takes_what_it_made(finished: bool, tmp_path: Path) -> None:
    make_set(tmp_path, finished=finished)
    (tmp_path / "River" / "River_00007.png.partial").write_bytes(b"killed here")
    remove_set(tmp_path)
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("mine", ["notes.txt", "Forest/photo.png", "Forest/River_00000.png", "other/other_00000.png"])
def test_remove_set_touches_nothing_where_something_else_stands(mine: str, tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(OutputFolderError, match="not part of a distilled set"):
        remove_set(tmp_path)
    assert tree(tmp_path) == before


def test_remove_set_of_nothing(tmp_path: Path) -> None:
    remove_set(tmp_path / "absent")
    remove_set(tmp_path)
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("listed", ["../outside.png", "Forest/../../outside.png", "/{root}/outside.png"])
def test_remove_set_stays_in_its_folder(listed: str, tmp_path: Path) -> None:
    outside, out = tmp_path / "outside.png", tmp_path / "out"
    outside.write_text("mine")
    make_set(out)
    with (out / "metadata.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"file_name": listed.replace("/{root}", str(tmp_path))}) + "\n")
    remove_set(out)
    assert outside.read_text() == "mine"
    assert tree(out) == set()


def test_remove_set_after_a_torn_line(tmp_path: Path) -> None:
    images = make_set(tmp_path, finished=False)
    state = tmp_path / "state.jsonl"
    state.write_bytes(state.read_bytes()[:-20])
    remove_set(tmp_path)
    assert not state.exists()
    assert not any(path.exists() for path in images)  # the last one, whose line is torn, too


# resume


def test_an_unfinished_set_goes_on(tmp_path: Path) -> None:
    images = make_set(tmp_path, finished=False)
    state = State(tmp_path, HEADER, 2)
    assert all(state.intact(tmp_path, path.relative_to(tmp_path).as_posix()) for path in images)
    assert not state.intact(tmp_path, "River/River_00002.png")


def test_a_finished_set_grows(tmp_path: Path) -> None:
    make_set(tmp_path)
    state = State(tmp_path, HEADER, 50)
    assert len(state.records) == 4
    assert state.intact(tmp_path, "Forest/Forest_00001.png")


@pytest.mark.parametrize("finished", [True, False])
def test_a_set_does_not_shrink_and_leave_images_which_it_does_not_list(finished: bool, tmp_path: Path) -> None:
    make_set(tmp_path, ipc=3, finished=finished)
    before = tree(tmp_path)
    with pytest.raises(OutputFolderError, match="more than 2 images per class"):
        State(tmp_path, HEADER, 2)
    assert tree(tmp_path) == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_state_torn_anywhere_keeps_its_whole_lines(tmp_path: Path, share: float) -> None:
    make_set(tmp_path, finished=False)
    path = tmp_path / "state.jsonl"
    header, body = path.read_bytes().split(b"\n", 1)
    torn = body[: round(share * len(body))]
    path.write_bytes(header + b"\n" + torn)
    lines = torn.split(b"\n")
    whole = len(lines) - 1 + lines[-1].endswith(b"}")  # only the line's end is missing
    state = State(tmp_path, HEADER, 2)
    names = [record_of(name, index)["file_name"] for name in HEADER["classes"] for index in range(2)]
    assert list(state.records) == names[:whole]
    state.append([record_of("River", 1)])  # on a line of its own, whatever was torn
    again = State(tmp_path, HEADER, 2)
    assert list(again.records) == list(dict.fromkeys([*names[:whole], names[3]]))


def test_zeros_after_a_power_cut_count_as_torn(tmp_path: Path) -> None:
    make_set(tmp_path, finished=False)
    with (tmp_path / "state.jsonl").open("ab") as handle:
        handle.write(bytes(100))
    assert len(State(tmp_path, HEADER, 2).records) == 4


@pytest.mark.parametrize(
    ("changes", "named"), [({"seed": 4}, "seed"), ({"provider": "cuda", "bundle": "1" * 64}, "bundle, provider")]
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_by_name(
    changes: dict[str, Any], named: str, finished: bool, tmp_path: Path
) -> None:
    make_set(tmp_path, finished=finished)
    before = {name: (tmp_path / name).read_bytes() for name in tree(tmp_path) if (tmp_path / name).is_file()}
    with pytest.raises(OutputFolderError, match=f"made with another {named};"):
        State(tmp_path, HEADER | changes, 2)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_tuples_in_the_header_are_equal_to_their_json(tmp_path: Path) -> None:
    State(tmp_path, HEADER | {"classes": ("Forest", "River")}, 2)
    State(tmp_path, HEADER, 2)


@pytest.mark.parametrize("damage", ["absent", "truncated", "other pixels", "empty", "a folder"])
def test_damaged_images_are_not_intact(damage: str, tmp_path: Path) -> None:
    make_set(tmp_path, finished=False)
    path = tmp_path / "Forest" / "Forest_00000.png"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "absent":
        wrong = {"truncated": content[:-30], "empty": b"", "other pixels": png(pixels_of("Other", 0))}
        path.write_bytes(wrong[damage])
    state = State(tmp_path, HEADER, 2)
    assert not state.intact(tmp_path, "Forest/Forest_00000.png")
    assert state.intact(tmp_path, "Forest/Forest_00001.png")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_png_never_stops_a_resume(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(png(pixels_of("Forest", 0)))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.png").write_bytes(content)
    found = read_pixels(tmp_path / "a.png")
    assert found is None or (found.dtype == np.uint8 and found.shape[-1] == 3)


@pytest.mark.parametrize(
    "header",
    [b"", struct.pack(">IIBBBBB", 2**20, 2**20, 8, 2, 0, 0, 0), struct.pack(">IIBBBBB", 6, 5, 7, 9, 9, 9, 9)],
    ids=["short", "a bomb", "unknown"],
)
def test_png_headers_which_are_wrong_but_whole(header: bytes, tmp_path: Path) -> None:
    chunk = b"IHDR" + header
    content = struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert read_pixels(tmp_path / "a.png") is None


# contact sheet


def test_contact_sheet_has_a_row_for_each_class() -> None:
    colours = {"Forest": (0, 255, 0), "River": (0, 0, 255), "A class with a longer name": (255, 0, 0)}
    rows = [(name, [np.full((16, 16, 3), colour, np.uint8)] * 4) for name, colour in colours.items()]
    sheet = contact_sheet(rows, size=20)
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] == 3 * 22 + 2
    label = sheet.shape[1] - 4 * 22
    assert label > 60
    for row, colour in enumerate(colours.values()):
        for column in range(4):
            top, left = 2 + row * 22, label + column * 22
            assert (sheet[top : top + 20, left : left + 20] == colour).all()
            assert (sheet[top : top + 20, left + 20 : left + 22] == 255).all()
        assert (sheet[2 + row * 22 : 22 + row * 22, :label] < 128).any(), "no name is written"


def test_contact_sheet_with_rows_of_different_length() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    sheet = contact_sheet([("a", [black]), ("b", [black] * 3), ("c", [])], size=8)
    assert sheet.shape[0] == 3 * 10 + 2
    assert (sheet[2:10, -8 - 2 : -2] == 255).all()
    assert (sheet[12:20, -8 - 2 : -2] == 0).all()


def test_a_contact_sheet_stays_small_whatever_a_bundle_names() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    whole = contact_sheet([("W" * 40, [black])] * 100, size=8)
    assert np.array_equal(contact_sheet([("W" * 200, [black])] * 1000, size=8), whole)


def test_the_tiles_of_a_sheet_are_kept_and_not_the_images() -> None:
    """Ten thousand classes of large images would fill the memory while a set is written."""
    names, side = [f"class {number:03}" for number in range(120)], 200
    images = {(name, index): pixels_of(name, index, side, side) for name in names for index in range(2)}
    gathered = _Gathered(())
    samples = (Sample({"class": name, "index": index}, pixels, None) for (name, index), pixels in images.items())
    assert len(list(gathered.watch(samples))) == 240
    rows = list(gathered.rows.items())
    assert sum(pixels.nbytes for _, row in rows for pixels in row) == 2 * 100 * 64 * 64 * 3
    whole = [(name, [images[name, index] for index in range(2)]) for name in names]
    assert np.array_equal(contact_sheet(rows), contact_sheet(whole))


def test_a_set_does_not_go_into_its_bundle(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    for place in (tmp_path / "site" / "distilled", tmp_path / "site" / ".." / "site" / "a" / "b"):
        with pytest.raises(InputError, match=r"is inside the bundle .*, which it would change; choose another place"):
            check_beside(tmp_path / "site", place)
    check_beside(tmp_path / "site", tmp_path / "distilled")
    check_beside(tmp_path / "site.dpd", tmp_path / "site.dpd-set")
