"""Protection against rollback: the newest serial of each signed bundle that this site has seen, and expiry.

A signature never ends, so an old bundle with a flaw would stay valid for ever. `dpd sign` writes a serial number and,
if wanted, the last day into bundle.json. The trusted folder remembers, for each key and bundle name, the newest serial.
"""

import datetime
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.bundle.signature import Signature
from dpd_runtime.bundle.trusted import check_owned, trusted_folder
from dpd_runtime.errors import InputError, OldBundleError
from dpd_runtime.file_lock import FileLock
from dpd_runtime.files import write_atomically

MEMORY = "serials"
"""Name of the folder in the trusted folder that remembers serials."""
LARGEST_MEMORY = 4096  # bytes of one of its files


def today() -> str:
    """The day by this machine's clock (UTC) as YYYY-MM-DD."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def check_fresh(path: Path, manifest: Manifest, signature: Signature) -> None:
    """Check that a bundle has not expired and, if a trusted key signed it, that no newer one was seen here.

    Raises:
        OldBundleError: it has expired, or is older than the newest one.
        InputError: what is remembered cannot be read, or somebody else could change it.
    """
    if manifest.expires and today() > manifest.expires:
        raise OldBundleError(path, f"it expired on {manifest.expires}, today is {today()}")
    newest = newest_serial(signature, manifest.name)
    if manifest.serial < newest:
        raise OldBundleError(
            path, f"its serial is {manifest.serial}, and this site has seen serial {newest} of this name"
        )


def newest_serial(signature: Signature, name: str) -> int:
    """Return the newest serial of the bundle `name` by this key that was seen here; 0 if none, or the key is unknown.

    Raises:
        InputError: as for `check_fresh`.
    """
    path = _memory(signature, name)
    if not signature.trusted or not os.path.lexists(path):
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
        Whether this site remembers it or a newer one; False for an unsigned bundle, one without a serial, or a trusted
        folder that cannot be written, as on a read-only disk, or that others could change.
    """
    if not signature.trusted or not manifest.serial:
        return False
    if newest_serial(signature, manifest.name) >= manifest.serial:
        return True
    path = _memory(signature, manifest.name)
    content = {"name": manifest.name, "key_id": signature.key_id, "serial": manifest.serial}
    lock = FileLock(path.with_suffix(".lock"))
    try:
        _make_private(path.parent)
        check_owned(path.parent)
        with suppress(OSError):  # where there are no locks, it is still remembered
            lock.acquire(wait=True)
        if newest_serial(signature, manifest.name) < manifest.serial:  # another process may have seen a newer one
            write_atomically(path, (json.dumps(content, sort_keys=True, allow_nan=False) + "\n").encode())
            path.chmod(0o600)
    except (OSError, InputError):
        return False
    finally:
        with suppress(OSError):
            lock.release()
    return True


def _make_private(folder: Path) -> None:
    """Make a folder and those above it for this user alone, whatever the umask. Folders that exist stay as they are."""
    for part in reversed((folder, *folder.parents)):
        part.mkdir(mode=0o700, exist_ok=True)


def _memory(signature: Signature, name: str) -> Path:
    return trusted_folder() / MEMORY / f"{signature.key_id}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
