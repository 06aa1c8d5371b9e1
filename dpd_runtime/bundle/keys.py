"""Key files: ed25519 pairs in PEM, encryption keys of 32 bytes, and passphrases as a line of text."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.bundle.signature import PublicKey
from dpd_runtime.errors import InputError
from dpd_runtime.files import check_above, naming
from dpd_runtime.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PRIVATE_SUFFIX, PUBLIC_SUFFIX = ".key", ".pub"
KEY_BYTES = 32
LARGEST_FILE = 2**16
_LOCKED = b"ENCRYPTED PRIVATE KEY"


def write_signing_pair(path: Path, passphrase: str | None = None) -> tuple[Path, PublicKey]:
    """Make an ed25519 pair: PATH.key (PKCS #8 PEM, mode 0600, encrypted if a passphrase is given) and PATH.pub
    (SubjectPublicKeyInfo PEM).

    Returns:
        The private file, the public key.

    Raises:
        InputError: one of the files exists. Keys are never overwritten.
    """
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = path.with_name(path.name + PRIVATE_SUFFIX), path.with_name(path.name + PUBLIC_SUFFIX)
    if os.path.lexists(public):
        raise InputError(f"{public} exists, and keys are never overwritten; choose another name")
    pair = Ed25519PrivateKey.generate()
    lock = to.BestAvailableEncryption(passphrase.encode()) if passphrase else to.NoEncryption()
    _write_new(private, pair.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, lock), 0o600)
    _write_new(public, pair.public_key().public_bytes(to.Encoding.PEM, to.PublicFormat.SubjectPublicKeyInfo), 0o644)
    return private, PublicKey(public.stem, pair.public_key().public_bytes_raw())


def write_encryption_key(path: Path) -> Path:
    """Write 32 random bytes to PATH.key, mode 0600.

    Raises:
        InputError: the file exists.
    """
    file = path.with_name(path.name + PRIVATE_SUFFIX)
    _write_new(file, secrets.token_bytes(KEY_BYTES), 0o600)
    return file


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, never through a link. It has its mode from its creation on."""
    check_above(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise InputError(f"{path} exists, and keys are never overwritten; choose another name") from error
    with naming(path), os.fdopen(handle, "wb") as file:
        file.write(content)


def is_locked(path: Path) -> bool:
    """Whether a private key needs a passphrase.

    Raises:
        InputError: the file cannot be read.
    """
    return _LOCKED in _read(path)


def read_signing_key(path: Path, passphrase: str | None = None) -> "Ed25519PrivateKey":
    """Read a private ed25519 key.

    Raises:
        InputError: the file cannot be read, it is not an ed25519 key, or the passphrase is missing, wrong or unused.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    raw = _read(path)
    locked = _LOCKED in raw
    if locked and passphrase is None:
        raise InputError(f"{path} has a passphrase; give it with --passphrase-file or DPD_PASSPHRASE")
    if passphrase is not None and not locked:
        raise InputError(f"{path} has no passphrase; leave out --passphrase-file")
    try:
        key = load_pem_private_key(raw, passphrase.encode() if passphrase is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "the passphrase is wrong" if locked else "it is not a private key in PEM"
        raise InputError(f"{path}: {reason}; give the .key file that dpd keygen wrote") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not an ed25519 key; make one with dpd keygen")
    return key


def read_public_key(path: Path) -> PublicKey:
    """Read a public ed25519 key.

    Raises:
        InputError: the file cannot be read, or is not such a key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    raw = _read(path)
    try:
        key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is not a public key in PEM; give the .pub file that dpd keygen wrote") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is not an ed25519 public key; give the .pub file that dpd keygen wrote")
    return PublicKey(printable(path.stem), key.public_bytes_raw())


def read_encryption_key(path: Path) -> bytes:
    """Read an encryption key.

    Raises:
        InputError: the file cannot be read, or does not have 32 bytes.
    """
    raw = _read(path)
    if len(raw) != KEY_BYTES:
        raise InputError(f"{path}: an encryption key has {KEY_BYTES} bytes; make one with dpd keygen --encryption")
    return raw


def read_passphrase(path: Path) -> str:
    """Read a passphrase: the text of the file without the line end.

    Raises:
        InputError: the file cannot be read, or is not one line of UTF-8 text.
    """
    raw = _read(path)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a passphrase is one line of UTF-8 text") from error
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or "\n" in text:
        raise InputError(f"{path}: a passphrase is one line of UTF-8 text")
    return text


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a key file that can be read") from error
    if len(raw) > LARGEST_FILE:
        raise InputError(f"{path} is too large for a key; give the file that dpd keygen wrote")
    return raw
