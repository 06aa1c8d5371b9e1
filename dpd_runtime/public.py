"""Public names of a package, which are imported when they are first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from dpd_runtime.errors import MissingExtraError


def public_names(
    package: str, places: Mapping[str, str], extras: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package that imports its names on first use (PEP 562).

    So the command line shows its help without numpy and PyTorch, and `dir` and completion show the public names alone.

    Args:
        places: name → module that holds it.
        extras: of this package, which bring what those modules import.

    Raises:
        MissingExtraError: by `__getattr__`, where a package of other people is not installed.
    """

    def answer(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        try:
            return getattr(import_module(places[name]), name)
        except ModuleNotFoundError as error:
            if not extras or error.name is None or error.name.startswith("dpd_"):
                raise
            raise MissingExtraError(error.name, extras) from error

    return answer, lambda: sorted([*places, "__doc__"])
