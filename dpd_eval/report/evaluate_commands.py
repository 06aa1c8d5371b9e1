"""The `dpd evaluate` command that reproduces an evaluation, and its recipe file if the package does not ship it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dpd_eval.comparison.arm_names import (
    FULL_ARM,
    LABELS_ARM,
    SET_ARM,
    is_alternative,
    is_joint,
    is_own,
    jpeg_megabytes,
    own_count,
)
from dpd_eval.comparison.results import Evaluation
from dpd_eval.report.commands import Command, extractor_of, folder, shell
from dpd_eval.report.evaluations import NamedEvaluation
from dpd_eval.statistics import fewest_pairs
from dpd_eval.students.recipe import Recipe, load_recipe, shipped_recipes
from dpd_runtime.command_line import Option, option_words
from dpd_train.reading import OF_PICTURE

OF_SET = {"--ipc", "--seed"}
"""Options of `dpd generate` by which a committed result may name a set. Anybody may have written others there."""


def evaluate_commands(evaluation: NamedEvaluation) -> list[Command]:
    """Return one command, or one for each number of pairs if the IPCs have different numbers.

    A committed result may name its sets by the arguments of `dpd generate`; these commands come first.
    """
    sizes: dict[int, int] = {}
    for arm in evaluation.arms:
        if arm.arm == SET_ARM:
            sizes.setdefault(arm.ipc, len(arm.oa_runs))
    if all(pairs == fewest_pairs(ipc) for ipc, pairs in sizes.items()):
        groups: list[tuple[list[int], int | None]] = [(list(sizes), None)]
    else:
        groups = [([i for i, n in sizes.items() if n == pairs], pairs) for pairs in dict.fromkeys(sizes.values())]
    stem = evaluation.name.replace(": ", "-").replace(" ", "-")
    names, commands = _described_sets(evaluation.sets)
    for ipcs, pairs in groups:
        name = f"{stem}.json" if len(groups) == 1 else f"{stem}-{pairs}-pairs.json"
        options = _evaluate_options(evaluation, ipcs, pairs, name)
        commands.append(Command(f"Evaluate: {evaluation.name}", shell(["dpd", "evaluate", *names], options)))
    return commands


def _described_sets(sets: Sequence[str]) -> tuple[list[str], list[Command]]:
    """Turn `eurosat64.dpd --ipc 50 --seed 0` into the folder `set0` and the command that makes it."""
    names, commands = [], []
    for i, text in enumerate(sets):
        bundle, *options = text.split() or [text]
        if not options or len(options) % 2 or not {*options[::2]} <= OF_SET:
            names.append(folder(text))
            continue
        names.append(f"set{i}")
        line = shell(["dpd", "generate", folder(bundle), *options], [("--out", f"set{i}")])
        commands.append(Command(f"Generate: set{i}", line))
    return names, commands


def _evaluate_options(evaluation: Evaluation, ipcs: list[int], pairs: int | None, out: str) -> list[Option]:
    names = evaluation.arm_names()
    own = [name for name in names if is_own(name)]
    held_out = evaluation.val_per_class is not None
    reading = evaluation.reading or {}
    too_few = any("too few for set metrics" in note for note in evaluation.notes)
    ratios = dict.fromkeys(goal.ratio for goal in evaluation.verdicts if goal.ratio != 1)
    options = option_words(
        {
            "train": evaluation.train or "DATA",
            "test": "val" if evaluation.test_part == "val" else evaluation.test or "DATA",
            "students": list(dict.fromkeys(arm.student for arm in evaluation.arms)),
            "baselines": [n for n in names if n not in (SET_ARM, *own) and not is_joint(n) and not is_alternative(n)],
            "ipc": ipcs,
            "recipe": _recipe_option(evaluation),
            "with_real": [own_count(name) for name in own] or None,
            "labels": LABELS_ARM in names,
            "jpegs": next((size for name in names if (size := jpeg_megabytes(name)) is not None), None),
            "pairs": pairs,
            "val_per_class": evaluation.val_per_class,
            "split": evaluation.split if held_out else None,
            "groups": evaluation.groups,
            "resolution": evaluation.resolution,
            "bands": _bands_option(reading),
            "stretch": reading.get("stretch"),
            "soft_labels": evaluation.labels == "soft",
            "extractor": extractor_of(evaluation.extractor),
            "no_metrics": not evaluation.metrics and not too_few,
        }
    )
    return [*options, *(("--at-least", f"{ratio:g}") for ratio in ratios), ("--out", out)]


def _bands_option(reading: Mapping[str, Any]) -> object:
    """Numbers of the bands; `all` where a file's one or three bands are carried, as their numbers would mean RGB."""
    return "all" if len(reading.get("carried", ())) in OF_PICTURE else reading.get("bands")


def shipped_recipe(evaluation: Evaluation) -> bool:
    """Check whether the shipped recipe of that name equals this one, with defaults for keys added later."""
    name = evaluation.recipe.name
    if name not in shipped_recipes():
        return False
    ours, theirs = load_recipe(name), evaluation.recipe
    if FULL_ARM not in evaluation.arm_names():  # without this arm its budget does not matter
        ours, theirs = replace(ours, full_steps=0), replace(theirs, full_steps=0)
    return ours == theirs


def _recipe_option(evaluation: Evaluation) -> str:
    name = evaluation.recipe.name
    return name if shipped_recipe(evaluation) else f"{name}.toml"


def recipe_toml(recipe: Recipe) -> str:
    """Write a recipe as TOML, to be saved for `--recipe NAME.toml`."""
    lines = []
    for key, value in recipe.to_dict().items():
        if key == "name" or value is None:
            continue
        text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, int | float) else ""
        lines.append(f"{key} = {text or _toml_text(str(value))}")
    return "\n".join(lines) + "\n"


def _toml_text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
