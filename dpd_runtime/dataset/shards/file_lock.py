"""A lock on a file that the kernel lets go of when its holder ends, however it ends."""

import errno
import os
from pathlib import Path


class FileLock:
    """An exclusive lock (flock; on NFS a lock of the server). The file goes when it is released; a kill leaves it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, *, wait: bool = False, about: str = "") -> bool:
        """Whether it is ours now.

        Args:
            about: what stands in the file for others to read.

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
                if error.errno != errno.ESTALE:  # NFS: removed by its holder on another machine; the next one is new
                    raise
            finally:
                if self._descriptor != descriptor:
                    os.close(descriptor)

    def _is_still(self, descriptor: int) -> bool:
        """Whether the name still means this file: its last holder has removed it, perhaps before we got the lock."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))  # noqa: PTH116 - both are descriptors' stats
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Raises:
        OSError: the folder has gone, or can no longer be written.
        """
        if self._descriptor is None:
            return
        try:
            self.path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)
            self._descriptor = None
