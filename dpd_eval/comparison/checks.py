"""Checks of an evaluation that need its sets, its images or installed models; the config checks the rest itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dpd_eval.comparison.config import EvaluateConfig
from dpd_eval.comparison.inputs import EvaluationInputs, check_set, check_sources
from dpd_eval.extractors.choice import check_extractor_bands, check_name
from dpd_eval.selection.method import check_counts, check_ipc, check_look
from dpd_eval.selection.methods import METHODS, find_method
from dpd_eval.statistics import fewest_pairs
from dpd_eval.students.names import check_student
from dpd_eval.students.recipe import load_recipe
from dpd_runtime.errors import InputError
from dpd_train.foreground.cropping import check_segmenter


def check_sets_and_students(sets: Sequence[Path], config: EvaluateConfig) -> None:
    """Check what can be checked before images are read.

    Raises:
        InputError: no set, more sets than pairs, or a student that is unknown or not on this machine.
    """
    if not sets:
        raise InputError("no SET given: name at least one folder of a distilled set")
    for name in config.students:
        check_student(name)
    if config.pairs is not None and config.pairs < len(sets):
        raise InputError(f"--pairs is {config.pairs}: give at least {len(sets)}, so that every SET is used")


def check_evaluation(sets: Sequence[Path], config: EvaluateConfig, train: Path, test: Path | Literal["val"]) -> None:
    """Check all that needs no network and no pixel, in less than a second.

    Raises:
        InputError, DataError: as `dpd_eval.comparison.evaluate.evaluate`.
    """
    check_sets_and_students(sets, config)
    extractor_name(config)
    load_recipe(config.recipe)
    check_segmenter(config.segmenter)
    _ = config.reading  # raises
    of_sets, real = check_sources(sets, train, test, config)
    if config.with_real:
        check_counts(METHODS["random"], real, max(config.with_real), "--with-real")
    if config.ipc:
        for path, counts in zip(sets, of_sets, strict=True):
            check_set(str(path), counts, max(config.ipc))
        for name in config.baselines:
            check_counts(find_method(name), real, max(config.ipc))


def extractor_name(config: EvaluateConfig) -> str | None:
    """Name of the extractor, or None if nothing needs one.

    Raises:
        InputError: an unknown extractor, or one that nothing would use.
    """
    if config.extractor is not None:
        check_name(config.extractor)
    if config.metrics or any(find_method(name).sees == "features" for name in config.baselines):
        return config.extractor or "own"
    if config.extractor is not None:
        raise InputError(
            f"--extractor {config.extractor} has no effect: there are no metrics, and no baseline uses features"
        )
    return None


def check_sight(inputs: EvaluationInputs, config: EvaluateConfig) -> None:
    """Check that all that looks at images can see their bands, before anything is trained. Students are built later.

    Raises:
        InputError: a baseline, an extractor or JPEGs that know RGB only, for images of other bands.
    """
    for name in config.baselines:
        check_look(find_method(name), inputs.real)
    if (extractor := extractor_name(config)) is not None:
        check_extractor_bands(extractor, inputs.real)
    bands = inputs.real.images.shape[-1]
    if config.jpegs is not None and bands != 3:
        raise InputError(f"--jpegs {config.jpegs:g}: a JPEG has 3 bands, these images have {bands}; leave it out")


def compared_ipcs(inputs: EvaluationInputs, config: EvaluateConfig) -> tuple[int, ...]:
    """IPCs to compare at: those of the config, or else as many images as the smallest class of all arms has."""
    if config.ipc:
        return config.ipc
    subsets = any(find_method(name).uses_ipc for name in config.baselines)
    return (min(inputs.smallest_class(), inputs.smallest_real_class()) if subsets else inputs.smallest_class(),)


def unused_images(inputs: EvaluationInputs, config: EvaluateConfig) -> list[str]:
    """Say that the sets have more images than were compared, because the real classes have fewer."""
    (ipc, *_), most = compared_ipcs(inputs, config), inputs.smallest_class()
    if config.ipc or ipc == most:
        return []
    return [
        f"compared at IPC {ipc}: the smallest class of --train has that many training images, those of the sets "
        f"have {most} or more"
    ]


def count_pairs(inputs: EvaluationInputs, config: EvaluateConfig) -> dict[int, int]:
    """IPC → number of pairs, after a check that there are enough images.

    Raises:
        InputError: more sets than pairs.
        DataError: a class with too few images.
    """
    ipcs = compared_ipcs(inputs, config)
    counts = {size: fewest_pairs(size) if config.pairs is None else config.pairs for size in ipcs}
    wanted = len(inputs.sets)
    if config.pairs is None and wanted <= min(counts.values()):  # each set counts as often as every other one
        counts = {size: -(-count // wanted) * wanted for size, count in counts.items()}
    if wanted > min(counts.values()):
        raise InputError(
            f"{wanted} sets are more than the default {min(counts.values())} pairs use: pass --pairs {wanted}"
        )
    inputs.check_ipc(max(ipcs))
    for name in config.baselines:
        check_ipc(find_method(name), inputs.real.labels, max(ipcs), inputs.real.classes)
    if config.with_real:
        check_ipc(METHODS["random"], inputs.real.labels, max(config.with_real), inputs.real.classes, "--with-real")
    return counts
