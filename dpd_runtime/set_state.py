"""The state of a set that is written by several processes, on one or several machines."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from dpd_runtime.errors import InputError, OutputFolderError
from dpd_runtime.files import NO_FOLLOW, NO_LOCKS, FileLock, loads, open_regular, write_atomically
from dpd_runtime.images import read_pixels
from dpd_runtime.text import counted, differing

# -- Which blocks each process computes.


T = TypeVar("T")
MOST = 10_000


@dataclass(frozen=True)
class Shard:
    """Process `number` (from 0) of `count` that share the work. The resulting set does not depend on `count`."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Raises InputError for a shard that is out of range."""
        if not 1 <= self.count <= MOST:
            raise InputError(f"shard {self}: the number of shards must be 1 … {MOST}")
        if not 0 <= self.number < self.count:
            raise InputError(f"shard {self}: shards count from 0, so the last one is {self.count - 1}/{self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def file_part(self) -> str:
        """The part of file names for this shard."""
        return f"{self.number}-of-{self.count}"

    def of(self, blocks: Sequence[T]) -> list[T]:
        """This shard's blocks: every count-th one. Shards differ by one block at most."""
        return list(blocks[self.number :: self.count])


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """Parse i/n, as in `--shard 0/4`.

    Raises:
        InputError: another form, or out of range.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if match is None:
        raise InputError(f"--shard {text}: write i/n, for example 0/4 for the first of four")
    return Shard(int(match[1]), int(match[2]))


# -- The state of an unfinished set: its finished images as JSON lines. It stays readable if the process is killed.


DATASET_NAME = "dataset.json"
METADATA_NAME = "metadata.jsonl"
STATE_NAME = "state.jsonl"
SHARD_STATE = re.compile(r"state-\d+-of-\d+\.jsonl")


def other_settings(out: Path, header: dict[str, Any], wanted: dict[str, Any]) -> OutputFolderError:
    """The error for a set whose header differs."""
    different = differing(key for key in {**wanted, **header} if header.get(key) != wanted.get(key))
    return OutputFolderError(out, f"holds a set made with {different}", removable=True)


def _records(lines: list[str]) -> Iterator[dict[str, Any]]:
    """The records up to the first damaged line."""
    for line in lines:
        try:
            record = loads(line)
        except ValueError:
            return
        if not isinstance(record, dict) or type(record.get("index")) is not int or "file_name" not in record:
            return
        yield record


class State:
    """Finished images as JSON lines after a header line. An incomplete last line is ignored.

    The set has one state file. Each shard appends to its own file. The next process that starts or ends without others
    at work merges these files into the first.
    """

    def __init__(
        self, out: Path, header: dict[str, Any], ipc: int, shard: Shard = WHOLE, *, alone: bool = True
    ) -> None:
        """Args:
            alone: whether no other process works on the set.

        Raises:
            OutputFolderError: another header, or more than `ipc` images per class.
        """
        self.out, self.path = out, out / STATE_NAME
        self.header: dict[str, Any] = json.loads(json.dumps(header, allow_nan=False))
        self.records: dict[str, dict[str, Any]] = {}
        self._add(self._common())
        self.read_shards()
        if any(record["index"] >= ipc for record in self.records.values()):
            raise OutputFolderError(out, f"holds more than {counted(ipc, 'image')} per class", removable=True)
        if alone:
            self.join_shards()
        elif not (out / STATE_NAME).exists():  # others have come, but none has started
            self._write(out / STATE_NAME, list(self.records.values()))
        if shard != WHOLE:
            self.path = out / f"state-{shard.file_part}.jsonl"
            self._write(self.path, self._lines(self.path)[1:])  # without an incomplete last line

    def read_shards(self) -> None:
        """Read the images that other shards have finished.

        Raises:
            OutputFolderError: a shard has another header.
        """
        for path in self._shard_files():
            self._add(self._lines(path))

    def join_shards(self) -> None:
        """Merge the files of the shards into the set's file. No other process may be at work."""
        self._write(self.out / STATE_NAME, list(self.records.values()))
        for path in self._shard_files():
            path.unlink()

    def _shard_files(self) -> list[Path]:
        return sorted(path for path in self.out.iterdir() if SHARD_STATE.fullmatch(path.name))

    def _add(self, lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        if lines[0] != self.header:
            raise other_settings(self.out, lines[0], self.header)
        self.records |= {record["file_name"]: record for record in lines[1:]}

    def _common(self) -> list[dict[str, Any]]:
        """Header and records of the unfinished set, else of a finished set, which may be extended."""
        lines = self._lines(self.out / STATE_NAME)
        if lines or not (self.out / DATASET_NAME).exists():
            return lines
        finished = loads((self.out / DATASET_NAME).read_text(encoding="utf-8"))
        kept = []
        if (self.out / METADATA_NAME).exists():
            kept = (self.out / METADATA_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
        return [finished.get("made_with", {}), *_records(kept)]

    def _lines(self, path: Path) -> list[dict[str, Any]]:
        """Header and records of a state file; empty without a header."""
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        try:
            return [loads(lines[0]), *_records(lines[1:])]
        except (ValueError, IndexError):
            return []

    def _write(self, path: Path, records: list[dict[str, Any]]) -> None:
        lines = [self.header, *records]
        write_atomically(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())

    def append(self, records: list[dict[str, Any]]) -> None:
        """Add finished images, on the disk when this returns."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_FOLLOW, 0o666)
        with os.fdopen(descriptor, "ab") as handle:
            handle.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode())
            handle.flush()
            os.fsync(handle.fileno())
        self.records |= {record["file_name"]: record for record in records}

    def intact(self, out: Path, name: str) -> bool:
        """Whether the image `name` is finished and its file has the recorded pixels."""
        record = self.records.get(name)
        pixels = read_pixels(out / name) if record else None
        if record is None or pixels is None:
            return False
        return bool(hashlib.sha256(pixels.tobytes()).hexdigest() == record.get("pixels_sha256"))


# -- Locks of the processes in a folder: one while a process works, and one while it starts or ends.


TURN = ".lock"
LOCK_FILE = re.compile(r"\.lock(-(\d+)-of-(\d+))?")


class Worker:
    """A process that works on `shard` in the existing folder `out`.

    >>> with Worker(out, shard) as worker:
    ...     with worker.turn(): ...  # no other process starts or ends now
    """

    def __init__(self, out: Path, shard: Shard) -> None:
        self._out, self._shard = out, shard
        self._turn = FileLock(out / TURN)
        self._work = FileLock(out / f"{TURN}-{shard.file_part}")

    def __enter__(self) -> "Worker":
        """Raises:
        OutputFolderError: a process works on the same shard, on the whole set, or with another number of shards.
        OSError: no such folder, or a file system without locks.
        """
        with self.turn():
            for other in self._at_work():
                if other == self._shard or other.count != self._shard.count:
                    said = f"is being written by another dpd generate ({self._said(other)}); wait until it ends"
                    raise OutputFolderError(self._out, said)
            self._work.acquire(about=f"pid {os.getpid()} on {platform.node()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # the folder may be gone; the lock ends with the process
            self._work.release()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Start or end while no other process does: wait for others, and make others wait."""
        try:
            self._turn.acquire(wait=True)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise OSError(error.errno, "this file system has no locks; choose a folder on another one") from error
            raise
        try:
            yield
        finally:
            with suppress(OSError):
                self._turn.release()

    def alone(self) -> bool:
        """Whether no other process is at work. Call it within `turn`."""
        return not any(other != self._shard for other in self._at_work())

    def leave(self) -> None:
        """End the work. Call it within `turn`, so that the next process in its turn does not count this one."""
        self._work.release()

    def _at_work(self) -> list[Shard]:
        """Shards with a running process. Lock files of ended processes are removed."""
        living = []
        for path in sorted(self._out.iterdir()):
            match = LOCK_FILE.fullmatch(path.name)
            if match is None or path.name == TURN:
                continue
            shard = Shard(int(match[2]), int(match[3]))
            lock = FileLock(path)
            if (shard == self._shard and self._work.held) or not lock.acquire():
                living.append(shard)
            else:
                lock.release()
        return living

    def _said(self, shard: Shard) -> str:
        try:
            with open_regular(self._out / f"{TURN}-{shard.file_part}", follow=False) as file:
                said = file.read(200).decode("utf-8", "replace").strip()
        except OSError:
            said = ""
        kind = "the whole set" if shard.count == 1 else f"shard {shard}"
        return f"{kind}, {said}" if said else kind
