"""Protection against rollback: the newest serial of each signed bundle that this site has seen, and expiry.

A signature never ends, so an old bundle with a flaw would stay valid for ever. `dpd sign` writes a serial number and,
if wanted, the last day into bundle.json. The trusted folder remembers, for each key and bundle name, the newest serial.

A serial is the time of signing in seconds, by the signer's clock, or a number of the signer's own. No clock is trusted
further than this (docs/guides/hand-over.md):

- A serial of this site's future is not remembered, as a signer's clock that once was years ahead would lock the site
  out for as long. The bundle is used.
- What is remembered counts whatever the clock says now, so that nobody can roll a site back by its clock.
- A clock that shows a day before this version's release is known to be wrong, as of a board without a battery. It
  decides nothing: serials are remembered as they are.
"""

import datetime
import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.bundle.signature import Signature
from dpd_runtime.bundle.trusted import check_owned, trusted_folder
from dpd_runtime.errors import DiskError, InputError, OldBundleError
from dpd_runtime.file_lock import FileLock
from dpd_runtime.files import write_atomically
from dpd_runtime.machine.versions import RELEASED

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
