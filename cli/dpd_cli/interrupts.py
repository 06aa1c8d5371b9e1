"""Ctrl-C: the first ends the command where it can be continued, the second one at once. A closed terminal is a first.

Python raises KeyboardInterrupt wherever it happens to be. In a library's `__del__` or callback it is lost, and the
command would go on for hours. So the handler remembers it, and `check` raises it again between two steps.
"""

import os
import signal
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130
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
