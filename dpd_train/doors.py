"""Doors: where other packages come in, each by the signature of one function (docs/guides/extend.md).

A package offers one by an entry point, in its pyproject.toml:

    [project.entry-points."dpd.students"]
    mine = "my_package:mine"

An option then takes its name, `mine` or `mine:ARGUMENT`. Its package is imported when an option names it, and not
before. `dpd generate`, `dpd verify` and `dpd predict` never look here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dpd_runtime.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Door = Literal[
    "dpd.students",
    "dpd.selections",
    "dpd.extractors",
    "dpd.encoders",
    "dpd.samples",
    "dpd.tuning",
    "dpd.gradients",
    "dpd.pruning",
    "dpd.commands",
]


@dataclass(frozen=True, kw_only=True)
class OtherTuning:
    """A fine-tuning by another package in place of a run's own: what a function behind `dpd.tuning` returns.

    It trains in one process, from the beginning, and until its end.

    Args:
        stage, meaning: its title among the stages of a run, and what it does, in a few words.
        decides: fields of TrainConfig whose values it sets itself.
        tune: a `dpd_train.context.Tuning`.
    """

    stage: str
    meaning: str
    decides: tuple[str, ...]
    tune: Callable[..., Any]


def offered_names(door: Door) -> tuple[str, ...]:
    """The names that installed packages offer."""
    return tuple(sorted({point.name for point in _offered(door)}))


def open_door(door: Door, name: str) -> Any:
    """Import what an installed package offers as `name`.

    Raises:
        InputError: no package offers it, two packages do, or its module cannot be imported.
    """
    points = {point.value: point for point in _offered(door) if point.name == name}  # a checkout may be listed twice
    if not points:
        raise InputError(f"{name}: no installed package offers it; install one that does")
    if len(points) > 1:
        raise InputError(f"{name}: {' and '.join(map(_package, points.values()))} offer it; uninstall all but one")
    (point,) = points.values()
    try:
        return point.load()
    except Exception as error:  # whatever the module of another package raises
        raise InputError(f"{name}: {_package(point)} offers it, but {point.value} cannot be loaded ({error})") from None


def open_named(door: Door, named: str, option: str) -> Any:
    """What stands behind `NAME` or `NAME:ARGUMENT`, the value of `option`, which the message of an error names.

    Raises:
        InputError: no package offers the name, as `open_door`, or whatever the package says about the argument.
    """
    name, _, argument = named.partition(":")
    if name not in (offered := offered_names(door)):
        known = f"give {', '.join(offered)}" if offered else f"no installed package offers any ({door})"
        raise InputError(f"{option} {named!r}: {name!r} is unknown; {known}")
    return open_door(door, name)(argument)


def offering_package(door: Door, name: str) -> str:
    """Name and version of the package that offers `name`."""
    return next(_package(point) for point in _offered(door) if point.name == name)


def _offered(door: Door) -> "list[EntryPoint]":
    from importlib.metadata import entry_points  # here, as `dpd --help` does without it

    return list(entry_points(group=door))


def _package(point: "EntryPoint") -> str:
    return point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"
