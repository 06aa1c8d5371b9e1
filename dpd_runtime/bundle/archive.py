"""Access to a bundle's files: a folder, or a stored (uncompressed) zip file that is memory-mapped."""

import errno
import mmap
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from dpd_runtime.bundle.encryption import Key, decrypt, is_encrypted
from dpd_runtime.bundle.zip_layout import MAX_ENTRIES, read_entries
from dpd_runtime.errors import BundleError, InputError, NoBundleError
from dpd_runtime.files import open_atomically, open_regular
from dpd_runtime.machine.cores import usable_memory

MAX_HOLES = 64 * 2**20
"""Bytes of a bundle that may be missing on the disk beyond as many as are there."""
_PIECE = 2**24  # bytes


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
            if not entry.is_file() and not entry.is_dir():
                raise BundleError(f"{entry.path}: a pipe, socket or device in a bundle; do not use this bundle")
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
        with open_regular(self._root / name, follow=False) as file:
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
        with open_regular(self._root / name, follow=False) as file:
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
        self._map: mmap.mmap | None = None
        try:
            with path.open("rb") if content is None else nullcontext(content) as file:
                if content is None:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._view = memoryview(self._map)
                else:
                    self._view = content.getbuffer()
                self._entries = read_entries(path, file, self._view)
        except BundleError:
            raise
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

    def __getitem__(self, name: str) -> memoryview:
        offset, size, _ = self._entries[name]
        return self._view[offset : offset + size]

    def source(self, name: str) -> memoryview:
        """The source from which `write_zip` copies an entry."""
        return self[name]

    def read(self, name: str) -> bytes:
        """A copy of an entry's content."""
        copy = BytesIO()
        for piece in self.pieces(name):
            copy.write(piece)
        return copy.getvalue()

    def size(self, name: str) -> int:
        """Size in bytes, without reading the content."""
        return self._entries[name][1]

    def pieces(self, name: str) -> Iterator[memoryview]:
        """The content of an entry in pieces. The memory of each is given back after it was used."""
        content, offset = self[name], self._entries[name][0]
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE]
            if self._map is not None and hasattr(self._map, "madvise"):
                page = (offset + start) // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_DONTNEED, page, min(len(self._map), offset + start + _PIECE) - page)

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


def refuse_holes(path: Path, files: Iterable[Path], what: str = "bundle") -> None:
    """Check that a bundle is on the disk. A sparse file of a few bytes can take gigabytes of memory.

    Raises:
        BundleError: it is not.
    """
    size = held = 0
    for file in files:
        length = file.stat().st_size
        size, held = size + length, held + (_bytes_on_disk(file) if length > _PIECE else length)
    if size - held > held + MAX_HOLES:
        raise BundleError(
            f"{path}: it claims {size / 1e6:.0f} MB, but the disk holds {held / 1e6:.0f} MB of them (sparse files); "
            f"do not use this {what}"
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
        refuse_holes(path, [path])
        _refuse_large(path)
        content = BytesIO()
        for piece in decrypt(path, key):
            content.write(piece)
        return ZipFiles(path, content)
    if key is not None:
        raise InputError(f"{path} is not encrypted, but a key was given; check the path, or leave the key out")
    if path.is_dir():
        files = FolderFiles(path)
        refuse_holes(path, map(files.source, files))
        return files
    refuse_holes(path, [path])
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
