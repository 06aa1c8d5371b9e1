"""Options as fields of dataclasses, which the command line, presets and config files fill."""

from dataclasses import field, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

WITHHELD = "(withheld)"
"""What a record has in place of an option's value that must not leave the machine."""


def setting(default: Any, panel: str, help: str, metavar: str | None = None, *, study: bool = False) -> Any:
    """Make a field of a config. The command line makes an option from its metadata.

    Args:
        panel: heading in `--help`: Data, Model, Prototypes, Privacy, Running or Several machines.
        help: text of `--help`. The command line adds the default to it, so it says only what None stands for.
        metavar: what `--help` shows for the value, where neither the type nor a Literal's values do.
        study: whether only a study turns it: it is given as `--set NAME=VALUE` and has no option of its own.
    """
    return field(default=default, metadata={"help": help, "panel": panel, "metavar": metavar, "study": study})


@cache
def studied(config: type) -> tuple[str, ...]:
    """The fields of a config that are given as `--set NAME=VALUE`."""
    return tuple(one.name for one in fields(config) if one.metadata.get("study"))


@cache
def choices(config: type) -> dict[str, tuple[str, ...]]:
    """Return the accepted values of every field whose type is a Literal, an optional Literal or a tuple of them."""
    return {name: values for name, hint in get_type_hints(config).items() if (values := _literal(hint))}


def _literal(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((values for part in get_args(hint) if (values := _literal(part))), ())
