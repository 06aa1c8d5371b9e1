"""The terminal: results on stdout, progress on stderr, interrupts."""

import errno
import io
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from dpd_runtime.errors import DpdError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from dpd_export.engines import BuildProgress, BuiltEngine
    from dpd_runtime.bundle import Bundle
    from dpd_runtime.sampler import Sampler


# -- What commands print: one JSON object, tables, lines about a bundle and its engines.


NOT_RUN = "dpd generate of this version runs the ONNX graphs"


class Interrupted(DpdError):
    """Ctrl-C in a command that says itself how it continues."""

    exit_code = 130

    def __init__(self, way_on: str) -> None:
        super().__init__(f"interrupted; continue with: {way_on}")


def print_json(content: dict[str, Any]) -> None:
    """Print exactly one JSON object on stdout."""
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")


def table(texts: tuple[str, ...], numbers: tuple[str, ...]) -> "Table":
    """Make an empty table: columns of text on the left, columns of numbers on the right. No cell is cut."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in texts:
        made.add_column(heading, overflow="fold")
    for heading in numbers:
        made.add_column(heading, justify="right", overflow="fold")
    return made


def print_table(console: "Console", title: str, made: "Table") -> None:
    """Print a table below its title."""
    console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(made)


def signature_facts(bundle: "Bundle") -> dict[str, Any]:
    """Return what --json tells about the signature."""
    signature = bundle.signature
    return {
        "signature": signature.describe(),
        "key_id": signature.key_id,
        "trusted": signature.trusted,
        "serial": bundle.manifest.serial,
        "expires": bundle.manifest.expires,
        "serial_remembered": bundle.remembered,
    }


def freshness_lines(bundle: "Bundle") -> list[str]:
    """Say which serial and expiry a signed bundle has; nothing for one that no trusted key signed."""
    from dpd_runtime.trust import day_of, is_of_future, newest_serial, place_of_trust, today

    manifest = bundle.manifest
    if not bundle.signature.trusted:
        return []
    if not manifest.serial:
        return ["no serial: this site cannot tell whether there is a newer one"]
    end = f", until {manifest.expires}" if manifest.expires else ""
    if (newest := newest_serial(bundle.signature, manifest.name)) > manifest.serial:
        return [f"serial {manifest.serial}{end}, older than {newest}, which stays the newest of this name here"]
    if bundle.remembered:
        return [f"serial {manifest.serial}{end}; from now on older ones of this name are refused here"]
    if is_of_future(manifest.serial):
        return [
            f"serial {manifest.serial}{end}; not remembered, as it was signed on {day_of(manifest.serial)} by the "
            f"signer's clock, and this machine's says {today()}: set the one that is wrong"
        ]
    return [f"serial {manifest.serial}{end}; not remembered: {place_of_trust()} cannot be written"]


def prototype_ranges(sampler: "Sampler") -> list[str]:
    """Say which images of a class are decoded and which are re-noised; nothing if all are sampled."""
    from dpd_runtime.sampler import BLOCK

    guidance = sampler.guidance
    if not guidance[0].decodes:
        return []
    ends = [BLOCK * later.from_block for later in guidance[1:]]
    decoded = "its prototypes, decoded and turned by the seed"
    if not ends:
        return [f"all those of a class are {decoded}"]
    lines = [f"0 to {ends[0] - 1} of a class are {decoded}"]
    if guidance[1].begins_at_prototypes:
        last = f"{ends[0]} to {ends[1] - 1}" if len(ends) > 1 else f"from {ends[0]} on"
        lines.append(f"{last} are the same, re-noised")
    return lines


def print_engines(result: dict[str, Any]) -> None:
    """Say what was built and how well it is tested."""
    from dpd_runtime.engine_files import LABELS

    made = f"{len(result['engines'])} by {result['flavour']} {result['builder_version']}"
    print(f"engines     {made}: {LABELS[result['flavour']]}; {NOT_RUN}")


def engine_lines() -> "BuildProgress":
    """Print two lines on stderr for each engine: what is being built, and what it took."""
    started = time.monotonic()

    def tell(done: int, total: int, coming: str, built: "BuiltEngine | None") -> None:
        left = f", about {(time.monotonic() - started) / done * (total - done):.0f} s left" if 0 < done < total else ""
        if built is not None:
            sizes = f"peak memory {built.peak_memory / 1e6:.0f} MB, engine {built.bytes / 1e6:.1f} MB"
            print(f"  {built.seconds:.0f} s, {sizes}{left}", file=sys.stderr, flush=True)
        if coming:
            print(f"engine {done + 1}/{total}: {coming}", file=sys.stderr, flush=True)

    return tell


# -- Progress on stderr: bars in a terminal, plain lines elsewhere, and log lines above them.


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


def tell(line: str) -> None:
    """Print a line about a long command on stderr."""
    check()
    print(line, file=sys.stderr, flush=True)


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
        check()
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
        check()
        words, now = pace.words(done, total), time.monotonic()
        due = pace.elapsed >= LONG and not ended if done >= total else now - printed >= EVERY
        if words and due:
            print(f"{title}: {done}/{total}, {words}", file=sys.stderr, flush=True)
            printed = now
        ended = done >= total  # a count that is rounded reaches its end more than once

    return update


# -- What a terminal does to a command: Ctrl-C, and standard streams that are closed, full, or of a terminal that is
# gone.
#
# The first Ctrl-C ends the command where it can be continued, the second one at once. A closed terminal is a first.
# Python raises KeyboardInterrupt wherever it happens to be. In a library's `__del__` or callback it is lost, and the
# command would go on for hours. So the handler remembers it, and `check` raises it again between two steps.
#
# What a command says about its progress must not end it, as after hours of training in a terminal that is gone. Results
# are another matter: where nobody can read them, the exit code says so.


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
