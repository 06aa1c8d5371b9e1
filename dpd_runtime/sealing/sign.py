"""Sign a bundle (DESIGN §7). `dpd_runtime.bundle.signature` checks signatures."""

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
    """The result of `sign_bundle`. hash: the bundle's. audit: the verdict in its manifest."""

    key: PublicKey
    hash: str
    audit: str


def sign_bundle(path: Path, private: "Ed25519PrivateKey", name: str) -> Signed:
    """Verify a bundle, sign the bytes of bundle.json and add bundle.sig. Other files do not change.

    A .dpd file is rewritten, completely or not at all.

    Args:
        name: the user's name for the key.

    Raises:
        BundleError: it is damaged.
        InputError: it is encrypted.
    """
    if is_encrypted(path):
        raise InputError(
            f"{path} is encrypted and the signature is part of the content; run dpd decrypt, dpd sign and dpd encrypt"
        )
    opened = load_bundle(path, trusted=())  # an old signature is replaced in any case
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
