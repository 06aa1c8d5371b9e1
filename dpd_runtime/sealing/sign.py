"""Putting a signature into a bundle (DESIGN §7); `signature.py` reads it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.bundle.archive import FolderFiles, open_files, write_zip
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.encryption import is_encrypted
from dpd_runtime.bundle.manifest import MANIFEST_NAME
from dpd_runtime.bundle.signature import SIGNATURE_NAME, PublicKey, signature_json
from dpd_runtime.errors import BundleHashError, InputError
from dpd_runtime.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Signed:
    """hash: the bundle's. audit: what its manifest says."""

    key: PublicKey
    hash: str
    audit: str


def sign_bundle(path: Path, private: "Ed25519PrivateKey", name: str) -> Signed:
    """Verify a bundle, sign bundle.json's bytes and put bundle.sig in; nothing else differs.

    A .dpd file is written anew, whole or not at all.

    Args:
        name: what the user calls the key.

    Raises:
        BundleError: it is damaged. InputError: it is encrypted; the signature goes inside.
    """
    if is_encrypted(path):
        raise InputError(f"{path} is encrypted, and the signature goes inside: dpd decrypt it, sign, encrypt again")
    opened = load_bundle(path, trusted=())  # an old signature is replaced, whatever it is worth
    files = open_files(path)
    manifest = bytes(files[MANIFEST_NAME])
    found = hashlib.sha256(manifest).hexdigest()
    if found != opened.hash:
        raise BundleHashError(MANIFEST_NAME, found, opened.hash)
    key = PublicKey(name, private.public_key().public_bytes_raw())
    content = signature_json(key, private.sign(manifest))
    if isinstance(files, FolderFiles):
        write_atomically(path / SIGNATURE_NAME, content)
    else:
        kept = {entry: files.source(entry) for entry in files if entry != SIGNATURE_NAME}
        write_zip(path.resolve(), {**kept, SIGNATURE_NAME: content})
    return Signed(key, found, opened.manifest.audit)
