"""Files that are written completely or not at all, and the user's cache folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary binary file beside `path`, which replaces `path` when the block ends without an error.

    If the process is killed, `path` is the old file or the new one, and a file with the suffix .partial may remain.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` in one step. If the process is killed, it is the old file or the new one."""
    with open_atomically(path) as handle:
        handle.write(content)


def cache_folder(name: str) -> Path:
    """Return $XDG_CACHE_HOME/dpd/NAME or ~/.cache/dpd/NAME, without creating it."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "dpd" / name
