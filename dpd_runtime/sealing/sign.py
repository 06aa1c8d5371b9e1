"""Sign a bundle (docs/guides/hand-over.md). `dpd_runtime.bundle.signature` checks signatures."""

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.bundle.archive import FolderFiles, open_files, write_zip
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.encryption import is_encrypted
from dpd_runtime.bundle.freshness import today
from dpd_runtime.bundle.manifest import MANIFEST_NAME, MAX_SERIAL, is_day
from dpd_runtime.bundle.signature import SIGNATURE_NAME, PublicKey, signature_json
from dpd_runtime.errors import BundleHashError, InputError
from dpd_runtime.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Signed:
    """The result of `sign_bundle`. hash: the bundle's new hash. audit: the verdict in its manifest."""

    key: PublicKey
    hash: str
    audit: str
    serial: int
    expires: str


def sign_bundle(
    path: Path, private: "Ed25519PrivateKey", name: str, *, serial: int | None = None, expires: str = ""
) -> Signed:
    """Verify a bundle, write its serial and expiry into bundle.json, sign that file's bytes and add bundle.sig.

    Other files do not change; the bundle's hash does, as bundle.json does. A .dpd file is rewritten, completely or not
    at all. A folder is unsigned until the end.

    Args:
        name: the user's name for the key.
        serial: 1 … MAX_SERIAL; a site refuses smaller ones than it has seen. None for the time in seconds since 1970.
        expires: last day (UTC) on which it may be used, as YYYY-MM-DD; empty for no end.

    Raises:
        BundleError: it is damaged.
        InputError: it is encrypted, or the serial or the day is not one.
    """
    if is_encrypted(path):
        raise InputError(
            f"{path} is encrypted and the signature is part of the content; run dpd decrypt, dpd sign and dpd encrypt"
        )
    serial = int(time.time()) if serial is None else serial
    if not 1 <= serial <= MAX_SERIAL:
        raise InputError(f"--serial {serial}: give a whole number of 1 … {MAX_SERIAL}")
    _check_expires(expires)
    opened = load_bundle(path, trusted=(), allow_older=True)  # an old signature is replaced in any case
    files = open_files(path)
    digest = hashlib.sha256(files[MANIFEST_NAME]).hexdigest()
    if digest != opened.hash:
        raise BundleHashError(MANIFEST_NAME, digest, opened.hash)
    manifest = replace(opened.manifest, serial=serial, expires=expires).to_json()
    key = PublicKey(name, private.public_key().public_bytes_raw())
    signature = signature_json(key, private.sign(manifest))
    if isinstance(files, FolderFiles):
        (path / SIGNATURE_NAME).unlink(missing_ok=True)
        write_atomically(path / MANIFEST_NAME, manifest)
        write_atomically(path / SIGNATURE_NAME, signature)
    else:
        kept = {entry: files.source(entry) for entry in opened.manifest.files}
        write_zip(path.resolve(), {**kept, MANIFEST_NAME: manifest, SIGNATURE_NAME: signature})
    return Signed(key, hashlib.sha256(manifest).hexdigest(), opened.manifest.audit, serial, expires)


def _check_expires(day: str) -> None:
    if not day:
        return
    if not is_day(day):
        raise InputError(f"--expires {day}: give a day as YYYY-MM-DD, such as 2027-12-31")
    if day < today():
        raise InputError(f"--expires {day} is past; give today or a later day")
