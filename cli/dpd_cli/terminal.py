"""What is printed: help, progress on stderr, tables, one JSON object on stdout."""

import inspect
import json
import logging
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from dpd_cli.config import OPTION
from dpd_runtime.errors import DpdError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from dpd_export.engines.new_bundle import BuildProgress, BuiltEngine
    from dpd_runtime.bundle.bundle import Bundle
    from dpd_runtime.sampling.sampler import Sampler

Update = Callable[[int, int], None]
"""(done, total) → None."""
SAMPLE = 3.0  # seconds of a stage from which its time is estimated
LONG = 20.0  # seconds; shorter stages are not announced
EVERY = 30.0  # seconds between two lines where no bar can be drawn
NOT_RUN = "dpd generate of this version runs the ONNX graphs"
PANELS = (
    "Data",
    "Images",
    "Sampling",
    "Model",
    "Steps",
    "Batches",
    "Learning rates",
    "Prototypes",
    "Bundle",
    "Engines",
    "Privacy",
    "Output",
    "Running",
    "Several machines",
    "Security",
)
"""Headings of options in `--help`, in this order; "Options" holds the rest."""


class Interrupted(DpdError):
    """Ctrl-C in a command that says itself how it continues."""

    exit_code = 130

    def __init__(self, way_on: str) -> None:
        super().__init__(f"interrupted; continue with: {way_on}")


class Verb(TyperCommand):
    """A command whose help is plain text under headings. No name of an option is cut, at any width."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """List the required options, `[OPTIONS]` and the arguments."""
        arguments = [p for p in self.params if p.param_type_name == "argument"]
        needed = [f"{p.opts[0]} {p.name.upper()}" for p in self.params if p not in arguments and p.required]
        named = [_names(p, ctx) if p.required else f"[{_names(p, ctx)}]" for p in arguments]
        return [*needed, "[OPTIONS]", *named]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description, then the examples line by line."""
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options of each panel."""
        rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Arguments", *PANELS, "Options")}
        for parameter in self.get_params(ctx):
            if not getattr(parameter, "hidden", False):
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                heading = getattr(parameter, "rich_help_panel", None) or kind
                rows[heading].append((_names(parameter, ctx), _help(parameter)))
        rows["Options"].insert(-1, (f"{OPTION} FILE", "Read options from a TOML file. The command line wins."))
        _write_rows(formatter, rows)


class Verbs(TyperGroup):
    """The list of commands under headings, each with its first sentence."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description."""
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each panel, then the options."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            if command := self.get_command(ctx, name):
                first = (command.help or "").split("\n\n")[0]
                rows.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append((name, first))
        rows["Options"] = [(_names(parameter, ctx), _help(parameter)) for parameter in self.get_params(ctx)]
        _write_rows(formatter, rows)


def _write_text(text: str, formatter: Any) -> None:
    text, _, examples = inspect.cleandoc(text).partition("\n\nExamples:\n")
    formatter.write_paragraph()
    formatter.write_text(text)
    if examples:
        with formatter.section(_bold("Examples")):
            for line in examples.splitlines():
                formatter.write(f"  {line.strip()}\n")


def _write_rows(formatter: Any, rows: dict[str, list[tuple[str, str]]]) -> None:
    """Write names and their texts, side by side; the text of a long name is below it. No word is broken."""
    wide = min(28, max(len(names) for found in rows.values() for names, _ in found))
    for heading, found in rows.items():
        if not found:
            continue
        with formatter.section(_bold(heading)):
            for names, text in found:
                lines = textwrap.wrap(text, formatter.width - wide - 4, break_on_hyphens=False, break_long_words=False)
                first = lines.pop(0) if len(names) <= wide and lines else ""
                formatter.write(f"  {names:<{wide}}  {first}".rstrip() + "\n")
                for line in lines:
                    formatter.write(f"{'':{wide + 4}}{line}\n")


def _bold(heading: str) -> str:
    return heading if os.environ.get("NO_COLOR") else typer.style(heading, bold=True)


def _names(parameter: Any, ctx: Any) -> str:
    """Return `--long METAVAR`, for an argument its metavar."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return str(parameter.get_help_record(ctx)[0]).replace(" / ", ", ")


def _help(parameter: Any) -> str:
    """Return the option's text, with its default unless the text states it."""
    words = " ".join((parameter.help or "").split())
    if parameter.required and parameter.param_type_name == "option":
        return f"{words} Required."
    if parameter.default in (None, "") or parameter.default is False or "Default:" in words or parameter.required:
        return words
    return f"{words} Default: {parameter.default}."


def print_json(content: dict[str, Any]) -> None:
    """Print exactly one JSON object on stdout."""
    sys.stdout.write(json.dumps(content) + "\n")


def table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> "Table":
    """Make an empty table: columns of text on the left, columns of numbers on the right."""
    from rich.table import Table

    made = Table(title=title)
    for heading in texts:
        made.add_column(heading)
    for heading in numbers:
        made.add_column(heading, justify="right")
    return made


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
    from dpd_runtime.bundle.trusted import trusted_folder

    manifest = bundle.manifest
    if not bundle.signature.trusted:
        return []
    if not manifest.serial:
        return ["no serial: this site cannot tell whether there is a newer one"]
    end = f", until {manifest.expires}" if manifest.expires else ""
    if bundle.remembered:
        return [f"serial {manifest.serial}{end}; from now on older ones of this name are refused here"]
    return [f"serial {manifest.serial}{end}; not remembered: {trusted_folder()} cannot be written"]


def prototype_ranges(sampler: "Sampler") -> list[str]:
    """Say which images of a class are decoded and which are re-noised; nothing if all are sampled."""
    from dpd_runtime.sampling.sampler import BLOCK

    guidance = sampler.guidance
    if not guidance[0].decodes:
        return []
    ends = [BLOCK * later.from_block for later in guidance[1:]]
    decoded = "of a class are its prototypes, decoded and turned by the seed"
    if not ends:
        return [f"all {decoded}"]
    lines = [f"0 to {ends[0] - 1} {decoded}"]
    if guidance[1].begins_at_prototypes:
        last = f"{ends[0]} to {ends[1] - 1}" if len(ends) > 1 else f"from {ends[0]} on"
        lines.append(f"{last} are the same, re-noised")
    return lines


def print_engines(result: dict[str, Any]) -> None:
    """Say what was built and how well it is tested."""
    from dpd_runtime.engines.record import LABELS

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
