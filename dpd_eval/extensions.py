"""Extension points: students, selections and extractors of other packages.

A package offers one by an entry point, in its pyproject.toml:

    [project.entry-points."dpd.students"]
    mine = "my_package:mine"

An option then takes its name, `mine` or `mine:ARGUMENT`. Its package is imported when an option names it, and not
before. `dpd generate` and `dpd verify` never look here (docs/guides/extend.md).
"""

from typing import TYPE_CHECKING, Any, Literal

from dpd_runtime.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Group = Literal["dpd.students", "dpd.selections", "dpd.extractors"]


def extension_names(group: Group) -> tuple[str, ...]:
    """The names that installed packages offer."""
    return tuple(sorted({point.name for point in _offered(group)}))


def load_extension(group: Group, name: str) -> Any:
    """Import what an installed package offers as `name`.

    Raises:
        InputError: no package offers it, two packages do, or its module cannot be imported.
    """
    points = {point.value: point for point in _offered(group) if point.name == name}  # a checkout may be listed twice
    if not points:
        raise InputError(f"{name}: no installed package offers it; install one that does")
    if len(points) > 1:
        raise InputError(f"{name}: {' and '.join(map(_package, points.values()))} offer it; uninstall all but one")
    (point,) = points.values()
    try:
        return point.load()
    except Exception as error:  # whatever the module of another package raises
        raise InputError(f"{name}: {_package(point)} offers it, but {point.value} cannot be loaded ({error})") from None


def extension_version(group: Group, name: str) -> str:
    """Name and version of the package that offers `name`."""
    return next(_package(point) for point in _offered(group) if point.name == name)


def _offered(group: Group) -> "list[EntryPoint]":
    from importlib.metadata import entry_points  # here, as `dpd --help` does without it

    return list(entry_points(group=group))


def _package(point: "EntryPoint") -> str:
    return point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"
