"""Locks of the processes in a folder: one while a process works, and one while it starts or ends."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from dpd_runtime.dataset.shards.shard import Shard
from dpd_runtime.errors import OutputFolderError
from dpd_runtime.file_lock import NO_LOCKS, FileLock
from dpd_runtime.files import open_regular

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
