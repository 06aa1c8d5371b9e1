"""Origin of the results: inputs with hashes, settings, versions, and the commands that reproduce them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dpd_eval import report_tables as tables
from dpd_eval.options import EvaluateConfig
from dpd_eval.recipe import Recipe, load_recipe, shipped_recipes
from dpd_eval.report_inputs import BundleRecord, Inputs, NamedSet, embedded_hash
from dpd_eval.report_records import NamedEvaluation
from dpd_eval.results import (
    FULL_ARM,
    Evaluation,
    is_taught,
)
from dpd_runtime.set_state import DATASET_NAME
from dpd_runtime.settings import WITHHELD
from dpd_runtime.text import Option, option, shown

# -- Command lines that reproduce the results, quoted for a shell. Paths are reduced to names.


@dataclass(frozen=True)
class Command:
    what: str
    line: str


ASKED = ("groups", "watchers", "method", "samples", "extractor")
"""Options that a record may have withheld; others are not asked for because a record says so."""


def repeating(
    what: str,
    name: str,
    words: Sequence[str],
    record: str,
    config: Mapping[str, Any],
    options: Sequence[Option] = (),
    ending: str = "",
) -> Command:
    """The command that repeats what a record describes, ready to paste but for values that it has not kept.

    Args:
        record: the file that keeps the options. config: these options.
        ending: of the file that the command writes; none for a folder.
    """
    asked: list[Option] = [(option(key), "VALUE") for key in ASKED if config.get(key) == WITHHELD]
    asked += [("--allow-outside",)] if config.get("allow_outside") is True else []
    given = [("--config", folder(record)), *options, *asked, ("--out", folder(f"{name}-again{ending}"))]
    return Command(f"{what}: {name}", shown(["dpd", *words], given, between=" \\\n    "))


def folder(name: str) -> str:
    """Prefix a name that a shell command could take for an option."""
    return f"./{name}" if name.startswith("-") else name


def set_command(made: NamedSet, bundle: BundleRecord | None, embedded: str | None) -> Command | None:
    """The `dpd generate` or `dpd select` of a set; None where it keeps no options."""
    if made.config is None:
        return None
    record = f"{made.name}/{DATASET_NAME}"
    if made.real_images:
        return repeating("Select", made.name, ["select", "DATA"], record, made.config)
    named = bundle.name if bundle else f"{made.bundle_name}.dpd" if made.bundle_name else "BUNDLE"
    words = ["generate", *([] if embedded == made.bundle_hash else [folder(named)])]
    return repeating("Generate", made.name, words, record, made.config, [("--expect", made.set_hash)])


def evaluate_command(evaluation: NamedEvaluation) -> Command | None:
    """The `dpd evaluate` of a file that holds one evaluation; None where it keeps no options."""
    if evaluation.config is None or not evaluation.alone:
        return None
    test = "val" if evaluation.test_part == "val" else evaluation.test or "DATA"
    options = [("--train", evaluation.train or "DATA"), ("--test", test)]
    if not shipped_recipe(evaluation):
        options.append(("--recipe", f"{evaluation.recipe.name}.toml"))
    elif evaluation.config.get("recipe") == WITHHELD:
        options.append(("--recipe", evaluation.recipe.name))
    if any(map(is_taught, evaluation.arm_names())):
        options.append(("--teacher", "BUNDLE"))
    words, record = ["evaluate", *map(folder, evaluation.sets)], f"{evaluation.name}.json"
    return repeating("Evaluate", evaluation.name, words, record, evaluation.config, options, ".json")


# -- Origin of the results: inputs with hashes, settings, versions, and the commands that reproduce them.


def provenance(inputs: Inputs) -> dict[str, Any]:
    return {
        "files": inputs.files,
        "evaluations": [_settings(e) for e in inputs.evaluations],
        "sets": inputs.sets,
        "versions": _versions(inputs),
        "commands": _commands(inputs),
        "without_options": [
            *(run.name for run in inputs.runs if run.config is None),
            *(made.name for made in inputs.sets if made.config is None),
            *(evaluation.name for evaluation in inputs.evaluations if evaluate_command(evaluation) is None),
        ],
    }


MODELS = ("students", "baselines", "recipe", "extractor")
"""Options that may name folders; the page names what they mean elsewhere."""


def _settings(evaluation: NamedEvaluation) -> dict[str, Any]:
    seeds = sorted({seed for arm in evaluation.arms for seed in arm.seeds})
    rows = [
        ("sets", evaluation.sets),
        ("training data", evaluation.train),
        ("training images", evaluation.train_images),
        ("test data", f"{evaluation.test} ({evaluation.test_part})" if evaluation.test_part else evaluation.test),
        ("test images", evaluation.test_images),
        ("classes", len(evaluation.classes)),
        ("image side, px", evaluation.resolution),
        ("bands", [str(band["name"]) for band in (evaluation.reading or {}).get("carried", [])]),
        ("student seeds", seeds),
        ("labels", evaluation.labels),
        ("teacher", evaluation.teacher),
        ("features", evaluation.extractor),
        *((f"fingerprint of {name}", digest) for name, digest in evaluation.fingerprints.items()),
    ]
    kept = [(name, value) for name, value in rows if value not in (None, "", (), [])]
    recipe, config = evaluation.recipe, evaluation.config or {}
    usual = {name: value for name, value in asdict(EvaluateConfig()).items() if name not in MODELS}
    given = [(name, tuple(value) if isinstance(value, list) else value) for name, value in config.items()]
    options = [(option(name), value) for name, value in given if name in usual and value != usual[name]]
    return {
        "name": evaluation.name,
        "settings": tables.pairs_table("Comparison", kept),
        "recipe": tables.pairs_table("Recipe of all students", list(recipe.to_dict().items())),
        "options": tables.pairs_table("Options", options) if options else None,
        "context": tables.pairs_table("Recorded with the result", evaluation.context) if evaluation.context else None,
        "toml": None if shipped_recipe(evaluation) else recipe_toml(recipe),
        "recipe_name": recipe.name,
    }


def _versions(inputs: Inputs) -> tables.Table | None:
    """Make a table with a row per package and a column per input."""
    sources: list[tuple[str, Mapping[str, str]]] = [(e.name, e.versions) for e in inputs.evaluations]
    sources += [(s.name, s.versions or {}) for s in inputs.sets]
    sources += [(b.name, b.tools) for b in inputs.bundles] + [(r.name, r.versions) for r in inputs.runs]
    sources = [(name, versions) for name, versions in sources if versions]
    names = sorted({package for _, versions in sources for package in versions})
    if not names:
        return None
    rows = [tables.cells(package, *(versions.get(package, "–") for _, versions in sources)) for package in names]
    words = frozenset(range(1, len(sources) + 1))
    return tables.Table("Versions", ("", *(name for name, _ in sources)), tuple(rows), text_columns=words)


def _commands(inputs: Inputs) -> list[Command]:
    embedded = embedded_hash() if inputs.sets else None
    bundles = {bundle.hash: bundle for bundle in inputs.bundles}
    made = [
        *(
            repeating("Train", run.name, ["train", "DATA"], f"{run.name}/run.json", run.config)
            for run in inputs.runs
            if run.config is not None
        ),
        *(set_command(one, bundles.get(one.bundle_hash or ""), embedded) for one in inputs.sets),
        *map(evaluate_command, inputs.evaluations),
    ]
    page = shown(["dpd", "report", *(folder(file.name) for file in inputs.files)], [("--out", "report.html")])
    return [*(command for command in made if command), Command("This page", page)]


# -- The recipe of an evaluation as a file, if the package does not ship it.


def shipped_recipe(evaluation: Evaluation) -> bool:
    """Check whether the shipped recipe of that name equals this one, with defaults for keys added later."""
    name = evaluation.recipe.name
    if name not in shipped_recipes():
        return False
    ours, theirs = load_recipe(name), evaluation.recipe
    if FULL_ARM not in evaluation.arm_names():  # without this arm its budget does not matter
        ours, theirs = replace(ours, full_steps=0), replace(theirs, full_steps=0)
    return ours == theirs


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
