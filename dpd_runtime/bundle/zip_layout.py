"""Where the entries of a stored zip lie. Every byte of the file must belong to an entry or to the directory.

Readers of zip files differ: some go by the directory at the end, some by the local headers, some look for a signature.
So a zip is accepted only if all of them find the same, and if nothing can be hidden in it.
"""

import mmap
import stat
import struct
import zipfile
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from dpd_runtime.errors import BundleError
from dpd_runtime.files import is_safe_name

MAX_ENTRIES = 10_000
LONGEST_PATH = 255
MAX_DIRECTORY = 8 * 2**20
"""Largest central directory of a zip in bytes. `zipfile` needs about twenty times as much memory for it."""
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_RECORD = struct.Struct("<4s6H3I5H2I")  # of the central directory, without name and extra field
_VERSION64 = 45  # that a reader needs for sizes and places beyond 4 GB
_END = struct.Struct("<4s4H2IH")  # of the central directory: the last bytes of the file
_END64, _LOCATOR64 = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_IN_EXTRA = 0xFFFFFFFF  # a size in a local header whose value is in the extra field (zip64)
_UTF8 = 0x800
Entry = tuple[int, int, int]
"""Offset and size of the content in bytes, and its CRC."""


def read_entries(path: Path, file: BinaryIO, content: mmap.mmap | memoryview) -> dict[str, Entry]:
    """The entries of a zip by name.

    Args:
        path: for errors. file, content: the same bytes, as a file and in memory.

    Raises:
        BundleError: an entry that is not a plain stored file, or bytes that belong to none.
        ValueError, zipfile.BadZipFile, NotImplementedError, struct.error: not a zip file.
    """
    begin, end, count = _directory(content)
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    records = sum(_RECORD.size + len(info.orig_filename.encode()) + len(info.extra) for info in infos)
    if len(infos) != count or records != end - begin:
        raise ValueError("its directory does not have the length that it states")
    if count > MAX_ENTRIES:
        raise BundleError(f"{path}: more than {MAX_ENTRIES} entries; this is not a bundle")
    entries: dict[str, Entry] = {}
    record = begin
    for info in infos:
        if info.filename in entries:
            raise BundleError(f"{path}: entry {info.filename!r} occurs twice; do not use this bundle")
        check_entry_name(info.orig_filename)  # `filename` ends at a NUL
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise BundleError(f"{path}: entry {info.filename!r} is not a plain file; do not use this bundle")
        entries[info.filename] = (_content_start(path, info, record, content), info.file_size, info.CRC)
        record += _RECORD.size + len(info.orig_filename.encode()) + len(info.extra)
        if info.flag_bits & ~_UTF8 or info.volume or info.comment or info.extra not in _extras(info):
            raise BundleError(
                f"{path}: entry {info.filename!r} is encrypted or has a comment, flags or fields that a bundle does "
                "not have; fetch the bundle again"
            )
    _check_gapless(path, infos, entries, begin)
    return entries


def _directory(content: mmap.mmap | memoryview) -> tuple[int, int, int]:
    """Begin, end and number of records of the central directory, by what the file ends with."""
    at = len(content) - _END.size
    if at < 0 or content[at : at + 4] != b"PK\x05\x06" or content[-2:] != b"\0\0":
        raise ValueError("it is not a zip file that ends with its directory")
    _, disk, first_disk, here, count, size, begin, _ = _END.unpack_from(content, at)
    end, at64 = at, at - _LOCATOR64.size - _END64.size
    if at64 >= 0 and content[at64 + _END64.size :][:4] == b"PK\x06\x07":
        short, end = (here, count, size, begin), at64
        magic, length, _, _, disk, first_disk, here, count, size, begin = _END64.unpack_from(content, at64)
        _, other_disk, place, disks = _LOCATOR64.unpack_from(content, at64 + _END64.size)
        long, limits = (here, count, size, begin), (0xFFFF, 0xFFFF, _IN_EXTRA, _IN_EXTRA)
        same = all(a in (most, min(b, most)) for a, b, most in zip(short, long, limits, strict=True))
        if (magic, length, other_disk, place, disks) != (b"PK\x06\x06", _END64.size - 12, 0, at64, 1) or not same:
            raise ValueError("the two records at its end do not agree")
    if size > MAX_DIRECTORY:
        raise ValueError(f"its directory has more than {MAX_DIRECTORY} bytes")
    if disk or first_disk or here != count or begin + size != end:
        raise ValueError("its directory is not where the end of the file says")
    return begin, end, count


def _extras(info: zipfile.ZipInfo) -> tuple[bytes, ...]:
    """What the extra field of a directory record may hold: sizes and offset beyond 4 GB, nothing else."""
    sizes, offset = (info.file_size, info.compress_size), (info.header_offset,)
    contents = [sizes, offset, sizes + offset]
    return (b"", *(struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) for numbers in contents))


def _content_start(path: Path, info: zipfile.ZipInfo, record: int, content: mmap.mmap | memoryview) -> int:
    """Where an entry's bytes begin. Its local header must agree with the central directory in all that both hold.

    Args:
        record: where the directory's record of the entry begins.
    """
    damaged = BundleError(
        f"{path}: entry {info.filename!r} is damaged, compressed or encrypted; fetch the bundle again"
    )
    start, total = info.header_offset, info.file_size
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != total:
        raise damaged
    if not 0 <= start <= len(content) - _LOCAL_HEADER.size:
        raise damaged
    magic, version, *both, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack_from(content, start)
    listed, _, needed, *in_directory = _RECORD.unpack_from(content, record)
    flags, method, _, _, crc = both
    name_start = start + _LOCAL_HEADER.size
    extra_start = name_start + name_length
    offset = extra_start + extra_length
    extra = b""
    if packed == size == _IN_EXTRA:
        packed = size = total
        extra = struct.pack("<HHQQ", 1, 16, total, total)
    same = (magic, listed) == (b"PK\x03\x04", b"PK\x01\x02") and both == in_directory[:5]
    same = same and needed == (max(version, _VERSION64) if info.extra else version)  # a place beyond 4 GB has one field
    same = same and (flags, method) == (info.flag_bits, info.compress_type)
    same = same and (crc, packed, size) == (info.CRC, total, total) and content[extra_start:offset] == extra
    if not same or content[name_start:extra_start] != info.orig_filename.encode() or offset + total > len(content):
        raise damaged
    return int(offset)


def _check_gapless(path: Path, infos: list[zipfile.ZipInfo], entries: dict[str, Entry], directory: int) -> None:
    """Check that each entry begins where the one before ends: no byte belongs to two of them, and none to nobody.

    Entries that share bytes could make thousands of large ones from a small file.
    """
    spans = sorted((info.header_offset, sum(entries[info.filename][:2]), info.filename) for info in infos)
    spans = [(0, 0, "the beginning"), *spans, (directory, 0, "the directory")]
    for (_, end, _), (begin, _, name) in pairwise(spans):
        if begin < end:
            raise BundleError(f"{path}: entry {name!r} overlaps another one; do not use this bundle")
        if begin > end:
            raise BundleError(f"{path}: {begin - end} bytes before {name!r} belong to no entry; do not use this bundle")


def check_entry_name(name: str) -> None:
    """Check that a path stays inside the bundle and has one meaning.

    Raises:
        BundleError: it does not.
    """
    parts = PurePosixPath(name).parts
    if name != "/".join(parts) or len(name) > LONGEST_PATH or not parts or not all(map(is_safe_name, parts)):
        raise BundleError(
            f"entry {name!r:.300} has an unsafe path, so the bundle was not made by dpd export; do not use it"
        )
