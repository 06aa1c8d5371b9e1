"""A file lock that the kernel releases when its holder ends in any way."""

import errno
import os
from pathlib import Path


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
        """
        import fcntl

        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
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

    def _is_still(self, descriptor: int) -> bool:
        """Whether the path is still this file. Its last holder may have removed it before we got the lock."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))  # noqa: PTH116 - both are descriptors' stats
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock and delete the file.

        Raises:
            OSError: the folder is gone or read-only.
        """
        if self._descriptor is None:
            return
        try:
            self.path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)
            self._descriptor = None
