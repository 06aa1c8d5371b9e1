"""What every command prints in the same way: progress on stderr, one JSON object on stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def print_json(content: dict[str, Any]) -> None:
    """Exactly one JSON object on stdout."""
    sys.stdout.write(json.dumps(content) + "\n")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with remaining time on stderr; a line every half a minute where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _line_progress(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _line_progress(title: str) -> Callable[[int, int], None]:
    started = printed = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= 30 and done:
            left = (now - started) / done * (total - done)
            print(f"{title}: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)
            printed = now

    return update
