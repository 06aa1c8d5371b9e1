"""The guarantee holds for images that base and public images have nothing of: what can be checked of that."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpd_runtime.errors import DataError, InputError
from dpd_runtime.files import read_object
from dpd_train.base_files import RECORD_NAME
from dpd_train.scene_set import SceneSet


def check_base_apart(name: str, folder: Path, classes: Sequence[str]) -> list[str]:
    """Refuse a base whose record names half of these classes: it was probably trained on these images.

    Args:
        folder: of the base: one that `dpd pretrain` made has a record, and beside a run's pipeline is the run's.

    Returns:
        the classes that it names, fewer than half.

    Raises:
        InputError: see above.
    """
    known: set[str] = set()
    for path in (folder / RECORD_NAME, folder.parent / "run.json"):
        if path.is_file():
            record = read_object(path, f"base {name!r}: {path.name}", "copy the base again")
            part: object = record
            while isinstance(part, dict):  # a base may begin at another one
                data, part = part.get("data"), part.get("base_pretraining")
                known |= {_letters(entry) for entry in (data.get("classes") or {})} if isinstance(data, dict) else set()
    shared = [class_name for class_name in classes if _letters(class_name) in known]
    if 2 * len(shared) >= len(classes):
        raise InputError(
            f"--base {name}: it was trained on images of {len(shared)} of the {len(classes)} classes, such as "
            f"{shared[0]}. If yours are among them, the guarantee is void: take a base that has not seen them (dpd "
            "pretrain). If they are others, rename class folders"
        )
    return shared


def check_places_apart(data: Path, public: Path) -> None:
    """Refuse private images as public ones.

    Raises:
        InputError: one place holds the other.
    """
    ours, other = data.resolve(), public.resolve()
    if ours == other or ours in other.parents or other in ours.parents:
        raise InputError(f"--public {public}: overlaps with DATA, {data}; give images that nobody has to protect")


def check_images_apart(public: Path, private: SceneSet, others: SceneSet) -> None:
    """Refuse public images that are private ones, or near duplicates of some, in another encoding for instance.

    All that it says is yes or no. Where it says nothing, that too tells that no private image is nearly a public one,
    which is outside the guarantee.

    Args:
        private, others: images of one size; `others` are those of `public`.

    Raises:
        DataError: some are.
    """
    from dpd_train.symmetry import near_groups  # loads PyTorch, which the checks above do without

    images = np.concatenate([private.images, others.images])
    groups = near_groups(images, [*private.hashes, *others.hashes])
    if set(groups[: len(private.images)]) & set(groups[len(private.images) :]):
        raise DataError(
            f"--public {public}: shows something that private images show, or nearly; nothing was released: give "
            "images from elsewhere"
        )


def _letters(name: str) -> str:
    """AnnualCrop, annual_crop and "annual crop" are one name."""
    return re.sub(r"[\W_]+", "", name).lower()
