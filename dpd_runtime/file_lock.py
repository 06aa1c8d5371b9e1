"""A file lock that the kernel releases when its holder ends in any way."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dpd_runtime.errors import InputError, OutputLinkError
from dpd_runtime.files import NO_FOLLOW

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart there
    fcntl = None  # type: ignore[assignment]

KEEPS_APART = fcntl is not None
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers


class FileLock:
    """An exclusive lock (flock; on NFS a server lock). `release` deletes the file; a killed process leaves it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, *, wait: bool = False, about: str = "") -> bool:
        """Try to acquire the lock, or wait for it. Returns whether it is held.

        Args:
            about: text in the file for other processes.

        Raises:
            OSError: no such folder, a full or read-only disk, or a file system without locks.
            OutputLinkError: the path is a link or a special file. It is not changed.
        """
        while True:
            descriptor = self._open()
            try:
                self._check_file(descriptor)
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if self._is_still(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, about.encode())
                    self._descriptor = descriptor
                    return True
            except BlockingIOError:
                return False
            except OSError as error:
                if (
                    error.errno != errno.ESTALE
                ):  # NFS: its holder on another machine removed it; try again with a new file
                    raise
            finally:
                if self._descriptor != descriptor:
                    os.close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OutputLinkError(self.path) from None
            raise

    def _check_file(self, descriptor: int) -> None:
        """Refuse what locks of dpd never are: its text would be written elsewhere."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OutputLinkError(self.path, "a pipe, socket or device")
        if status.st_nlink > 1:
            raise OutputLinkError(self.path, "a hard link to another file")

    def _is_still(self, descriptor: int) -> bool:
        """Whether the path is still this file. Its last holder may have removed it before we got the lock."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock and delete the file.

        Raises:
            OSError: the folder is gone or read-only.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if fcntl is not None:  # before another process can lock it
                self.path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
        if fcntl is None:  # Windows deletes no open file
            self.path.unlink(missing_ok=True)


@contextmanager
def worked_in(folder: Path, command: str) -> Iterator[None]:
    """Keep other processes out of a folder in which `command` works. A killed process keeps nobody out, and where the
    file system has no locks nobody is kept out either.

    Raises:
        InputError: another process works there.
        OSError: no such folder, or it cannot be written.
    """
    lock = FileLock(folder / "session.lock")
    try:
        if not lock.acquire():
            raise InputError(f"{folder}: another {command} works there; wait until it ends, or stop it and go on then")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone; the lock ends with the process
            lock.release()
