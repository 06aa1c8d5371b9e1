"""Origin of the results: inputs with hashes, settings, versions, and the commands that reproduce them."""

from collections.abc import Mapping, Sequence
from typing import Any

from dpd_eval.report import tables
from dpd_eval.report.commands import Command, generate_command, report_command, train_command
from dpd_eval.report.evaluate_commands import evaluate_commands, recipe_toml, shipped_recipe
from dpd_eval.report.evaluations import NamedEvaluation
from dpd_eval.report.inputs import Inputs
from dpd_eval.report.models import embedded_hash


def provenance(inputs: Inputs) -> dict[str, Any]:
    return {
        "files": inputs.files,
        "evaluations": [_settings(e) for e in inputs.evaluations],
        "sets": inputs.sets,
        "versions": _versions(inputs),
        "commands": _commands(inputs),
    }


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
    recipe = evaluation.recipe
    return {
        "name": evaluation.name,
        "settings": tables.pairs_table("Comparison", kept),
        "recipe": tables.pairs_table("Recipe of all students", list(recipe.to_dict().items())),
        "context": tables.pairs_table("Recorded with the result", evaluation.context) if evaluation.context else None,
        "toml": None if shipped_recipe(evaluation) else recipe_toml(recipe),
        "recipe_name": recipe.name,
    }


def _versions(inputs: Inputs) -> tables.Table | None:
    """Make a table with a row per package and a column per input."""
    sources: list[tuple[str, Mapping[str, str]]] = [(e.name, e.versions) for e in inputs.evaluations]
    sources += [(s.name, s.versions) for s in inputs.sets]
    sources += [(b.name, b.tools) for b in inputs.bundles] + [(r.name, r.versions) for r in inputs.runs]
    sources = [(name, versions) for name, versions in sources if versions]
    names = sorted({package for _, versions in sources for package in versions})
    if not names:
        return None
    rows = [tables.cells(package, *(versions.get(package, "–") for _, versions in sources)) for package in names]
    words = frozenset(range(1, len(sources) + 1))
    return tables.Table("Versions", ("", *(name for name, _ in sources)), tuple(rows), text_columns=words)


def _commands(inputs: Inputs) -> Sequence[Command]:
    made: list[Command | None] = [train_command(run) for run in inputs.runs]
    embedded = embedded_hash() if inputs.sets else None
    for one in inputs.sets:
        bundle = next((b for b in inputs.bundles if b.hash == one.bundle_hash), None)
        made.append(generate_command(one, bundle, embedded))
    for evaluation in inputs.evaluations:
        made += evaluate_commands(evaluation)
    made.append(report_command([file.name for file in inputs.files]))
    return [command for command in made if command]
