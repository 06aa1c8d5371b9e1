"""Modules whose place has changed: an old name that a guide gave still answers, with a warning."""

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def keep_names(moved: Mapping[str, str]) -> None:
    """Let old names of modules answer for new ones.

    Args:
        moved: old → new; old packages before what was in them.
    """
    for old, new in moved.items():
        module = ModuleType(old, f"It is {new} now.")
        module.__dict__["__getattr__"] = _answering(old, new)
        sys.modules[old] = module


def _answering(old: str, new: str) -> Any:
    def answer(name: str) -> Any:
        if name.startswith("__"):  # asked by those who look through all modules
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(f"{old} is {new} now: import {name} from there", FutureWarning, stacklevel=2)
        return getattr(import_module(new), name)

    return answer
