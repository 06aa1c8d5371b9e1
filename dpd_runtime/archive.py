"""A bundle's files: a folder, one zip file, or that encrypted."""

import errno
import hmac
import mmap
import os
import secrets
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Literal

from dpd_runtime import age
from dpd_runtime.errors import BundleError, DecryptionError, InputError, NoBundleError
from dpd_runtime.files import is_safe_name, open_atomically, open_regular
from dpd_runtime.machine import usable_memory
from dpd_runtime.trust import KEY_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


# -- Where the entries of a stored zip lie. Every byte of the file must belong to an entry or to the directory.
#
# Readers of zip files differ: some go by the directory at the end, some by the local headers, some look for a
# signature. So a zip is accepted only if all of them find the same, and if nothing can be hidden in it.


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


# -- Encrypted bundles: AES-256-GCM in chunks that cannot be reordered, dropped, added or taken from another file.
#
# The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015), as in the age format: each file has its own
# key, and the nonce of a chunk is its number and whether it is the last one. See docs/reference/bundle-format.md.


Key = bytes | str
"""The 32 bytes of a key file, a passphrase, or an identity of age."""
MAGIC, VERSION = b"DPDENC", 1
KEY_FILE, PASSPHRASE = 0, 1
DEFAULT_CHUNK = 2**22
CHUNKS = (2**12, 2**24)
"""Smallest and largest number of plain bytes in a chunk that is accepted."""
COSTS, BLOCK_SIZE, LANES = (14, 18), 8, (1, 4)
"""Accepted parameters of scrypt: log2 N, r, p. Deriving a key needs 128·r·N bytes, at most 256 MiB."""
TAG = 16
_FIELDS = struct.Struct("<6sBBIBBBx32s")
_COMMITMENT = 32
HEADER_BYTES = _FIELDS.size + _COMMITMENT
_INFO = b"dpd-bundle-encryption"


@dataclass(frozen=True)
class Header:
    """The header of an encrypted file.

    Args:
        kind: KEY_FILE or PASSPHRASE. chunk: number of plain bytes in each chunk but the last.
        salt: 32 random bytes, so that each file has another key.
        cost, block_size, lanes: log2 N, r and p of scrypt; 0 for a key file.
    """

    kind: int
    salt: bytes
    chunk: int = DEFAULT_CHUNK
    cost: int = 0
    block_size: int = 0
    lanes: int = 0

    def to_bytes(self) -> bytes:
        """The 48 bytes of the header's fields."""
        return _FIELDS.pack(MAGIC, VERSION, self.kind, self.chunk, self.cost, self.block_size, self.lanes, self.salt)


def new_header(key: Key, cost: int = 17) -> Header:
    """A header with a new salt. cost: log2 N of scrypt; 17 needs 128 MiB and about half a second."""
    salt = secrets.token_bytes(32)
    return Header(KEY_FILE, salt) if isinstance(key, bytes) else Header(PASSPHRASE, salt, DEFAULT_CHUNK, cost, 8, 1)


Sealing = Literal["dpd", "age"]


def sealing_of(path: Path) -> Sealing | None:
    """How a bundle is encrypted, as the file at `path` begins; None of others, and where there is no file."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            start = file.read(max(len(MAGIC), len(age.MAGIC)))
    except OSError:
        return None
    return "dpd" if start.startswith(MAGIC) else "age" if start.startswith(age.MAGIC) else None


def not_encrypted(path: Path) -> InputError:
    """Of a bundle for which a key was given."""
    return InputError(f"{path} is not encrypted, but a key was given; check the path, or leave the key out")


def asks_passphrase(path: Path) -> bool:
    """Whether an encrypted file opens with a passphrase, not with a key.

    Raises:
        DecryptionError: as `parse_header`.
    """
    with path.open("rb") as file:
        return parse_header(path, file.read(HEADER_BYTES)).kind == PASSPHRASE


def encrypt(source: BinaryIO, target: BinaryIO, key: Key, header: Header | None = None) -> None:
    """Encrypt all of `source` into `target`. Tests pass a fixed header; otherwise it is a new one.

    Raises:
        InputError: an invalid key, or nothing to encrypt.
    """
    header = header or new_header(key)
    cipher, associated = _cipher(header, key)
    target.write(associated)
    number, coming = 0, source.read(header.chunk)
    if not coming:
        raise InputError("the file to encrypt is empty")
    while coming:
        plain, coming = coming, source.read(header.chunk)
        target.write(cipher.encrypt(_nonce(number, last=not coming), plain, associated))
        number += 1


def decrypt_into(path: Path, sealing: Sealing, key: Key | None, target: BinaryIO) -> None:
    """Decrypt a file of `dpd encrypt` into `target`, which holds nothing of worth if this raises.

    Args:
        sealing: of the file, as `sealing_of` says.

    Raises:
        DecryptionError: no key, a wrong key, or a file that was changed, cut off or extended.
        MissingExtraError: a file of age, and pyrage is not installed.
    """
    if sealing == "age":
        age.decrypt(path, key, target)
        return
    for piece in decrypt(path, key):
        target.write(piece)


def decrypt(path: Path, key: Key | None) -> Iterator[bytes]:
    """Yield the plain bytes in pieces, each after its tag was checked.

    Only the last piece shows that the file is complete: a caller must not keep a part of it.

    Raises:
        DecryptionError: no key, a wrong key, or a file that was changed, cut off or extended.
    """
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - HEADER_BYTES
        associated = file.read(HEADER_BYTES)
        header = parse_header(path, associated)
        cipher, expected = _cipher(header, _fitting(path, header, key))
        if not hmac.compare_digest(expected, associated):
            raise DecryptionError(f"{path}: the key or passphrase is wrong; give the one it was encrypted with")
        number = 0
        while left > 0:
            sealed = file.read(min(left, header.chunk + TAG))
            left -= header.chunk + TAG
            yield _open(path, cipher, sealed, _nonce(number, last=left <= 0), associated)
            number += 1
        if not number:
            raise DecryptionError(f"{path}: it ends after its header; fetch it again")


def parse_header(path: Path, raw: bytes) -> Header:
    """Parse the header of an encrypted file.

    Raises:
        DecryptionError: not a header of this version, or parameters that would need too much memory.
    """
    if len(raw) < HEADER_BYTES or not raw.startswith(MAGIC):
        raise DecryptionError(f"{path}: not an encrypted bundle, or cut off; fetch it again")
    _, version, kind, chunk, cost, block_size, lanes, salt = _FIELDS.unpack_from(raw)
    if version != VERSION:
        raise DecryptionError(
            f"{path}: encryption version {version}, this runtime reads {VERSION}; install a newer dpd-distill"
        )
    header = Header(kind, salt, chunk, cost, block_size, lanes)
    good = CHUNKS[0] <= chunk <= CHUNKS[1] and header.to_bytes() == raw[: _FIELDS.size]
    if kind == PASSPHRASE:
        good = good and COSTS[0] <= cost <= COSTS[1] and block_size == BLOCK_SIZE and LANES[0] <= lanes <= LANES[1]
    else:
        good = good and kind == KEY_FILE and (cost, block_size, lanes) == (0, 0, 0)
    if not good:
        raise DecryptionError(f"{path}: its encryption header is damaged or exceeds the limits; do not use it")
    return header


def _fitting(path: Path, header: Header, key: Key | None) -> Key:
    wanted = "a passphrase: pass --key FILE" if header.kind == PASSPHRASE else "a key file: pass --key FILE"
    if key is None or isinstance(key, bytes) is (header.kind == PASSPHRASE):
        raise DecryptionError(
            f"{path} is encrypted with {wanted}; where a command has no such option, decrypt the file with dpd decrypt "
            "first; in Python: load_bundle(path, key=…)"
        )
    return key


def _open(path: Path, cipher: "AESGCM", sealed: bytes, nonce: bytes, associated: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        if len(sealed) > TAG:
            return cipher.decrypt(nonce, sealed, associated)
    except InvalidTag:
        pass
    raise DecryptionError(f"{path}: a part of it was changed, moved or cut off; fetch it again")


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _cipher(header: Header, key: Key) -> tuple["AESGCM", bytes]:
    """The file's cipher, and its complete header: the fields and the commitment to the key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    if isinstance(key, bytes) and len(key) != KEY_BYTES:
        raise InputError(f"the key has {len(key)} bytes; an encryption key has {KEY_BYTES}")
    if not key:
        raise InputError("the passphrase is empty")
    if isinstance(key, str):
        scrypt = Scrypt(salt=header.salt, length=32, n=2**header.cost, r=header.block_size, p=header.lanes)
        key = scrypt.derive(key.encode())
    fields = header.to_bytes()
    derived = HKDF(SHA256(), 32 + _COMMITMENT, salt=header.salt, info=_INFO + fields).derive(key)
    return AESGCM(derived[:32]), fields + derived[32:]


# -- Access to a bundle's files: a folder, or a stored (uncompressed) zip file that is memory-mapped.


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
    every = list(files)
    size = sum(file.stat().st_size for file in every)
    held = sum(map(_bytes_on_disk, every)) if size > MAX_HOLES else size
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
    if sealing := sealing_of(path):
        refuse_holes(path, [path])
        _refuse_large(path)
        content = BytesIO()
        decrypt_into(path, sealing, key, content)
        return ZipFiles(path, content)
    if key is not None:
        raise not_encrypted(path)
    if path.is_dir():
        files = FolderFiles(path)
        refuse_holes(path, map(files.source, files))
        return files
    refuse_holes(path, [path])
    return ZipFiles(path)


def write_zip(path: Path, files: Mapping[str, bytes | memoryview | Path]) -> None:
    """Write a stored zip with fixed dates, completely or not at all. The same files give the same bytes.

    Args:
        path: a file that is replaced keeps its permissions.
        files: the content of each entry, or a file with it, which is copied in pieces.
    """
    mode = stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0o666
    with open_atomically(path, mode=mode) as handle:
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
