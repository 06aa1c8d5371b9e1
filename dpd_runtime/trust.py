"""Signatures, keys, whom a site trusts, and which serial it has seen."""

import datetime
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.errors import BundleError, DiskError, InputError, OldBundleError, SignatureError
from dpd_runtime.files import (
    FileLock,
    check_above,
    home_folder,
    is_foreign,
    naming,
    others_may_write,
    parse_json,
    user_folder,
    write_atomically,
)
from dpd_runtime.manifest import Manifest
from dpd_runtime.text import printable
from dpd_runtime.versions import RELEASED

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


# -- The signature bundle.sig: ed25519 over the bytes of bundle.json, which has the hashes of all files.


SIGNATURE_NAME = "bundle.sig"
ALGORITHM = "ed25519"
MAX_SIGNATURE_BYTES = 4096
_KEY_ID = re.compile(r"[0-9a-f]{32}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True)
class PublicKey:
    """A public key. name: of its file, without the ending. raw: its 32 bytes."""

    name: str
    raw: bytes

    @property
    def id(self) -> str:
        """The first 16 bytes of sha256 over the raw key, in hexadecimal, for comparing keys by telephone."""
        return hashlib.sha256(self.raw).hexdigest()[:32]


@dataclass(frozen=True)
class Signature:
    """Who signed a bundle, by the trusted keys of this site.

    Args:
        key_id: None for an unsigned bundle.
        trusted_as: name of the trusted key that made the signature. None for an unsigned bundle or an unknown key,
            whose signature cannot be checked and counts as none.
    """

    key_id: str | None = None
    trusted_as: str | None = None

    @property
    def trusted(self) -> bool:
        return self.trusted_as is not None

    def describe(self) -> str:
        """The signature in words: "unsigned", "signed by unknown key 3f…", "signed by trusted key lab (3f…)"."""
        if self.key_id is None:
            return "unsigned"
        if self.trusted_as is None:
            return f"signed by unknown key {self.key_id}"
        return f"signed by trusted key {self.trusted_as} ({self.key_id})"


UNSIGNED = Signature()


def signature_json(key: PublicKey, signature: bytes) -> bytes:
    """The content of bundle.sig."""
    content = {"alg": ALGORITHM, "key_id": key.id, "sig": signature.hex()}
    return (json.dumps(content, sort_keys=True, allow_nan=False) + "\n").encode()


def parse_signature(raw: bytes) -> tuple[str, bytes]:
    """Parse bundle.sig. Returns the key id and the 64 bytes of the signature.

    Raises:
        SignatureError: dpd sign did not write it.
    """
    broken = SignatureError(f"{SIGNATURE_NAME} is not an {ALGORITHM} signature of dpd sign; fetch the bundle again")
    try:
        content = parse_json(raw, SIGNATURE_NAME) if len(raw) <= MAX_SIGNATURE_BYTES else None
    except BundleError as error:
        raise broken from error
    if not isinstance(content, dict) or set(content) != {"alg", "key_id", "sig"} or content["alg"] != ALGORITHM:
        raise broken
    key_id, signature = content["key_id"], content["sig"]
    if not (isinstance(key_id, str) and _KEY_ID.fullmatch(key_id)):
        raise broken
    if not (isinstance(signature, str) and _SIGNATURE.fullmatch(signature)):
        raise broken
    return key_id, bytes.fromhex(signature)


def check_signature(manifest: bytes, raw: bytes, trusted: Sequence[PublicKey]) -> Signature:
    """Check bundle.sig against the bytes of bundle.json, for a site that trusts these keys.

    Raises:
        SignatureError: it is damaged, or it names a trusted key and does not match, or a trusted key made it under
            another key's id.
    """
    key_id, signature = parse_signature(raw)
    signer = next((key for key in trusted if _holds(key, signature, manifest)), None)
    if signer is None:
        named = next((key for key in trusted if key.id == key_id), None)
        if named is None:
            return Signature(key_id)
        raise SignatureError(
            f"{SIGNATURE_NAME}: the signature by trusted key {named.name} ({key_id}) does not match: "
            "the bundle was changed after it was signed; do not use it"
        )
    if signer.id != key_id:
        raise SignatureError(
            f"{SIGNATURE_NAME} names key {key_id}, but key {signer.id} made it; fetch the bundle again"
        )
    return Signature(key_id, signer.name)


def _holds(key: PublicKey, signature: bytes, manifest: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, manifest)
    except InvalidSignature:
        return False
    return True


# -- Key files: ed25519 pairs in PEM, encryption keys of 32 bytes, and passphrases as a line of text.


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
    write_new(private, pair.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, lock), 0o600)
    write_new(public, pair.public_key().public_bytes(to.Encoding.PEM, to.PublicFormat.SubjectPublicKeyInfo), 0o644)
    return private, PublicKey(public.stem, pair.public_key().public_bytes_raw())


def write_encryption_key(path: Path) -> Path:
    """Write 32 random bytes to PATH.key, mode 0600.

    Raises:
        InputError: the file exists.
    """
    file = path.with_name(path.name + PRIVATE_SUFFIX)
    write_new(file, secrets.token_bytes(KEY_BYTES), 0o600)
    return file


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, never through a link. It has its mode from its creation on.

    Raises:
        InputError: it exists.
    """
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


def read_key(path: Path) -> bytes | str:
    """Read what a bundle is to be encrypted with: the 32 bytes of dpd keygen --encryption, or a passphrase.

    Thirty-two bytes that are printable text are a passphrase, which a key of random bytes is not.

    Raises:
        InputError: the file cannot be read, or holds neither.
    """
    raw = _read(path)
    if len(raw) == KEY_BYTES:
        try:
            printable = raw.decode().rstrip("\r\n").isprintable()
        except UnicodeDecodeError:
            printable = False
        if not printable:
            return raw
    try:
        return read_passphrase(path)
    except InputError as error:
        raise InputError(
            f"{path}: holds neither an encryption key, {KEY_BYTES} bytes that dpd keygen --encryption makes, nor a "
            "passphrase, one line of UTF-8 text; to encrypt with age, give the site's .pub file with --to"
        ) from error


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


def read_key_text(path: Path) -> str:
    """The text of a key file.

    Raises:
        InputError: the file cannot be read, or is no text.
    """
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text file; give a key file of age") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a key file that can be read") from error
    if len(raw) > LARGEST_FILE:
        raise InputError(f"{path} is too large for a key; give the file that dpd keygen wrote")
    return raw


# -- The folder with the keys whose signatures count at this site. Its permissions are checked as ssh does.


def trusted_folder() -> Path:
    """Return $XDG_CONFIG_HOME/dpd/trusted or ~/.config/dpd/trusted, without creating it.

    Raises:
        DiskError: there is no home folder.
    """
    return user_folder("XDG_CONFIG_HOME", ".config", "trusted")


def place_of_trust() -> str:
    """The trusted folder in words, for messages."""
    try:
        return str(trusted_folder())
    except DiskError:
        return "~/.config/dpd/trusted (there is no home folder here: set XDG_CONFIG_HOME)"


def trusted_keys(folder: Path | None = None) -> tuple[PublicKey, ...]:
    """Read all .pub files of `folder`; None for the user's trusted folder. Hidden files, as macOS leaves, are no keys.

    There are no keys without a folder that this user reaches, as where there is no home folder or it is another user's.

    Raises:
        InputError: a file is not a public key, or somebody else could change it (see `check_owned`).
    """
    try:
        folder = trusted_folder() if folder is None else folder
        if not folder.is_dir():
            return ()
    except (DiskError, PermissionError):
        return ()
    check_owned(folder)
    paths = sorted(path for path in folder.iterdir() if path.suffix == PUBLIC_SUFFIX and not path.name.startswith("."))
    for path in paths:
        check_owned(path)
    return tuple(read_public_key(path) for path in paths)


def check_owned(path: Path) -> None:
    """Check that only this user and root can change `path`: the rule of OpenSSH's StrictModes.

    It and every folder above it, up to the home folder or the root, belong to this user or to root, and neither the
    group nor others may write there. A folder of root with the sticky bit, such as /tmp, is accepted: others can add
    files there, but not rename ours. Links are followed first. Nothing is checked where files have no owner (Windows).

    Raises:
        InputError: somebody else could change it.
    """
    if not hasattr(os, "getuid"):
        return
    real, home = path.resolve(), home_folder()
    for part in (real, *real.parents):
        status = part.stat()
        if is_foreign(status):
            raise InputError(
                f"{part}: it belongs to another user (uid {status.st_uid}), who could change what this site trusts; "
                f"chown it, or keep trusted keys elsewhere ($XDG_CONFIG_HOME)"
            )
        if others_may_write(status):
            raise InputError(f"{part}: others may write there, so it cannot be trusted; chmod go-w {part}")
        if home is not None and part == home.resolve():
            return


# -- Protection against rollback: the newest serial of each signed bundle that this site has seen, and expiry.
#
# A signature never ends, so an old bundle with a flaw would stay valid for ever. `dpd sign` writes a serial number and,
# if wanted, the last day into bundle.json. The trusted folder remembers, for each key and bundle name, the newest
# serial.
#
# A serial is the time of signing in seconds, by the signer's clock, or a number of the signer's own. No clock is
# trusted further than this (docs/guides/hand-over.md):
#
# - A serial of this site's future is not remembered, as a signer's clock that once was years ahead would lock the site
#   out for as long. The bundle is used.
# - What is remembered counts whatever the clock says now, so that nobody can roll a site back by its clock.
# - A clock that shows a day before this version's release is known to be wrong, as of a board without a battery. It
#   decides nothing: serials are remembered as they are.


MEMORY = "serials"
"""Name of the folder in the trusted folder that remembers serials."""
LARGEST_MEMORY = 4096  # bytes of one of its files
DAY = 86_400
"""Seconds by which two clocks may differ."""
LAST_TIME = 7_258_118_400  # 2200-01-01: no clock goes further, so a greater serial is a number of the signer's own


def today() -> str:
    """The day by this machine's clock (UTC) as YYYY-MM-DD."""
    return day_of(int(time.time()))


def day_of(serial: int) -> str:
    """The day (UTC) of a serial that is a time, as YYYY-MM-DD."""
    return datetime.datetime.fromtimestamp(serial, datetime.UTC).date().isoformat()


def is_of_future(serial: int) -> bool:
    """Whether a serial is a time more than a day after this machine's clock; not by a clock that is surely wrong."""
    return today() >= RELEASED and time.time() + DAY < serial < LAST_TIME


def check_fresh(path: Path, manifest: Manifest, signature: Signature) -> None:
    """Check that a bundle has not expired and, if a trusted key signed it, that no newer one was seen here.

    Raises:
        OldBundleError: it has expired, or is older than the newest one.
        InputError: what is remembered cannot be read, or somebody else could change it.
    """
    day = max(today(), RELEASED)
    if manifest.expires and day > manifest.expires:
        raise OldBundleError(path, f"it expired on {manifest.expires}, today is {day} by this machine's clock")
    newest = newest_serial(signature, manifest.name)
    if manifest.serial < newest:
        reason = f"its serial is {manifest.serial}, and this site has seen serial {newest} of this name"
        if is_of_future(newest):
            reason += (
                f", of {day_of(newest)}, while this machine's clock says {today()}: set it if it is behind; if the "
                f"signer's was ahead, delete {_memory(signature, manifest.name)}, and this site forgets that serial"
            )
        raise OldBundleError(path, reason)


def newest_serial(signature: Signature, name: str) -> int:
    """Return the newest serial of the bundle `name` by this key that was seen here; 0 if none, or the key is unknown.

    Raises:
        InputError: as for `check_fresh`.
    """
    if not signature.trusted:
        return 0
    try:
        return read_serial(_memory(signature, name))
    except DiskError:  # without a home folder nothing is remembered
        return 0


def read_serial(path: Path) -> int:
    """Return the serial in a file of `write_serial`; 0 if there is none.

    Raises:
        InputError: it cannot be read, or somebody else could change it.
    """
    if not os.path.lexists(path):
        return 0
    check_owned(path)
    try:
        content = json.loads(path.read_bytes()[: LARGEST_MEMORY + 1])
    except (OSError, ValueError, RecursionError):
        content = None
    serial = content.get("serial") if isinstance(content, dict) else None
    if type(serial) is not int or serial < 0:
        raise InputError(f"{path}: no serial can be read; if you delete it, this site forgets the newest serial")
    return serial


def remember(manifest: Manifest, signature: Signature) -> bool:
    """Remember the serial of a bundle that a trusted key signed, if it is the newest.

    Returns:
        Whether this site remembers it or a newer one; False for an unsigned bundle, one without a serial or with one of
        the future, or a trusted folder that cannot be written, as on a read-only disk, or that others could change.
    """
    if not signature.trusted or not manifest.serial:
        return False
    if newest_serial(signature, manifest.name) >= manifest.serial:
        return True
    if is_of_future(manifest.serial):
        return False
    try:
        path = _memory(signature, manifest.name)
    except DiskError:
        return False
    lock = FileLock(path.with_suffix(".lock"))
    try:
        make_private(path.parent)
        check_owned(path.parent)
        with suppress(OSError):  # where there are no locks, it is still remembered
            lock.acquire(wait=True)
        if newest_serial(signature, manifest.name) < manifest.serial:  # another process may have seen a newer one
            write_serial(path, manifest.name, str(signature.key_id), manifest.serial)
    except (OSError, InputError):
        return False
    finally:
        with suppress(OSError):
            lock.release()
    return True


def write_serial(path: Path, name: str, key_id: str, serial: int) -> None:
    """Write a serial of the bundle `name` by a key, in a file that this user alone can read.

    Raises:
        OSError: it cannot be written.
    """
    content = {"name": name, "key_id": key_id, "serial": serial}
    write_atomically(path, (json.dumps(content, sort_keys=True, allow_nan=False) + "\n").encode())
    path.chmod(0o600)


def make_private(folder: Path) -> None:
    """Make a folder and those above it for this user alone, whatever the umask. Folders that exist stay as they are."""
    for part in reversed((folder, *folder.parents)):
        part.mkdir(mode=0o700, exist_ok=True)


def _memory(signature: Signature, name: str) -> Path:
    return trusted_folder() / MEMORY / memory_name(str(signature.key_id), name)


def memory_name(key_id: str, name: str) -> str:
    """Name of the file that remembers the newest serial of a key for a bundle's name."""
    return f"{key_id}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
