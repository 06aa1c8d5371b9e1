"""Command lines that reproduce the results, quoted for a shell. Paths are reduced to names."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields

from dpd_eval.extractors.choice import OWN
from dpd_eval.report.models import BundleRecord, RunRecord
from dpd_eval.report.sets import SetRecord
from dpd_runtime.dataset.formats import PNG
from dpd_runtime.dataset.formats.imagefolder import IMAGEFOLDER
from dpd_runtime.generation.generate import sampler_settings
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.config import TrainConfig
from dpd_train.options import option

Option = tuple[str, ...]  # ("--seed", "3"), or a flag alone


@dataclass(frozen=True)
class Command:
    what: str
    line: str


def shell(words: Sequence[str], options: Sequence[Option]) -> str:
    """Format a command with one option per line, ready to paste."""
    head = " ".join(map(shlex.quote, words))
    return " \\\n    ".join([head, *(" ".join([option[0], *map(shlex.quote, option[1:])]) for option in options)])


def folder(name: str) -> str:
    """Prefix a name that a shell command could take for an option."""
    return f"./{name}" if name.startswith("-") else name


def extractor_option(description: str | None) -> list[Option]:
    """Return the option for an extractor with this description, which begins with its name; `own` is the default."""
    name = (description or "").split(": ")[0]
    return [("--extractor", name)] if name not in ("", OWN) else []


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
    options: list[Option] = [("--ipc", str(made.ipc)), ("--seed", str(made.seed))]
    options += sampler_options(made.sampler, known)
    names = [sheet.name for sheet in made.classes]
    if (bundle is None or set(names) != set(bundle.prototypes)) and not any("," in name for name in names):
        options.append(("--classes", ",".join(names)))
    if made.provider:
        options.append(("--provider", made.provider))
    if made.format != IMAGEFOLDER.name:
        options.append(("--format", made.format))
    if made.image_format != PNG.name:
        options.append(("--image-format", made.image_format))
    if made.soft_labels:
        options.append(("--soft-labels",))
    options += [("--expect", made.set_hash), ("--out", made.name)]
    return Command(f"Generate: {made.name}", shell(words, options))


def _select_command(made: SetRecord) -> Command:
    options: list[Option] = [("--method", made.method or "")]
    numbers = (("--ipc", made.ipc), ("--seed", made.seed), ("--resolution", made.resolution))
    options += [(flag, str(value)) for flag, value in numbers if value is not None]
    options += extractor_option(made.extractor)
    return Command(f"Select: {made.name}", shell(["dpd", "select", "DATA"], [*options, ("--out", made.name)]))


def sampler_options(used: Sampler | None, usual: Sampler | None) -> list[Option]:
    """The options that turn the bundle's sampler into the one that was used; all of them where it is not known."""
    if used is None:
        return []
    if usual is not None:
        settings = sampler_settings(usual, used)
    elif any(guidance.begins_at_prototypes for guidance in used.guidance):
        return []  # decoded and re-noised images: any of these options would sample all images instead
    else:
        settings = {name: getattr(used, name) for name in ("steps", "solver", "candidates")}
        settings["guidance_scale"] = used.guidance[0].guidance_scale
    return [
        (option(name), f"{value:g}" if isinstance(value, float) else str(value)) for name, value in settings.items()
    ]


def train_command(run: RunRecord) -> Command | None:
    """Return the `dpd train` of a run. DATA is not recorded in a run and stays a placeholder."""
    if not run.config:
        return None
    flags: list[Option] = []
    for field in fields(TrainConfig):
        value = run.config.get(field.name)
        if value is True:
            flags.append((option(field.name),))
        elif value is not None and value is not False:  # including defaults, which may differ between versions
            flags.append((option(field.name), str(value)))
    return Command(f"Train: {run.name}", shell(["dpd", "train", "DATA"], [*flags, ("--out", run.name)]))


def report_command(names: Sequence[str]) -> Command:
    return Command("This page", shell(["dpd", "report", *map(folder, names)], [("--out", "report.html")]))
