"""Every byte of a .dpd file belongs to an entry or to the directory, and all readers of zip files find the same."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dpd_runtime.archive import open_files, write_zip
from dpd_runtime.errors import BundleError
from tests.hostile.fuzz.archive_mutations import inserted

FILES = {"bundle.json": b'{"a": 1}', "unet/model.onnx": bytes(range(256))}
HIDDEN = b"#!/bin/sh\nexec evil\n"
BOTH = {"version": 4, "time": 10, "date": 12}
"""What stands in both headers of an entry without a reader noticing, by its place in the local one."""


@pytest.fixture
def raw(tmp_path: Path) -> bytes:
    write_zip(tmp_path / "good.dpd", FILES)
    return (tmp_path / "good.dpd").read_bytes()


def before(raw: bytes) -> bytes:
    """A self-extracting zip: all offsets are true."""
    return inserted(raw, 0, HIDDEN)


def before_unmentioned(raw: bytes) -> bytes:
    """Offsets count from the first header, as readers of zip tolerate."""
    return HIDDEN + raw


def between(raw: bytes) -> bytes:
    return inserted(raw, raw.index(b"PK\x03\x04", 4), HIDDEN)


def before_directory(raw: bytes) -> bytes:
    return inserted(raw, raw.index(b"PK\x01\x02"), HIDDEN)


def with_flag(bit: int) -> Callable[[bytes], bytes]:
    def change(raw: bytes) -> bytes:
        whole = bytearray(raw)
        struct.pack_into("<H", whole, 6, bit)
        struct.pack_into("<H", whole, raw.index(b"PK\x01\x02") + 8, bit)
        return bytes(whole)

    return change


def with_count(raw: bytes) -> bytes:
    """Other readers believe the count, and see one file fewer."""
    at = raw.rindex(b"PK\x05\x06")
    return raw[: at + 8] + struct.pack("<HH", 1, 1) + raw[at + 12 :]


def with_first_disk(raw: bytes) -> bytes:
    at = raw.index(b"PK\x01\x02") + 34
    return raw[:at] + b"\1\0" + raw[at + 2 :]


def with_other_local(offset: int) -> Callable[[bytes], bytes]:
    """The local header of the first entry has another value than the directory, which most readers do not notice."""

    def change(raw: bytes) -> bytes:
        return raw[:offset] + bytes([raw[offset] ^ 1]) + raw[offset + 1 :]

    return change


def with_other_record(offset: int) -> Callable[[bytes], bytes]:
    return lambda raw: with_other_local(raw.index(b"PK\x01\x02") + offset)(raw)


OTHERWISE = [
    *(pytest.param(with_other_local(at), id=f"local {what}") for what, at in BOTH.items()),
    *(pytest.param(with_other_record(at + 2), id=f"directory {what}") for what, at in BOTH.items()),
]


@pytest.mark.parametrize("change", OTHERWISE)
def test_headers_of_one_entry_that_differ(change: Callable[[bytes], bytes], raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.dpd").write_bytes(change(raw))
    with zipfile.ZipFile(tmp_path / "a.dpd") as archive:  # control: others read it
        assert archive.read("unet/model.onnx") == FILES["unet/model.onnx"]
    with pytest.raises(BundleError, match=r"'bundle\.json' is damaged") as caught:
        open_files(tmp_path / "a.dpd")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("local", [False, True])
def test_a_name_that_goes_on_behind_a_nul(local: bool, raw: bytes, tmp_path: Path) -> None:
    """`zipfile` ends a name at a NUL, and so do some readers; others see what follows."""
    longer, at = b"bundle.json\0../../evil", raw.index(b"PK\x01\x02")
    begin, record, end = raw[:at], raw[at : at + 46], raw[at + 57 :]
    if local:
        begin = begin[:26] + struct.pack("<H", len(longer)) + begin[28:30] + longer + begin[41:]
    record = record[:28] + struct.pack("<H", len(longer)) + record[30:]
    more = (len(longer) - 11) * local
    rest = bytearray(end)
    struct.pack_into("<I", rest, end.index(b"PK\x01\x02") + 42, raw.index(b"PK\x03\x04", 4) + more)
    size, place = struct.unpack_from("<2I", end, end.index(b"PK\x05\x06") + 12)
    struct.pack_into("<2I", rest, end.index(b"PK\x05\x06") + 12, size + len(longer) - 11, place + more)
    (tmp_path / "a.dpd").write_bytes(begin + record + longer + rest)
    with zipfile.ZipFile(tmp_path / "a.dpd") as archive:  # control
        assert set(archive.namelist()) == set(FILES)
    with pytest.raises(BundleError, match="has an unsafe path"):
        open_files(tmp_path / "a.dpd")


HOSTILE = [
    before,
    before_unmentioned,
    between,
    before_directory,
    *(pytest.param(with_flag(1 << bit), id=f"flag {bit}") for bit in range(16) if bit != 11),
    with_count,
    with_first_disk,
]


@pytest.mark.parametrize("change", HOSTILE)
def test_bytes_that_belong_to_no_entry_and_unusual_flags(
    change: Callable[[bytes], bytes], raw: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.dpd"
    path.write_bytes(change(raw))
    assert path.read_bytes() != raw
    with pytest.raises(BundleError, match=r"a\.dpd") as caught:
        open_files(path)
    assert caught.value.exit_code == 3


def test_other_readers_accept_hidden_bytes(raw: bytes, tmp_path: Path) -> None:
    """Control: the changes above keep a zip that the standard library reads without a word."""
    for change in (before, before_unmentioned, between, before_directory, with_count):
        (tmp_path / "a.dpd").write_bytes(change(raw))
        with zipfile.ZipFile(tmp_path / "a.dpd") as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == FILES, change


@pytest.mark.parametrize("what", ["comment", "extra", "archive comment", "zip64 with more"])
def test_fields_that_hide_bytes(what: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.dpd", "w") as archive:
        for name, content in FILES.items():
            info = zipfile.ZipInfo(name)
            if what == "comment":
                info.comment = HIDDEN
            if what == "extra":
                info.extra = struct.pack("<HH", 0xCAFE, len(HIDDEN)) + HIDDEN
            if what == "zip64 with more":
                info.extra = struct.pack("<HHQQ", 1, 16, 1, 1)
            archive.writestr(info, content)
        if what == "archive comment":
            archive.comment = HIDDEN
    with pytest.raises(BundleError, match=r"does not have|damaged|not a readable bundle"):
        open_files(tmp_path / "a.dpd")


@pytest.mark.parametrize("limit", [10, 300])
def test_bundles_of_many_gigabytes_open(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writer makes of large entries and offsets (zip64), here by a small limit."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    write_zip(tmp_path / "a.dpd", FILES)
    raw = (tmp_path / "a.dpd").read_bytes()
    assert b"PK\x06\x06" in raw
    assert {name: bytes(content) for name, content in open_files(tmp_path / "a.dpd").items()} == FILES
    at = raw.index(b"PK\x06\x07")
    for place, hostile in ((at + 8, b"\1"), (at - 56 + 4, b"\xff"), (at - 56 + 48, b"\0")):
        (tmp_path / "b.dpd").write_bytes(raw[:place] + hostile + raw[place + 1 :])
        with pytest.raises(BundleError, match="not a readable bundle"):
            open_files(tmp_path / "b.dpd")
