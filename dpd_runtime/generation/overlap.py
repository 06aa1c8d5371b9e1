"""What can go on beside the networks' calls, in a thread and a bounded queue.

ONNX Runtime, zlib and fsync let go of Python's lock. Order and results are those of doing one thing after another.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
WAITING = 2  # blocks: memory stays constant


def ahead(items: Iterable[T], make: Callable[[T], U]) -> Iterator[tuple[T, U]]:
    """(item, make(item)) in the order of the items. A thread makes the next one; items are asked for one earlier."""
    with ThreadPoolExecutor(1, "dpd-ahead") as thread:
        waiting: deque[tuple[T, Future[U]]] = deque()
        for item in items:
            waiting.append((item, thread.submit(make, item)))
            if len(waiting) > 1:
                item, made = waiting.popleft()
                yield item, made.result()
        for item, made in waiting:
            yield item, made.result()


@contextmanager
def writing_behind(write: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """A function that hands an item to a thread which calls `write`, in order.

    It waits while WAITING items are not written, and raises what `write` raised; nothing is written after that. When
    the block ends, also by an interrupt, what was handed over is written first.
    """
    with ThreadPoolExecutor(1, "dpd-write") as thread:
        waiting: deque[Future[None]] = deque()
        broken = False

        def once(item: T) -> None:
            nonlocal broken
            if broken:
                return
            try:
                write(item)
            except BaseException:
                broken = True
                raise

        def put(item: T) -> None:
            while waiting and (len(waiting) >= WAITING or waiting[0].done()):
                waiting.popleft().result()
            waiting.append(thread.submit(once, item))

        yield put
        for written in waiting:
            written.result()
