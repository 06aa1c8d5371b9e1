import os
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dpd_runtime import archive
from dpd_runtime.archive import MAX_DIRECTORY, FolderFiles, ZipFiles, check_entry_name, open_files, write_zip
from dpd_runtime.errors import BundleError
from tests.unit.runtime.test_bundle import as_folder, bundle_files

FILES = {"bundle.json": b'{"a": 1}', "unet/model.onnx": bytes(range(256)), "empty.bin": b""}
UNSAFE = [
    "../x",
    "a/../x",
    "a/..",
    "..",
    ".",
    "./a",
    "a//b",
    "a/",
    "/etc/passwd",
    "C:/x",
    "a\\b",
    "..\\x",
    "a\nb",
    "\x1b[2J",
    "\u202etxt",
    "\ud800",
    "a" * 256,
    "",
]


def foreign_zip(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip that our writer would not make."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    write_zip(tmp_path / "a.dpd", FILES)
    return tmp_path / "a.dpd"


def test_zip_and_folder_give_the_same_files(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:  # any unzip reads it
        assert archive.testzip() is None
        archive.extractall(tmp_path / "folder")
    zipped, folder = open_files(packed), open_files(tmp_path / "folder")
    assert isinstance(zipped, ZipFiles)
    assert isinstance(folder, FolderFiles)
    for files in (zipped, folder):
        assert {name: bytes(content) for name, content in files.items()} == FILES
        assert len(files) == 3
        with pytest.raises(KeyError):
            files["absent"]
        with pytest.raises(KeyError):
            files["../a.dpd"]
        assert all(content.readonly for content in files.values())


def test_the_same_files_give_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    write_zip(tmp_path / "b.dpd", dict(reversed(FILES.items())))
    assert (tmp_path / "b.dpd").read_bytes() == packed.read_bytes()
    write_zip(tmp_path / "b.dpd", FILES | {"empty.bin": b"x"})
    assert (tmp_path / "b.dpd").read_bytes() != packed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dpd", "b.dpd"]  # nothing partial stays
    with zipfile.ZipFile(packed) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="unsafe path") as caught:
        check_entry_name(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["bundle.json", "unet/model.onnx", "engines/trt-9.0/a b.bin", "Ü/ß.txt", "..a/b..c"])
def test_plain_names_are_accepted(name: str) -> None:
    check_entry_name(name)


@pytest.mark.parametrize("name", [name for name in UNSAFE if name and "\ud800" not in name], ids=ascii)
def test_a_zip_with_an_unsafe_name_is_refused(name: str, tmp_path: Path) -> None:
    path = foreign_zip(tmp_path / "a.dpd", [("bundle.json", b"{}"), (name, b"x")])
    with pytest.raises(BundleError, match=r"unsafe path|damaged"):
        open_files(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_entries_are_refused(method: int, tmp_path: Path) -> None:
    path = foreign_zip(tmp_path / "a.dpd", [("bundle.json", b"0" * 10_000)], method)
    with pytest.raises(BundleError, match=r"'bundle\.json' is damaged, compressed or encrypted"):
        open_files(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_come_twice_are_refused(tmp_path: Path) -> None:
    path = foreign_zip(tmp_path / "a.dpd", [("bundle.json", b"{}"), ("bundle.json", b"[]")])
    with pytest.raises(BundleError, match=r"'bundle\.json' occurs twice"):
        open_files(path)


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    names = [str(i) for i in range(10_001)]
    write_zip(tmp_path / "a.dpd", dict.fromkeys(names[1:], b""))
    assert len(open_files(tmp_path / "a.dpd")) == 10_000
    write_zip(tmp_path / "a.dpd", dict.fromkeys(names, b""))
    with pytest.raises(BundleError, match="more than 10000 entries"):
        open_files(tmp_path / "a.dpd")
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(BundleError, match="more than 10000 files"):
        open_files(tmp_path)


@pytest.mark.parametrize("place", ["pipe", "unet/pipe"])
def test_a_pipe_in_a_folder_is_refused(place: str, tmp_path: Path) -> None:
    folder = as_folder(tmp_path, bundle_files())
    os.mkfifo(folder / place)
    with pytest.raises(BundleError, match=rf"{place}: a pipe, socket or device in a bundle"):
        FolderFiles(folder)


@pytest.mark.parametrize(
    "link",
    [
        pytest.param(lambda folder, target: (folder / "model.onnx").symlink_to(target / "secret"), id="to a file"),
        pytest.param(lambda folder, target: (folder / "unet").symlink_to(target), id="to a folder"),
        pytest.param(lambda folder, target: (folder / "x").symlink_to(target / "absent"), id="to nothing"),
    ],
)
def test_symbolic_links_are_refused(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    folder, target = tmp_path / "bundle", tmp_path / "elsewhere"
    folder.mkdir()
    target.mkdir()
    (target / "secret").write_bytes(b"secret")
    (folder / "bundle.json").write_bytes(b"{}")
    assert len(open_files(folder)) == 1
    link(folder, target)
    with pytest.raises(BundleError, match="symbolic links are not allowed"):
        open_files(folder)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x89PNG\r\n", b"PK\x05\x06" + bytes(17)])
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.dpd").write_bytes(content)
    with pytest.raises(BundleError, match="not a readable bundle"):
        open_files(tmp_path / "a.dpd")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle") as caught:
        open_files(tmp_path / "absent.dpd")
    assert caught.value.exit_code == 2, "a wrong path is bad input"


def test_the_two_headers_of_an_entry_must_agree(packed: Path) -> None:
    """A reader of local headers and one of the central directory must not see different files."""
    whole = bytearray(packed.read_bytes())
    name = whole.index(b"unet/model.onnx")
    whole[name : name + 4] = b"evil"
    packed.write_bytes(whole)
    with pytest.raises(BundleError, match=r"'unet/model\.onnx' is damaged"):
        open_files(packed)


def test_entries_whose_checksum_does_not_hold(packed: Path) -> None:
    files = open_files(packed)
    assert isinstance(files, ZipFiles)
    files.check_crc("bundle.json")
    whole = bytearray(packed.read_bytes())
    whole[whole.index(b'{"a": 1}') + 2] ^= 1
    packed.write_bytes(whole)
    files = open_files(packed)
    assert isinstance(files, ZipFiles)
    with pytest.raises(BundleError, match=r"bundle\.json: its checksum"):
        files.check_crc("bundle.json")


def opened_or_refused(path: Path, content: bytes) -> dict[str, bytes] | None:
    path.write_bytes(content)
    try:
        return {name: bytes(view) for name, view in open_files(path).items()}
    except BundleError:
        return None


def test_truncation_at_any_byte_is_refused(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    assert opened_or_refused(tmp_path / "b.dpd", whole) == FILES
    for length in range(len(whole)):
        assert opened_or_refused(tmp_path / "b.dpd", whole[:length]) is None, length


def test_a_flip_in_any_byte_is_refused_or_read_with_the_right_size(packed: Path, tmp_path: Path) -> None:
    """Only BundleError may be raised, and no entry gives more or less than its own bytes. Hashes are checked later."""
    whole = packed.read_bytes()
    refused = 0
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0xFF
        files = opened_or_refused(tmp_path / "b.dpd", bytes(changed))
        refused += files is None
        assert files is None or all(len(content) == len(FILES[name]) for name, content in files.items())
    assert refused > 200


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_damage_raises_only_our_error(packed: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(packed.read_bytes())
    tail = len(whole) - 250  # the central directory is at the end
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.one_of(st.integers(tail, len(whole) - 4), st.integers(0, len(whole) - 4)))
        value = data.draw(st.sampled_from([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFF, 0x80000000]))
        struct.pack_into("<I", whole, position, value)
    opened_or_refused(tmp_path / "b.dpd", bytes(whole))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
@example(b"PK\x05\x06" + bytes(18))
def test_random_bytes_raise_only_our_error(tmp_path: Path, content: bytes) -> None:
    opened_or_refused(tmp_path / "b.dpd", content)


def directory_of(raw: bytes) -> tuple[int, int, int]:
    """(start, size, place of the end record) of a zip's central directory."""
    at = raw.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", raw, at + 12)
    return start, size, at


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """One entry lies within another's content; a small file could hold thousands of large entries that way."""
    inner = tmp_path / "inner.zip"
    write_zip(inner, {"b": b"x" * 100})
    write_zip(tmp_path / "a.dpd", {"a": inner.read_bytes()})
    raw = (tmp_path / "a.dpd").read_bytes()
    start, size, _ = directory_of(raw)
    record = bytearray(raw[start : start + size])
    nested = raw.index(b"PK\x03\x04", 4)
    other_start, other_size, _ = directory_of(inner.read_bytes())
    other = bytearray(inner.read_bytes()[other_start : other_start + other_size])
    struct.pack_into("<I", other, 42, nested)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, len(record) + len(other), start, 0)
    (tmp_path / "a.dpd").write_bytes(raw[:start] + record + other + end)
    with zipfile.ZipFile(tmp_path / "a.dpd") as archive:
        assert archive.namelist() == ["a", "b"]
        assert archive.read("b") == b"x" * 100  # a reader without this check accepts it on older Pythons
    with pytest.raises(BundleError, match="'b' overlaps another one"):
        open_files(tmp_path / "a.dpd")


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o644, stat.S_IFDIR | 0o755])
def test_entries_that_unzip_to_links_are_refused(mode: int, tmp_path: Path) -> None:
    for kept in (0, stat.S_IFREG | 0o644, mode):
        with zipfile.ZipFile(tmp_path / "a.dpd", "w") as archive:
            info = zipfile.ZipInfo("model.onnx")
            info.external_attr = kept << 16
            archive.writestr(info, b"/etc/passwd")
        if kept != mode:
            assert len(open_files(tmp_path / "a.dpd")) == 1
    with pytest.raises(BundleError, match=r"'model\.onnx' is not a plain file"):
        open_files(tmp_path / "a.dpd")


def test_a_giant_directory_is_refused_unread(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`zipfile` would create an object for every record before they could be counted."""
    raw = packed.read_bytes()
    start, size, at = directory_of(raw)
    records = raw[start : start + size] * (MAX_DIRECTORY // size + 1)
    packed.write_bytes(raw[:start] + records + raw[at : at + 12] + struct.pack("<IIH", len(records), start, 0))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(BundleError, match="its directory has more than"):
        open_files(packed)


def test_nothing_may_follow_the_directory(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes() + b"comment")
    with pytest.raises(BundleError, match="not a readable bundle"):
        open_files(packed)


def test_a_deep_folder_needs_no_recursion(tmp_path: Path) -> None:
    root = folder = tmp_path / "bundle"
    folder.mkdir()
    for _ in range(sys.getrecursionlimit() + 50):
        folder = folder / "d"
        folder.mkdir()
    (folder / "file").write_bytes(b"x")
    assert [Path(name).name for name in open_files(root)] == ["file"]
    subprocess.run(["rm", "-r", str(root)], check=True)  # shutil.rmtree does recurse


def test_sizes_are_known_unread(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_HOLES", 2**50)
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder/sparse").open("wb") as file:
        file.truncate(2**43)
    assert open_files(tmp_path / "folder").size("sparse") == 2**43
    assert open_files(packed).size("unet/model.onnx") == 256
