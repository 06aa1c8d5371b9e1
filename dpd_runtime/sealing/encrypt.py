"""Encrypt a bundle to a file, and decrypt it to a file. `archive.open_files` reads an encrypted bundle in memory."""

from io import BytesIO
from pathlib import Path

from dpd_runtime.bundle.archive import FolderFiles, open_files, pack_zip
from dpd_runtime.bundle.bundle import Bundle, load_bundle
from dpd_runtime.bundle.encryption import Key, decrypt, encrypt, is_encrypted
from dpd_runtime.errors import BundleError, InputError
from dpd_runtime.files import check_writable, open_atomically

NO_KEY = "give --key-file or --passphrase-file, or set DPD_PASSPHRASE"


def encrypt_bundle(bundle: Path, out: Path, key: Key | None, *, overwrite: bool = False) -> Bundle:
    """Verify a bundle and write it encrypted to `out`, completely or not at all. A folder is packed in memory first.

    Returns:
        The opened bundle.

    Raises:
        BundleError: it is damaged.
        InputError: no key, `out` exists, or the bundle is already encrypted.
    """
    if key is None:
        raise InputError(f"{bundle}: no key to encrypt it with; {NO_KEY}")
    if is_encrypted(bundle):
        raise InputError(f"{bundle} is already encrypted; to change its key, run dpd decrypt first")
    _check_target(bundle, out, overwrite)
    opened = load_bundle(bundle, allow_older=True)  # the site that opens it checks that
    files = open_files(bundle)
    with open_atomically(out) as target:
        if isinstance(files, FolderFiles):
            packed = BytesIO()
            pack_zip(packed, {name: files.source(name) for name in files})
            packed.seek(0)
            encrypt(packed, target, key)
        else:
            with bundle.open("rb") as source:
                encrypt(source, target, key)
    return opened


def decrypt_bundle(bundle: Path, out: Path, key: Key | None, *, overwrite: bool = False) -> None:
    """Decrypt a bundle to the .dpd file `out`, which only this user can read, completely or not at all.

    Raises:
        DecryptionError: no key, a wrong key, or a changed file.
        InputError: `out` exists, or the bundle is not encrypted.
    """
    if not bundle.is_file():
        raise BundleError(f"{bundle}: no such file; give what dpd encrypt wrote")
    if not is_encrypted(bundle):
        raise InputError(f"{bundle} is not encrypted; use it as it is")
    _check_target(bundle, out, overwrite)
    with open_atomically(out, mode=0o600) as target:
        for piece in decrypt(bundle, key):
            target.write(piece)


def _check_target(bundle: Path, out: Path, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist")
    check_writable(out)
    if out.is_dir() or (out.exists() and (not overwrite or out.samefile(bundle))):
        raise InputError(f"{out} exists; choose another --out, or pass --overwrite for a file other than the bundle")
