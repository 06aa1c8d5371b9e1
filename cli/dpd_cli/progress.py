"""Progress on stderr: bars in a terminal, plain lines elsewhere, and log lines above them."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Update = Callable[[int, int], None]
"""(done, total) → None."""
SAMPLE = 3.0  # seconds of a stage from which its time is estimated
LONG = 20.0  # seconds; shorter stages are not announced
EVERY = 30.0  # seconds between two lines where no bar can be drawn


class _Console(logging.StreamHandler[TextIO]):
    """Log to the standard error of the moment: while bars are drawn, rich puts lines above them."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


def log_to_console(level: int = logging.INFO) -> None:
    """Show log records as lines on stderr, with the time of day."""
    logging.basicConfig(level=level, handlers=[_Console()], format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


class _Pace:
    """How long a stage takes, from its first steps. Work of an earlier session does not count."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._begun: tuple[float, int] | None = None
        self._told = False

    def remaining(self, done: int, total: int) -> float | None:
        """Return the seconds to come; None while nothing is known."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = (now, done)
        began, before = self._begun
        if done - before < 2 or now - began < SAMPLE:
            return None
        return (now - began) / (done - before) * (total - done)

    @property
    def elapsed(self) -> float:
        """Seconds since the first step of this session."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun[0]

    def estimate(self, done: int, total: int) -> str | None:
        """Return a line about the whole stage, once, if it takes long."""
        left = self.remaining(done, total)
        if self._told or left is None:
            return None
        self._told = True
        whole = self.elapsed + left
        return f"{self.title} takes about {duration(whole)}" if whole >= LONG else None


def duration(seconds: float) -> str:
    """Say how long something takes: `40 s`, `5 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@contextmanager
def stage_progress() -> Iterator[Callable[[str], Update]]:
    """Show the progress of named stages on stderr: one bar each in a terminal, otherwise lines."""
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

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as bars:
        yield lambda title: _bar(bars, title)


def _bar(bars: "Progress", title: str) -> Update:
    """Add a bar when the stage begins. Its rate is measured from there on, not from the work of earlier sessions."""
    pace = _Pace(title)
    task: TaskID | None = None

    def update(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            task = bars.add_task(title, total=total, completed=done)
        bars.update(task, completed=done, total=total)
        if line := pace.estimate(done, total):
            bars.console.print(line, highlight=False, markup=False)

    return update


@contextmanager
def progress_bar(title: str) -> Iterator[Update]:
    """Show the progress of a command with one stage."""
    with stage_progress() as stage:
        yield stage(title)


def _line_progress(title: str) -> Update:
    """Print the estimate of the stage's time, then a line every half minute."""
    pace, printed = _Pace(title), time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal printed
        line, left = pace.estimate(done, total), pace.remaining(done, total)
        if line is None and left is not None and time.monotonic() - printed >= EVERY:
            line = f"{title}: {done}/{total}, elapsed {duration(pace.elapsed)}, remaining about {duration(left)}"
        if line:
            print(line, file=sys.stderr, flush=True)
            printed = time.monotonic()

    return update
