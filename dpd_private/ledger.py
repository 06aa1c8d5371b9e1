"""The ledger: which images this user released before with a guarantee, and what all releases of an image cost.

It is kept where the user's other state is, not beside a distillation, so that deleting a bundle does not forget what
was handed out. It knows images by the bytes of their files: the same image in another encoding is another one here.
"""

import datetime
import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dpd_private.budget import spent
from dpd_runtime.errors import DiskError, InputError
from dpd_runtime.files import FileLock, read_object, user_folder, write_atomically

DIGITS = 16  # hexadecimal, of an image's hash


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One release.

    Args:
        identity: of the distillation, which may be interrupted and go on; 16 hexadecimal digits or so.
        date: such as 2026-11-27.
        mu: sensitivity / standard deviation of the noise: what one release costs (Gaussian differential privacy).
        images: the first DIGITS of the sha256 of each file, sorted.
    """

    identity: str
    date: str
    mu: float
    images: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What this release and earlier ones cost together, for the image that they cost most.

    Args:
        epsilon: at the delta that was asked for.
        earlier: releases before this one that had any of its images. shared: number of these images.
    """

    epsilon: float
    earlier: int
    shared: int


def ledger_folder() -> Path:
    """Return $XDG_STATE_HOME/dpd/releases or ~/.local/state/dpd/releases, without creating it."""
    return user_folder("XDG_STATE_HOME", ".local/state", "releases")


def entry_of(identity: str, mu: float, hashes: Iterable[str]) -> Entry:
    """The entry of a release of files with these sha256 (hex), made today."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Entry(identity=identity, date=today, mu=mu, images=tuple(sorted({digest[:DIGITS] for digest in hashes})))


def read_ledger(folder: Path) -> list[Entry]:
    """All entries, the oldest first.

    Raises:
        InputError: one is damaged, so that nobody knows what was spent.
    """
    entries = []
    way_out = "restore it from a backup: it says which images were released before"
    for path in sorted(folder.glob("*.json")):
        content = read_object(path, f"ledger of releases: {path}", way_out)
        try:
            entry = Entry(**{**content, "images": tuple(content["images"])})
            good = math.isfinite(entry.mu) and entry.mu > 0 and entry.identity == path.stem
            good = good and isinstance(entry.date, str) and isinstance(content["images"], list)
            good = good and all(isinstance(image, str) and len(image) == DIGITS for image in entry.images)
        except (TypeError, KeyError, ValueError):
            good = False
        if not good:
            raise InputError(f"ledger of releases: {path} is damaged; {way_out}")
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry.date)


def cost_of(entry: Entry, ledger: Sequence[Entry], delta: float) -> Cost:
    """What `entry` costs together with all others of the ledger.

    Releases with Gaussian noise of μ₁, μ₂, … cost as much as one of √(μ₁² + μ₂² + …) (Dong, Roth & Su 2022, section 3),
    also where a later one is chosen by what an earlier one showed.
    """
    own, squares, earlier = set(entry.images), dict[str, float](), 0
    for known in ledger:
        common = own & set(known.images) if known.identity != entry.identity else set()
        earlier += bool(common)
        for image in common:
            squares[image] = squares.get(image, 0.0) + known.mu**2
    together = math.sqrt(entry.mu**2 + max(squares.values(), default=0.0))
    return Cost(spent(1.0, 1 / together, delta), earlier, len(squares))


def open_ledger(folder: Path) -> None:
    """Make the folder, which only this user can read.

    Raises:
        DiskError: it cannot be written. Then nothing may be released.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "no permission")
    except OSError as error:
        raise _unwritable(folder, error) from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep all others from the ledger, or wait for them: what is read in it stays true until the entry is written.

    Raises:
        DiskError: as `open_ledger`.
    """
    open_ledger(folder)
    lock = FileLock(folder / "ledger.lock")
    try:
        lock.acquire(wait=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def write_entry(folder: Path, entry: Entry) -> None:
    """Add an entry, within `alone`.

    Raises:
        DiskError: as `open_ledger`.
        RuntimeError: the ledger has this identity. To replace it would forget a release.
    """
    if (folder / f"{entry.identity}.json").exists():
        raise RuntimeError(f"the ledger of releases has {entry.identity}")
    try:
        write_atomically(
            folder / f"{entry.identity}.json", (json.dumps(asdict(entry), allow_nan=False) + "\n").encode()
        )
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{folder}: the ledger of releases cannot be written ({error.strerror or error}), so nothing was released; get "
        "the permission, or set XDG_STATE_HOME"
    )
