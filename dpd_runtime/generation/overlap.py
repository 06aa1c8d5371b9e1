"""Work in a second thread while networks are called, with a bounded queue.

ONNX Runtime, zlib and fsync release Python's lock. Order and results are the same as in one thread.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
WAITING = 2  # items in the queue, so that memory stays constant


def ahead(items: Iterable[T], make: Callable[[T], U]) -> Iterator[tuple[T, U]]:
    """Yield (item, make(item)) in order. A second thread makes the next one in advance."""
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
    """Yield a function that passes items to a second thread, which calls `write` in order.

    The function waits while WAITING items are unwritten. It raises what `write` raised; nothing is written after that.
    At the end of the block, also after an interrupt, all items that were passed are written first.
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
