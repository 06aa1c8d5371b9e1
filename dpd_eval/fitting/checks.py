"""What a fit checks before PyTorch is imported."""

from dataclasses import replace
from pathlib import Path

from dpd_eval.bands import bands_of_set, described
from dpd_eval.fitting.config import FitConfig
from dpd_eval.set_file import read_set_file
from dpd_eval.students.names import check_student
from dpd_eval.students.pretrained import PROBE
from dpd_eval.students.recipe import Recipe, load_recipe
from dpd_runtime.errors import DataError, InputError
from dpd_train.config import HUB
from dpd_train.images import check_files, image_sizes
from dpd_train.reading import ImageOptions

TUNING_RATE = 1 / 30
"""Of the recipe's learning rate, for a network that has learned from other images: larger steps would undo that."""


def suits_backbones(distilled: Path) -> bool:
    """Whether a published network watched the codes of a set; also for sets of other kinds, and for other folders.

    Raises:
        InputError: dataset.json is damaged.
    """
    found = read_set_file(distilled)
    return found is None or found.watchers is None or any(name.startswith(HUB) for name in found.watchers)


def check_fit(distilled: Path, config: FitConfig, own: Path | None) -> Recipe:
    """Check everything that needs no image to be opened, and return the recipe.

    Raises:
        InputError, DataError: as `fit`.
    """
    recipe = load_recipe(config.recipe)
    if config.network.startswith(PROBE):
        raise InputError(
            f"--student {config.network}: a probe is for dpd evaluate; leave out {PROBE}, or give --backbone FOLDER "
            "--steps 0"
        )
    check_student(config.network)
    if bands := bands_of_set(distilled):
        raise InputError(
            f"{distilled} has {described(bands)}, and dpd fit trains on RGB: train a network of your own on its "
            "GeoTIFF files, which hold physical values"
        )
    if own is None and config.image_options != ImageOptions().image_options:
        raise InputError("--bands, --stretch, --val-per-class, --split and --groups are for --own images; give some")
    if config.reading.carries:
        raise InputError(f"--bands {config.bands}: dpd fit trains on RGB; give three bands, such as --bands 4,3,2")
    classes = check_files(distilled, "all")
    if own is not None:
        others = check_files(own, "train", config)
        if set(others) != set(classes):
            odd = sorted(set(others) ^ set(classes))
            raise DataError(
                f"--own {own}: its classes are not those of {distilled}, first {odd[0]}; name the class folders alike"
            )
    if config.resolution is None and len(sizes := image_sizes(distilled)) > 1:
        raise DataError(f"{distilled}: has images of {len(sizes)} sizes; give --resolution")
    if config.steps is not None:
        recipe = replace(recipe, steps=config.steps or 1, epochs=0, warmup=min(recipe.warmup, max(config.steps - 1, 0)))
    if config.backbone is not None:
        recipe = replace(recipe, peak_rate=recipe.peak_rate * TUNING_RATE)
    return recipe
