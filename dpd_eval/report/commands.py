"""Command lines that reproduce the results, quoted for a shell. Paths are reduced to names."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpd_eval.extractors.choice import OWN
from dpd_eval.report.models import BundleRecord, RunRecord
from dpd_eval.report.sets import SetRecord
from dpd_runtime.command_line import Option, option_words, shown
from dpd_runtime.dataset.formats import PNG
from dpd_runtime.dataset.formats.imagefolder import IMAGEFOLDER
from dpd_runtime.generation.generate import sampler_settings
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.config import repeating_options


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
