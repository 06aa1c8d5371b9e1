"""Recipes: how the students of every arm are trained, read from TOML."""

import math
import tomllib
from dataclasses import MISSING, asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from dpd_runtime.errors import InputError

# Keys added after results had been cached: `Recipe.key_dict` omits them at their default.
LATER_KEYS = frozenset({"epochs", "full_steps", "crop", "flips", "nesterov"})
AUGMENTATION = {"d4": False, "flips": False, "shift": 0, "cutmix": 0, "crop": 1}
"""Keys by which students see other images than those of their arm, with the values of no augmentation."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train a student: the same number of optimiser steps for every arm of an IPC, except the arm `full`.

    Args:
        name: used in results.
        steps: optimiser steps, ≥ 1; 0 if `epochs` is given. Accuracy is measured after the last step.
        batch: images per step, ≥ 2 (batch norm).
        optimizer: `adamw`, or `sgd` with momentum 0.9.
        warmup: steps of linear rise of the learning rate. peak_rate: the rate after them.
        decay: `cosine` or `linear` to 0 at the last step, or `multistep`: × 0.1 after 2/3 and after 5/6 of the steps.
        weight_decay: for weights with two or more axes only.
        label_smoothing: in [0, 1); not used with soft labels.
        d4: apply a random symmetry of the square to each image.
        shift: largest translation in pixels, with mirrored borders.
        cutmix: probability in [0, 1] that a batch is mixed (Yun et al. 2019, alpha 1).
        precision: `bf16` autocast or `fp32`.
        epochs: passes over an arm's images. Arms of one IPC have equal numbers of images, hence of steps.
        full_steps: optimiser steps of the arm `full`; 0 takes the same as the others.
        crop: smallest share of the area that a random resized crop keeps, in (0, 1]; 1 is no crop.
        flips: left-right and up-down, each with probability 1/2; not with d4, which includes them.
        nesterov: use Nesterov momentum; for `sgd` only.

    Raises:
        InputError: a value outside its range.
    """

    name: str
    steps: int = 0
    batch: int
    optimizer: Literal["adamw", "sgd"]
    peak_rate: float
    warmup: int = 0
    decay: Literal["cosine", "linear", "multistep"] = "cosine"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    d4: bool = True
    shift: int = 0
    cutmix: float = 0.0
    precision: Literal["bf16", "fp32"] = "fp32"
    epochs: int = 0
    full_steps: int = 0
    crop: float = 1.0
    flips: bool = False
    nesterov: bool = True

    def __post_init__(self) -> None:
        checks = {
            "steps": (self.steps >= (0 if self.epochs else 1), "1 or more, or 0 with epochs"),
            "epochs": (self.epochs >= 0 and not (self.epochs and self.steps), "0 or more, and 0 with steps"),
            "full_steps": (self.full_steps >= 0, "0 or more"),
            "batch": (self.batch >= 2, "2 or more"),
            "optimizer": (self.optimizer in ("adamw", "sgd"), "adamw or sgd"),
            "peak_rate": (self.peak_rate > 0, "above 0"),
            "warmup": (
                self.warmup >= 0 and (self.warmup < self.steps or self.epochs > 0),
                "0 or more, and less than steps",
            ),
            "decay": (self.decay in ("cosine", "linear", "multistep"), "cosine, linear or multistep"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 to below 1"),
            "shift": (self.shift >= 0, "0 or more pixels"),
            "cutmix": (0 <= self.cutmix <= 1, "0 to 1"),
            "precision": (self.precision in ("bf16", "fp32"), "bf16 or fp32"),
            "crop": (0 < self.crop <= 1, "above 0, to 1"),
            "flips": (not (self.flips and self.d4), "false with d4, which includes them"),
            "nesterov": (self.nesterov or self.optimizer == "sgd", "true, or optimizer sgd"),
        }
        for field, (good, range_) in checks.items():
            if not good:
                value = getattr(self, field)
                raise InputError(f"recipe {self.name}: {field} = {value!r} is out of range; give {range_}")

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @property
    def augments(self) -> bool:
        """Whether students see other images than those of their arm."""
        return any(getattr(self, key) != none for key, none in AUGMENTATION.items())

    def for_training(self, images: int, full: bool = False) -> "Recipe":
        """Return this recipe with the final number of steps for an arm of `images` images.

        Raises:
            InputError: the warm-up is longer than the training.
        """
        steps = self.steps or math.ceil(self.epochs * images / self.batch)
        return replace(self, steps=self.full_steps if full and self.full_steps else steps, epochs=0, full_steps=0)

    def key_dict(self) -> dict[str, object]:
        """Return what decides a training, for the key of its stored result. It does not change if a key is added."""
        unused = {field.name for field in fields(self) if getattr(self, field.name) == field.default}
        left_out = {"name"} | (unused & LATER_KEYS)
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def shipped_recipes() -> tuple[str, ...]:
    folder = resources.files("dpd_eval") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_recipe(name: str) -> Recipe:
    """Load a shipped recipe by name, or a recipe file if the name ends in `.toml`.

    Raises:
        InputError: no such recipe, not TOML, a missing or unknown key, a value out of range.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise InputError(f"recipe {name}: cannot be read ({said}); give the path of a TOML file") from None
    elif name in shipped_recipes():
        text = (resources.files("dpd_eval") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise InputError(f"no recipe {name!r}: shipped are {', '.join(shipped_recipes())}, or give a .toml file")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name}: not TOML: {error}") from None
    known = {field.name: field for field in fields(Recipe) if field.name != "name"}
    unknown = sorted(set(values) - set(known))
    missing = sorted(key for key, field in known.items() if field.default is MISSING and key not in values)
    if unknown or missing:
        raise InputError(
            f"recipe {name}: unknown keys {unknown or 'none'}, missing keys {missing or 'none'}; "
            f"the keys are {', '.join(known)}"
        )
    for key, value in values.items():
        # an integer is a valid float; any other mismatch would fail deep inside a training
        kind = known[key].type
        wanted = (int, float) if kind is float else (kind,) if kind in (int, bool) else (str,)
        if type(value) not in wanted:
            raise InputError(f"recipe {name}: {key} = {value!r} has the wrong type; see dpd_eval/recipe.py")
    return Recipe(name=Path(name).stem, **values)
