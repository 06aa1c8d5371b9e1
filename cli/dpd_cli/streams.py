"""Standard streams that are closed, full, or of a terminal that is gone.

What a command says about its progress must not end it, as after hours of training in a terminal that is gone. Results
are another matter: where nobody can read them, the exit code says so.
"""

import errno
import io
import os
import sys
from typing import TextIO

RESULTS = "standard output"
GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ENOSPC)
"""Numbers of errors of a stream that nobody reads: a pipe's other end, a terminal, a disk under `> file`."""


class _Stream(io.RawIOBase):
    """Standard output or error. Once it cannot be written it goes nowhere; the first loss of output is an error."""

    def __init__(self, number: int) -> None:
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, content: object) -> int:
        try:
            return os.write(self._number, content)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno not in GONE:
                raise
            _discard(self._number)
            if self._number == 1:
                raise OSError(error.errno, error.strerror, RESULTS) from None
        return len(memoryview(content))  # type: ignore[arg-type]


def prepare() -> None:
    """Make the streams of this process ready.

    Those that are closed go nowhere, so that no file that is opened later gets their numbers. Standard error outlasts
    its reader. Letters that a terminal lacks, as of class names, are shown by their codes.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _discard(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 -- for as long as the process
    if os.name == "posix":  # a console of Windows takes other letters
        sys.stdout, sys.stderr = _outlasting(sys.stdout, 1), _outlasting(sys.stderr, 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _outlasting(stream: TextIO, number: int) -> TextIO:
    """The same stream through `_Stream`; unchanged in a program that has its own, such as a notebook."""
    try:
        if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != number:
            return stream
    except (OSError, ValueError):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Stream(number)),
        encoding=stream.encoding,
        line_buffering=stream.line_buffering or number == 2,
        write_through=stream.write_through,
    )


def _discard(number: int) -> None:
    """Let a stream go nowhere from now on."""
    target = os.open(os.devnull, os.O_RDWR)
    if target != number:
        os.dup2(target, number)
        os.close(target)
