"""Ctrl-C: the first ends the command where it can be continued, the second one at once.

Python raises KeyboardInterrupt wherever it happens to be. In a library's `__del__` or callback it is lost, and the
command would go on for hours. So the handler remembers it, and `check` raises it again between two steps.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130
_asked = False


def install() -> None:
    """Handle SIGINT, unless it is ignored as under nohup, and SIGTERM, which torchrun handles itself."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _handle)
    if "WORLD_SIZE" not in os.environ:  # it ends its processes itself, also in a call that no handler interrupts
        signal.signal(signal.SIGTERM, _handle)


def check() -> None:
    """Raise KeyboardInterrupt if one was lost. Whatever does many steps calls this between them."""
    if _asked:
        raise KeyboardInterrupt


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        os.write(2, b"dpd: left at once; what was finished is kept\n")
        os._exit(INTERRUPTED)
    _asked = True
    raise KeyboardInterrupt
