"""What a terminal does to a command: Ctrl-C, and standard streams that are closed, full, or of a terminal that is gone.

The first Ctrl-C ends the command where it can be continued, the second one at once. A closed terminal is a first.
Python raises KeyboardInterrupt wherever it happens to be. In a library's `__del__` or callback it is lost, and the
command would go on for hours. So the handler remembers it, and `check` raises it again between two steps.

What a command says about its progress must not end it, as after hours of training in a terminal that is gone. Results
are another matter: where nobody can read them, the exit code says so.
"""

import errno
import io
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import TextIO

INTERRUPTED = 130
RESULTS = "standard output"
GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ENOSPC)
"""Numbers of errors of a stream that nobody reads: a pipe's other end, a terminal, a disk under `> file`."""
_asked = False


def install() -> None:
    """Handle SIGINT and SIGHUP, unless ignored as under nohup, and SIGTERM; torchrun handles the last two itself."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _handle)
    if "WORLD_SIZE" in os.environ:  # it ends its processes itself, also in a call that no handler interrupts
        return
    signal.signal(signal.SIGTERM, _handle)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hang_up)


def check() -> None:
    """Raise KeyboardInterrupt if one was lost. Whatever does many steps calls this between them."""
    if _asked:
        raise KeyboardInterrupt


def _hang_up(number: int, frame: FrameType | None) -> None:
    """Handle a terminal that is closed: its shell and the system tell each process of it, which is one wish."""
    if not _asked:
        _handle(number, frame)


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        with suppress(OSError):  # a terminal that is gone
            os.write(2, b"dpd: left at once; what was finished is kept\n")
        os._exit(INTERRUPTED)
    _asked = True
    raise KeyboardInterrupt


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


def prepare_streams() -> None:
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
