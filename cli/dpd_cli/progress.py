"""Progress on stderr: bars in a terminal, plain lines elsewhere, and log lines above them."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from dpd_cli import interrupts

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Update = Callable[[int, int], None]
"""(done, total) → None."""
SAMPLE = 3.0  # seconds of a stage from which its end is estimated
LONG = 20.0  # seconds; shorter stages leave no line where no bar can be drawn
EVERY = 60.0  # seconds between two lines there


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
    """When a stage ends, from its first steps. Work of an earlier session does not count.

    elapsed: seconds since the first step of this session.
    """

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None
        self.elapsed = 0.0

    def words(self, done: int, total: int) -> str:
        """`done about 18:26`, or `in 5 min` at the end; nothing while nothing is known."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = (now, done)
        began, before = self._begun
        self.elapsed = now - began
        if done >= total:
            return f"in {duration(self.elapsed)}"
        if done - before < 2 or self.elapsed < SAMPLE:
            return ""
        return f"done about {time_of_day(self.elapsed / (done - before) * (total - done))}"


def duration(seconds: float) -> str:
    """Say how long something takes: `40 s`, `5 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def beside_idle(seconds: float, idle: float | None) -> str:
    """Say what takes `seconds` at the present load would take on idle cores, where that is clearly less."""
    if idle is None or idle > 0.9 * seconds:
        return ""
    return f" beside other programs, {duration(idle)} on idle cores"


def time_of_day(seconds: float) -> str:
    """The local time in so many seconds: `18:26`, or `Fri 18:26` on another day."""
    now = datetime.now()
    then = now + timedelta(seconds=seconds)
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%a %H:%M}"


@contextmanager
def stage_progress() -> Iterator[Callable[[str], Update]]:
    """Show the progress of named stages on stderr: one line each in a terminal, otherwise a line a minute."""
    if not sys.stderr.isatty():
        yield _line_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield lambda title: _bar(bars, title)


class NumberedStages:
    """Stages by their place among those that will run, which are announced first; others keep their titles."""

    def __init__(self, stages: Callable[[str], Update]) -> None:
        self._stages, self._ahead = stages, list[str]()

    def announce(self, ahead: Mapping[str, str]) -> None:
        """Print the stages that are new, with what they are for.

        Args:
            ahead: title → meaning of all stages of the run, in their order.
        """
        known, self._ahead = self._ahead, list(ahead)
        for title, meaning in ahead.items():
            if title not in known:
                print(f"{self._numbered(title)}, {meaning}", file=sys.stderr, flush=True)

    def __call__(self, title: str) -> Update:
        return self._stages(self._numbered(title))

    def _numbered(self, title: str) -> str:
        if title not in self._ahead:
            return title
        return f"stage {self._ahead.index(title) + 1} of {len(self._ahead)}: {title}"


def _bar(bars: "Progress", title: str) -> Update:
    """Add a bar when the stage begins."""
    pace = _Pace()
    task: TaskID | None = None

    def update(done: int, total: int) -> None:
        nonlocal task
        interrupts.check()
        words = pace.words(done, total)
        if task is None:
            task = bars.add_task(title, total=total, completed=done, words=words)
        bars.update(task, completed=done, total=total, words=words)

    return update


@contextmanager
def progress_bar(title: str) -> Iterator[Update]:
    """Show the progress of a command with one stage."""
    with stage_progress() as stage:
        yield stage(title)


def _line_progress(title: str) -> Update:
    """Print a line a minute, and one at the end of a long stage."""
    pace, printed, ended = _Pace(), time.monotonic(), False

    def update(done: int, total: int) -> None:
        nonlocal printed, ended
        interrupts.check()
        words, now = pace.words(done, total), time.monotonic()
        due = pace.elapsed >= LONG and not ended if done >= total else now - printed >= EVERY
        if words and due:
            print(f"{title}: {done}/{total}, {words}", file=sys.stderr, flush=True)
            printed = now
        ended = done >= total  # a count that is rounded reaches its end more than once

    return update
