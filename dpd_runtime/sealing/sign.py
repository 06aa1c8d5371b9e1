"""Sign a bundle (docs/guides/hand-over.md). `dpd_runtime.bundle.signature` checks signatures."""

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.bundle.archive import FolderFiles, open_files, write_zip
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.encryption import is_encrypted
from dpd_runtime.bundle.freshness import (
    DAY,
    LAST_TIME,
    day_of,
    is_of_future,
    make_private,
    memory_name,
    newest_serial,
    read_serial,
    today,
    write_serial,
)
from dpd_runtime.bundle.manifest import MANIFEST_NAME, MAX_SERIAL, is_day
from dpd_runtime.bundle.signature import SIGNATURE_NAME, PublicKey, Signature, signature_json
from dpd_runtime.errors import BundleHashError, DiskError, InputError
from dpd_runtime.files import user_folder, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


LONGEST_GAP = 366 * DAY
"""Seconds after which it is strange that nothing here is younger: the clock may be years ahead."""


@dataclass(frozen=True)
class Signed:
    """The result of `sign_bundle`.

    Args:
        hash: the bundle's new hash. audit: the verdict in its manifest.
        note: what sites will say to a serial that was asked for; empty for nothing.
    """

    key: PublicKey
    hash: str
    audit: str
    serial: int
    expires: str
    note: str = ""


def sign_bundle(
    path: Path, private: "Ed25519PrivateKey", name: str, *, serial: int | None = None, expires: str = ""
) -> Signed:
    """Verify a bundle, write its serial and expiry into bundle.json, sign that file's bytes and add bundle.sig.

    Other files do not change; the bundle's hash does, as bundle.json does. A .dpd file is rewritten, completely or not
    at all. A folder is unsigned until the end.

    Args:
        name: the user's name for the key.
        serial: 1 … MAX_SERIAL; a site refuses smaller ones than it has seen. None for the time in seconds since 1970,
            or one more than the last serial of this key and name, if that is as late.
        expires: last day (UTC) on which it may be used, as YYYY-MM-DD; empty for no end.

    Raises:
        BundleError: it is damaged.
        InputError: it is encrypted, the serial or the day is not one, or without a serial this machine's clock
            contradicts the last serial or the dates of files: a serial cannot be taken back.
    """
    if is_encrypted(path):
        raise InputError(
            f"{path} is encrypted and the signature is part of the content; run dpd decrypt, dpd sign and dpd encrypt"
        )
    if serial is not None and not 1 <= serial <= MAX_SERIAL:
        raise InputError(f"--serial {serial}: give a whole number of 1 … {MAX_SERIAL}")
    _check_expires(expires)
    opened = load_bundle(path, trusted=(), allow_older=True)  # an old signature is replaced in any case
    files = open_files(path)
    digest = hashlib.sha256(files[MANIFEST_NAME]).hexdigest()
    if digest != opened.hash:
        raise BundleHashError(MANIFEST_NAME, digest, opened.hash)
    key = PublicKey(name, private.public_key().public_bytes_raw())
    last, note = _last_serial(key, opened.manifest.name), ""
    if serial is None:
        _check_clock(path, key, last, opened.manifest.serial)
        serial = max(int(time.time()), last + 1)
    else:
        note = _said_by_sites(serial, last)
    manifest = replace(opened.manifest, serial=serial, expires=expires).to_json()
    signature = signature_json(key, private.sign(manifest))
    if isinstance(files, FolderFiles):
        (path / SIGNATURE_NAME).unlink(missing_ok=True)
        write_atomically(path / MANIFEST_NAME, manifest)
        write_atomically(path / SIGNATURE_NAME, signature)
    else:
        kept = {entry: files.source(entry) for entry in opened.manifest.files}
        write_zip(path.resolve(), {**kept, MANIFEST_NAME: manifest, SIGNATURE_NAME: signature})
    _remember(key, opened.manifest.name, serial)
    return Signed(key, hashlib.sha256(manifest).hexdigest(), opened.manifest.audit, serial, expires, note)


def _last_serial(key: PublicKey, name: str) -> int:
    """The last serial that this user gave to `name` with the key, or the newest that this machine saw as a site."""
    made = 0
    with suppress(DiskError):
        made = read_serial(_made(key, name))
    return made or newest_serial(Signature(key.id, key.name), name)


def _remember(key: PublicKey, name: str, serial: int) -> None:
    """Remember what was signed, where the user's other state is. Without a place for it, dates of files must do."""
    with suppress(OSError):
        path = _made(key, name)
        make_private(path.parent)
        write_serial(path, name, key.id, serial)


def _made(key: PublicKey, name: str) -> Path:
    return user_folder("XDG_STATE_HOME", ".local/state", "signed") / memory_name(key.id, name)


def _check_clock(path: Path, key: PublicKey, last: int, own: int) -> None:
    """Check that this machine's clock agrees with the last serial, and with the dates of bundle and software.

    Args:
        own: the bundle's serial of before.

    Raises:
        InputError: it is behind them by more than a day, or a year ahead of the youngest file.
    """
    now, clock = int(time.time()), f"this machine's clock says {today()}"
    if last > now + DAY:
        when = f" of {day_of(last)}" if last < LAST_TIME else ""
        raise InputError(
            f"{path}: {clock}, and the last serial that key {key.name} gave to a bundle of this name is {last}{when}: "
            f"set the clock if it is behind. If that serial was a mistake, sign with --serial {now}; a site that "
            f"remembers it needs --serial {last + 1}"
        )
    dates = [(_written(path), f"{path} is of"), (_written(Path(__file__)), "this software was installed on")]
    if own < LAST_TIME:
        dates.append((own, "its last signature is of"))
    youngest, what = max(dates)
    if youngest > now + DAY:
        raise InputError(
            f"{path}: {clock}, but {what} {day_of(youngest)}: set the clock, or if it is right, sign with "
            f"--serial {now}"
        )
    if youngest < now - LONGEST_GAP:
        raise InputError(
            f"{path}: {clock}, and nothing here is younger than {day_of(youngest)}: a serial of the future cannot be "
            f"taken back; set the clock, or if it is right, sign with --serial {now}"
        )


def _written(path: Path) -> int:
    """When a file, or a bundle's folder, was written last, in seconds since 1970."""
    manifest = path / MANIFEST_NAME
    return int(max(place.stat().st_mtime for place in (path, manifest) if place.exists()))


def _said_by_sites(serial: int, last: int) -> str:
    """What sites will say to a serial that was asked for; empty for nothing."""
    if serial < last:
        return f"sites that saw serial {last} of this name refuse this one"
    if is_of_future(serial):
        return (
            f"read as a time, this serial is {day_of(serial)}: sites use the bundle and do not remember it; numbers of "
            "your own are best below 1000000000"
        )
    return ""


def _check_expires(day: str) -> None:
    if not day:
        return
    if not is_day(day):
        raise InputError(f"--expires {day}: give a day as YYYY-MM-DD, such as 2027-12-31")
    if day < today():
        raise InputError(f"--expires {day} is past; give today or a later day")
