"""Origin of the results: inputs with hashes, settings, versions, and the commands that reproduce them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpd_eval import report_tables as tables
from dpd_eval.extractor_choice import OWN
from dpd_eval.recipe import Recipe, load_recipe, shipped_recipes
from dpd_eval.report_inputs import BundleRecord, Inputs, RunRecord, SetRecord, embedded_hash
from dpd_eval.report_records import NamedEvaluation
from dpd_eval.results import (
    FULL_ARM,
    LABELS_ARM,
    SET_ARM,
    Evaluation,
    is_alternative,
    is_joint,
    is_own,
    jpeg_megabytes,
    own_count,
)
from dpd_eval.statistics import fewest_pairs
from dpd_runtime.formats import IMAGEFOLDER, PNG
from dpd_runtime.generation import sampler_settings
from dpd_runtime.sampler import Sampler
from dpd_runtime.text import Option, option_words, shown
from dpd_train.config import repeating_options
from dpd_train.reading import OF_PICTURE

# -- Command lines that reproduce the results, quoted for a shell. Paths are reduced to names.


@dataclass(frozen=True)
class Command:
    what: str
    line: str


def shell(words: Sequence[str], options: Sequence[Option]) -> str:
    """Format a command with one option per line, ready to paste."""
    return shown(words, options, between=" \\\n    ")


def folder(name: str) -> str:
    """Prefix a name that a shell command could take for an option."""
    return f"./{name}" if name.startswith("-") else name


def extractor_of(description: str | None) -> str | None:
    """The value of --extractor for this description, which begins with a name; None for `own`, the default."""
    name = (description or "").split(": ")[0]
    return name if name not in ("", OWN) else None


def generate_command(
    made: SetRecord, bundle: BundleRecord | None, embedded: tuple[str, Sampler] | None
) -> Command | None:
    """Return the `dpd generate` of a set, without the options that equal those of its bundle."""
    if made.real_images:
        return _select_command(made)
    if made.seed is None or made.ipc is None:
        return None
    own = embedded is not None and embedded[0] == made.bundle_hash
    named = bundle.name if bundle else f"{made.bundle_name}.dpd" if made.bundle_name else "BUNDLE"
    words = ["dpd", "generate"] if own else ["dpd", "generate", folder(named)]
    known = embedded[1] if own and embedded else bundle.sampler if bundle else None
    names = [sheet.name for sheet in made.classes]
    some = (bundle is None or set(names) != set(bundle.prototypes)) and not any("," in name for name in names)
    options = option_words(
        {
            "classes": names if some else None,
            "provider": made.provider or None,
            "format": made.format if made.format != IMAGEFOLDER.name else None,
            "image_format": made.image_format if made.image_format != PNG.name and not made.bands else None,
            "soft_labels": made.soft_labels,
            "expect": made.set_hash,
            "out": made.name,
        }
    )
    first = option_words({"ipc": made.ipc, "seed": made.seed})
    return Command(f"Generate: {made.name}", shell(words, [*first, *sampler_options(made.sampler, known), *options]))


def _select_command(made: SetRecord) -> Command:
    options = {"method": made.method or "", "ipc": made.ipc, "seed": made.seed, "resolution": made.resolution}
    options |= {"extractor": extractor_of(made.extractor), "out": made.name}
    return Command(f"Select: {made.name}", shell(["dpd", "select", "DATA"], option_words(options)))


def sampler_options(used: Sampler | None, usual: Sampler | None) -> list[Option]:
    """The options that turn the bundle's sampler into the one that was used; all of them where it is not known."""
    if used is None:
        return []
    if usual is not None:
        return option_words(sampler_settings(usual, used))
    if any(guidance.begins_at_prototypes for guidance in used.guidance):
        return []  # decoded and re-noised images: any of these options would sample all images instead
    settings = {name: getattr(used, name) for name in ("steps", "solver", "candidates")}
    return option_words(settings | {"guidance_scale": used.guidance[0].guidance_scale})


def train_command(run: RunRecord) -> Command | None:
    """Return the `dpd train` of a run. DATA is not recorded in a run and stays a placeholder."""
    if not run.config:
        return None
    options = option_words(repeating_options(run.config))
    return Command(f"Train: {run.name}", shell(["dpd", "train", "DATA"], [*options, ("--out", run.name)]))


def report_command(names: Sequence[str]) -> Command:
    return Command("This page", shell(["dpd", "report", *map(folder, names)], [("--out", "report.html")]))


# -- Origin of the results: inputs with hashes, settings, versions, and the commands that reproduce them.


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


# -- The `dpd evaluate` command that reproduces an evaluation, and its recipe file if the package does not ship it.


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
