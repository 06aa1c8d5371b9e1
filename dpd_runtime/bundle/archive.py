"""Access to a bundle's files: a folder, or a stored (uncompressed) zip file that is memory-mapped."""

import errno
import mmap
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from dpd_runtime.bundle.encryption import Key, decrypt, is_encrypted
from dpd_runtime.errors import BundleError, InputError, NoBundleError
from dpd_runtime.files import open_atomically
from dpd_runtime.machine.cores import usable_memory

MAX_ENTRIES = 10_000
MAX_DIRECTORY = 8 * 2**20
"""Largest central directory of a zip in bytes. `zipfile` needs about twenty times as much memory for it."""
MAX_HOLES = 64 * 2**20
"""Bytes of a bundle that may be missing on the disk beyond as many as are there."""
_PIECE = 2**24  # bytes
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")  # of the central directory: the last bytes of the file
_END64, _LOCATOR64 = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_IN_EXTRA = 0xFFFFFFFF  # a size in a local header whose value is in the extra field (zip64)


def check_entry_name(name: str) -> None:
    """Check that a path stays inside the bundle and has one meaning.

    Raises:
        BundleError: it does not.
    """
    parts = PurePosixPath(name).parts
    bad = not name or name.startswith("/") or "\\" in name or ":" in name or name != "/".join(parts)
    if bad or any(p in (".", "..") for p in parts) or not name.isprintable() or len(name) > 255:
        raise BundleError(f"entry {name!r} has an unsafe path, so the bundle was not made by dpd export; do not use it")


def _zip64_sizes(extra: bytes) -> tuple[int, int]:
    """Packed and plain size from the extra field of a local header; (−1, −1) if it has none."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1 and length == 16 and at + 20 <= len(extra):
            size, packed = struct.unpack_from("<QQ", extra, at + 4)
            return packed, size
        at += 4 + length
    return -1, -1


def _directory_bytes(content: mmap.mmap | memoryview) -> int:
    """The size of the central directory by the record at the end of the file, without reading the directory."""
    at = len(content) - _END.size
    if at < 0 or content[at : at + 4] != b"PK\x05\x06" or content[-2:] != b"\0\0":
        raise ValueError("it is not a zip file that ends with its directory")
    size: int = _END.unpack_from(content, at)[5]
    at -= _LOCATOR64.size + _END64.size
    if at >= 0 and content[at + _END64.size : at + _END64.size + 4] == b"PK\x06\x07":
        size = max(size, _END64.unpack_from(content, at)[8])
    return size


class FolderFiles(Mapping[str, memoryview]):
    """The files in a folder, each read when it is needed. Symbolic links are refused."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sizes: dict[str, int] = {}
        for entry in _tree(root):
            if entry.is_symlink():
                raise BundleError(
                    f"{entry.path}: symbolic links are not allowed in a bundle; put a copy of the file there"
                )
            if entry.is_file():
                self._sizes[Path(entry.path).relative_to(root).as_posix()] = entry.stat().st_size
        self._names = sorted(self._sizes)

    def __contains__(self, name: object) -> bool:
        return name in self._sizes  # the default method of Mapping would read the file

    def __getitem__(self, name: str) -> memoryview:
        return memoryview(self.read(name))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        size = self.size(name)
        with (self._root / name).open("rb") as file:
            return file.read(size)  # not more, even if the file has grown since

    def size(self, name: str) -> int:
        """Size in bytes, without reading the content."""
        return self._sizes[name]

    def source(self, name: str) -> Path:
        """The source from which `write_zip` copies a file."""
        return self._root / name

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a file in pieces, so that it need not fit into memory."""
        left = self.size(name)
        with (self._root / name).open("rb") as file:
            while left > 0 and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _tree(root: Path) -> Iterator[os.DirEntry[str]]:
    """All entries under `root`, at any depth. Links are not followed."""
    folders, seen = [str(root)], 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_ENTRIES:
                    raise BundleError(f"{root}: more than {MAX_ENTRIES} files; this is not a bundle")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                yield entry


class ZipFiles(Mapping[str, memoryview]):
    """The entries of a stored zip as views of the mapped file, without copies."""

    def __init__(self, path: Path, content: BytesIO | None = None) -> None:
        """Args: content: the decrypted content of an encrypted file."""
        self._map: mmap.mmap | memoryview
        try:
            with path.open("rb") if content is None else nullcontext(content) as file:
                if content is None:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                else:
                    self._map = content.getbuffer()
                if _directory_bytes(self._map) > MAX_DIRECTORY:
                    raise ValueError(f"its directory has more than {MAX_DIRECTORY} bytes")
                with zipfile.ZipFile(file) as archive:
                    infos = archive.infolist()
        except (
            zipfile.BadZipFile,
            ValueError,
            OSError,
            NotImplementedError,
            UnicodeDecodeError,
            struct.error,
        ) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOMEM:
                raise MemoryError from error
            raise BundleError(f"{path}: not a readable bundle ({error}); fetch it again") from error
        if len(infos) > MAX_ENTRIES:
            raise BundleError(f"{path}: more than {MAX_ENTRIES} entries; this is not a bundle")
        self._view = memoryview(self._map)
        self._entries: dict[str, tuple[int, int, int]] = {}
        for info in infos:
            if info.filename in self._entries:
                raise BundleError(f"{path}: entry {info.filename!r} occurs twice; do not use this bundle")
            check_entry_name(info.filename)
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise BundleError(f"{path}: entry {info.filename!r} is not a plain file; do not use this bundle")
            self._entries[info.filename] = (self._data_offset(path, info), info.file_size, info.CRC)
        self._refuse_overlaps(path, infos)

    def _refuse_overlaps(self, path: Path, infos: list[zipfile.ZipInfo]) -> None:
        """Check that no byte belongs to two entries; otherwise a small file could hold thousands of large entries."""
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise BundleError(f"{path}: entry {info.filename!r} overlaps another one; do not use this bundle")
            offset, size, _ = self._entries[info.filename]
            end = offset + size

    def _data_offset(self, path: Path, info: zipfile.ZipInfo) -> int:
        """Where an entry's bytes begin. Its local header must agree with the central directory."""
        damaged = BundleError(
            f"{path}: entry {info.filename!r} is damaged, compressed or encrypted; fetch the bundle again"
        )
        start = info.header_offset
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1 or info.compress_size != info.file_size:
            raise damaged
        if not 0 <= start <= len(self._map) - _LOCAL_HEADER.size:
            raise damaged
        magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack_from(
            self._map, start
        )
        name_start = start + _LOCAL_HEADER.size
        offset = name_start + name_length + extra_length
        name = self._map[name_start : name_start + name_length]
        if packed == size == _IN_EXTRA:
            packed, size = _zip64_sizes(bytes(self._map[name_start + name_length : offset]))
        same = (magic, flags, method) == (b"PK\x03\x04", info.flag_bits, info.compress_type)
        same = same and (crc, packed, size) == (info.CRC, info.file_size, info.file_size)
        if not same or name != info.filename.encode() or offset + info.file_size > len(self._map):
            raise damaged
        return int(offset)

    def __getitem__(self, name: str) -> memoryview:
        offset, size, _ = self._entries[name]
        return self._view[offset : offset + size]

    def source(self, name: str) -> memoryview:
        """The source from which `write_zip` copies an entry."""
        return self[name]

    def read(self, name: str) -> bytes:
        """A copy of an entry's content."""
        return bytes(self[name])

    def size(self, name: str) -> int:
        """Size in bytes, without reading the content."""
        return self._entries[name][1]

    def pieces(self, name: str) -> Iterator[memoryview]:
        """The content of an entry in pieces, so that the system can drop the pages that were read."""
        content = self[name]
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE]

    def check_crc(self, name: str) -> None:
        """Check the CRC of an entry that the manifest does not list (bundle.json, bundle.sig).

        Raises:
            BundleError: it does not match.
        """
        if zlib.crc32(self[name]) != self._entries[name][2]:
            raise BundleError(f"{name}: its checksum does not match; the bundle is damaged, fetch it again")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _refuse_holes(path: Path, files: Iterable[Path]) -> None:
    """Check that a bundle is on the disk. A sparse file of a few bytes can take gigabytes of memory."""
    size = held = 0
    for file in files:
        found = file.stat().st_size
        size, held = size + found, held + (_bytes_on_disk(file) if found > _PIECE else found)
    if size - held > held + MAX_HOLES:
        raise BundleError(
            f"{path}: it claims {size / 1e6:.0f} MB, but the disk holds {held / 1e6:.0f} MB of them (sparse files); "
            "do not use this bundle"
        )


def _bytes_on_disk(path: Path) -> int:
    """The bytes of a file without its holes, which read as zeros; all of them where the system cannot tell."""
    with path.open("rb") as file:
        end, at, held = os.fstat(file.fileno()).st_size, 0, 0
        if not hasattr(os, "SEEK_DATA"):
            return end
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
                at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            except OSError as error:
                return held if error.errno == errno.ENXIO else end  # ENXIO: nothing but a hole is left
            held += at - start
        return held


def _refuse_large(path: Path) -> None:
    """Check before the decryption that the content, and the copies made of it, fit into memory."""
    size, memory = path.stat().st_size, usable_memory()
    if memory is not None and 3 * size > memory:
        raise BundleError(
            f"{path}: an encrypted bundle of {size / 1e9:.1f} GB needs three times as much memory; this process "
            f"may use {memory / 1e9:.1f} GB: decrypt it with dpd decrypt on a machine with more"
        )


def open_files(path: Path, key: Key | None = None) -> FolderFiles | ZipFiles:
    """Open a bundle folder, a .dpd file, or an encrypted file, which is decrypted into memory.

    Raises:
        BundleError: there is no readable bundle at `path`, or the key is wrong.
        InputError: a key was given for a bundle that is not encrypted.
    """
    if not path.is_dir() and not path.is_file():  # reading a pipe would block
        raise NoBundleError(path)
    if is_encrypted(path):
        _refuse_holes(path, [path])
        _refuse_large(path)
        content = BytesIO()
        for piece in decrypt(path, key):
            content.write(piece)
        return ZipFiles(path, content)
    if key is not None:
        raise InputError(f"{path} is not encrypted, but a key was given; check the path, or leave the key out")
    if path.is_dir():
        files = FolderFiles(path)
        _refuse_holes(path, map(files.source, files))
        return files
    _refuse_holes(path, [path])
    return ZipFiles(path)


def write_zip(path: Path, files: Mapping[str, bytes | memoryview | Path]) -> None:
    """Write a stored zip with fixed dates, completely or not at all. The same files give the same bytes.

    Args:
        files: the content of each entry, or a file with it, which is copied in pieces.
    """
    with open_atomically(path) as handle:
        pack_zip(handle, files)


def pack_zip(handle: BinaryIO, files: Mapping[str, bytes | memoryview | Path]) -> None:
    """Like `write_zip`, into an open file or into memory."""
    with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            content = files[name]
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            info.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
            with archive.open(info, "w") as entry:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, entry, _PIECE)
                else:
                    entry.write(content)
