"""`--preset`: named sets of options in readable TOML. What stands on the command line wins."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from typing import Any

from dpd_runtime.errors import InputError
from dpd_train.train_config import TrainConfig

PRESETS = ("quick", "standard", "paper")


def preset_text(name: str) -> str:
    """The TOML file, comments and all.

    Raises:
        InputError: an unknown preset.
    """
    if name not in PRESETS:
        raise InputError(f"--preset {name!r} is unknown: use {', '.join(PRESETS)}")
    return (resources.files("dpd_train") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def resolve(preset: str | None, given: Mapping[str, Any]) -> TrainConfig:
    """Defaults, over them the preset's values, over them what the user gave.

    Args:
        given: by field of TrainConfig; None is not given.

    Raises:
        InputError: an unknown preset, a value out of range.
    """
    values = tomllib.loads(preset_text(preset)) if preset else {}
    known = {field.name for field in fields(TrainConfig)}
    if set(values) - known:
        raise ValueError(f"preset {preset}: no option {', '.join(sorted(set(values) - known))}")
    return TrainConfig(**(values | {name: value for name, value in given.items() if value is not None}))
