"""Files that are written whole or not at all, and the user's cache folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write and seek in, beside `path`; it takes its place when the block ends without an error.

    A kill leaves the old file or the new one, and perhaps one with the suffix .partial.
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
    """Write beside `path`, flush to the disk, rename. A kill leaves the old file or the new one."""
    with open_atomically(path) as handle:
        handle.write(content)


def cache_folder(name: str) -> Path:
    """$XDG_CACHE_HOME/dpd/NAME, or ~/.cache/dpd/NAME; not made here."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "dpd" / name
