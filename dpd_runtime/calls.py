"""Native calls that an interrupt ends. Python's handlers run in the main thread, and only between its own instructions:
a network called there would keep Ctrl-C waiting until the call has returned.
"""

import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


T = TypeVar("T")
THREADS = 8
"""For calls of the main thread, which come one at a time; after an interrupt an earlier one may still run."""
_running: dict[object, Callable[[], object]] = {}
"""How each call that is running now is told to stop."""


@lru_cache(maxsize=1)
def _threads(pid: int) -> "ThreadPoolExecutor":
    """Threads of this process, which wait for the next call: one that is made for each call costs half a millisecond,
    as the libraries' buffers belong to it. A fork has none of them."""
    from concurrent.futures import ThreadPoolExecutor  # here, as --help imports this module

    return ThreadPoolExecutor(THREADS, "dpd-call")


def interruptible(call: Callable[[], T], stop: Callable[[], object] = lambda: None) -> T:
    """Call `call`. From the main thread it is called in another one, while the main thread waits for signals.

    Args:
        stop: asks a running call to end soon. All running calls are asked if an interrupt comes.
    """
    if threading.current_thread() is not threading.main_thread():
        return listed(call, stop)
    from queue import SimpleQueue  # here, as --help imports this module

    returned: SimpleQueue[T] = SimpleQueue()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.put(listed(call, stop))
        except BaseException as error:
            raised.append(error)
            returned.put(None)  # type: ignore[arg-type]

    _threads(os.getpid()).submit(work)
    try:
        result = returned.get()
    except BaseException:  # what a signal's handler raised
        stop_calls()
        raise
    if raised:
        raise raised.pop()
    return result


def listed(call: Callable[[], T], stop: Callable[[], object]) -> T:
    """Call `call`, which an interrupt ends by itself; `stop_calls` ends it too."""
    key = object()
    _running[key] = stop
    try:
        return call()
    finally:
        del _running[key]


def stop_calls(seconds: float = 0) -> bool:
    """Ask all running calls to end, and wait up to `seconds`. Returns whether none is left.

    A call that is within one large operator goes on until that ends; only the end of the process stops it.
    """
    until = time.monotonic() + seconds
    while True:
        for stop in list(_running.values()):
            stop()
        if not _running or time.monotonic() >= until:
            return not _running
        time.sleep(0.01)
