"""Who works in a folder. Two kinds of locks: one for as long as a process works, one while it looks around or ends."""

import errno
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from dpd_runtime.dataset.shards.file_lock import FileLock
from dpd_runtime.dataset.shards.shard import Shard
from dpd_runtime.errors import OutputFolderError

TURN = ".lock"
LOCK_FILE = re.compile(r"\.lock(-(\d+)-of-(\d+))?")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Worker:
    """A process that works on `shard` in the folder `out`, which exists.

    >>> with Worker(out, shard) as worker:
    ...     with worker.turn(): ...  # nobody else begins or ends now
    """

    def __init__(self, out: Path, shard: Shard) -> None:
        self._out, self._shard = out, shard
        self._turn = FileLock(out / TURN)
        self._work = FileLock(out / f"{TURN}-{shard.file_part}")

    def __enter__(self) -> "Worker":
        """Raises:
        OutputFolderError: somebody works on the same shard, on the whole set, or on another number of shards.
        OSError: no locks, or no such folder.
        """
        with self.turn():
            for other in self._at_work():
                if other == self._shard or other.count != self._shard.count:
                    said = f"is being written by another dpd generate ({self._said(other)}), let it end"
                    raise OutputFolderError(self._out, said)
            self._work.acquire(about=f"pid {os.getpid()} on {platform.node()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # the folder may have gone; the lock goes with the process
            self._work.release()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the others to begin or end, and make them wait."""
        try:
            self._turn.acquire(wait=True)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise OSError(error.errno, "this file system has no locks, take a folder on another one") from error
            raise
        try:
            yield
        finally:
            with suppress(OSError):
                self._turn.release()

    def alone(self) -> bool:
        """Whether nobody else is at work; asked in our turn."""
        return not any(other != self._shard for other in self._at_work())

    def leave(self) -> None:
        """End, in our turn: who asks afterwards whether it is alone does not find us."""
        self._work.release()

    def _at_work(self) -> list[Shard]:
        """Shards whose process lives. The files of others are removed."""
        living = []
        for path in sorted(self._out.iterdir()):
            found = LOCK_FILE.fullmatch(path.name)
            if found is None or path.name == TURN:
                continue
            shard = Shard(int(found[2]), int(found[3]))
            lock = FileLock(path)
            if (shard == self._shard and self._work.held) or not lock.acquire():
                living.append(shard)
            else:
                lock.release()
        return living

    def _said(self, shard: Shard) -> str:
        try:
            said = (self._out / f"{TURN}-{shard.file_part}").read_text(encoding="utf-8").strip()
        except OSError:
            said = ""
        kind = "the whole set" if shard.count == 1 else f"shard {shard}"
        return f"{kind}, {said}" if said else kind
