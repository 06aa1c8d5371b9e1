"""Encrypted bundles: AES-256-GCM in chunks that cannot be reordered, dropped, added or taken from another file.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015), as in the age format: each file has its own key,
and the nonce of a chunk is its number and whether it is the last one. See docs/reference/bundle-format.md.
"""

import hmac
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dpd_runtime.bundle.keys import KEY_BYTES
from dpd_runtime.errors import DecryptionError, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Key = bytes | str
"""The 32 bytes of a key file, or a passphrase."""
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


def is_encrypted(path: Path) -> bool:
    """Whether there is a file at `path` that begins like an encrypted bundle."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


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
    wanted = "a passphrase: pass --passphrase-file" if header.kind == PASSPHRASE else "a key file: pass --key-file"
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
