"""What every command prints in the same way: progress on stderr, one JSON object on stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Update = Callable[[int, int], None]
"""(done, total) → None."""


def print_json(content: dict[str, Any]) -> None:
    """Exactly one JSON object on stdout."""
    sys.stdout.write(json.dumps(content) + "\n")


@contextmanager
def stage_progress() -> Iterator[Callable[[str], Update]]:
    """Progress of named stages, each with its own remaining time, on stderr; lines where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _line_progress
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
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def stage(title: str) -> Update:
            task = bars.add_task(title, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield stage


@contextmanager
def progress_bar(title: str) -> Iterator[Update]:
    """Progress of a command that is one stage."""
    with stage_progress() as stage:
        yield stage(title)


def _line_progress(title: str) -> Update:
    """A line after half a minute, then one each half a minute; resumed work does not count as done in no time."""
    printed = time.monotonic()
    first: tuple[float, int] | None = None

    def update(done: int, total: int) -> None:
        nonlocal printed, first
        now = time.monotonic()
        if first is None:
            first = (now, done)
        if now - printed >= 30 and done > first[1]:
            left = (now - first[0]) / (done - first[1]) * (total - done)
            print(f"{title}: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)
            printed = now

    return update
