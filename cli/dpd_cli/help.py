"""`--help`: plain text under headings."""

import inspect
import os
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from dpd_cli.config_file import OPTION
from dpd_runtime.files import naming

DEBUG = "--debug"
DEBUG_HELP = (DEBUG, "Show the traceback of an error.")
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


class Verb(TyperCommand):
    """A command whose help is plain text under headings. No name of an option is cut, at any width.

    The error of a full disk that names no file, as of libraries that write by themselves, names the command's --out.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        out = ctx.params.get("out")
        with naming(out) if isinstance(out, Path) else nullcontext():
            return super().invoke(ctx)

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
        own = [(f"{OPTION} FILE", "Read options from a TOML file. The command line wins."), DEBUG_HELP]
        rows["Options"][-1:-1] = own  # before --help
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
        rows["Options"].insert(-1, DEBUG_HELP)
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
    wide = min(28, max(len(names) for entries in rows.values() for names, _ in entries))
    for heading, entries in rows.items():
        if not entries:
            continue
        with formatter.section(_bold(heading)):
            for names, text in entries:
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
