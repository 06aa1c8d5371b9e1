"""The interface of a selection method, and the loop over classes that all methods share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.text import counted
from dpd_train.held_out import HeldOut
from dpd_train.images import Reading, SceneSet

if TYPE_CHECKING:
    from dpd_eval.extractors.extractor import Extractor

Features = Float32
Rows = Int64
Sight = Literal["nothing", "features", "its own"]


@dataclass(frozen=True)
class Seen:
    """What a method chooses from: images, and what it sees of them (None for nothing).

    Args:
        features: [n, D].
        network: description of the network that computed them.
        about: facts about chosen rows, for the record of a real subset. picture: an image of them, uint8 [H, W, 3].
    """

    scenes: SceneSet
    features: Features | None = None
    network: str | None = None
    about: Callable[[Rows], dict[str, Any]] | None = None
    picture: Callable[[Rows], Images] | None = None


@dataclass(frozen=True)
class Look:
    """What a method may look at to find out what it sees.

    Args:
        scenes: the real training images of `data` at the students' size.
        held_out, reading: how `data` was read. segmenter: of --segmenter, for methods that use it.
        teacher: builds a network that knows the classes, in the order of `scenes`.
        cache: folder for what takes long; None for the user's cache directory.
    """

    data: Path
    scenes: SceneSet
    held_out: HeldOut
    reading: Reading
    segmenter: str | None
    teacher: "Callable[[], Extractor]"
    cache: Path | None
    stage: Callable[[str], Progress]


@dataclass(frozen=True)
class Method:
    """How the images of one class are chosen.

    Args:
        name: as the user gives it.
        sees: what `pick` receives of each image: nothing [n, 0], an extractor's features [n, D], or what `look` finds.
        uses_seed: False if the choice does not depend on the seed.
        pick: (features [n, D] of one class, count ≤ n, generator) → `count` different rows of 0 … n − 1, best first.
        uses_ipc: False if `pick` takes all rows.
        look: finds what a method sees that needs more than an extractor's features; it may change the images.
        uses_segmenter: whether `look` uses --segmenter.
    """

    name: str
    sees: Sight
    uses_seed: bool
    pick: Callable[[Features, int, np.random.Generator], Rows]
    uses_ipc: bool = True
    look: Callable[[Look], Seen] | None = None
    uses_segmenter: bool = False


def highest_first(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Pick by one value [n, 1], highest first; ties go to the lower row. A smaller count gives a prefix."""
    return np.argsort(-features[:, 0], kind="stable")[:count].astype(np.int64)


def check_look(method: Method, scenes: SceneSet) -> None:
    """Check that a method that looks at images itself can see their bands.

    Raises:
        InputError: images of another number of bands than RGB.
    """
    bands = scenes.images.shape[-1]
    if method.look is not None and bands != 3:
        raise InputError(
            f"{method.name}: looks at images of 3 bands, these have {bands}; leave it out, or give three bands "
            "(--bands 4,3,2)"
        )


def check_ipc(
    method: Method, labels: Int64, ipc: int, classes: tuple[str, ...] | None = None, option: str = "--ipc"
) -> None:
    """Check that every class in `labels` has enough images.

    Args:
        option: where `ipc` comes from.

    Raises:
        InputError: ipc < 1.
        DataError: a class has fewer than `ipc` images.
    """
    counts = zip(*np.unique(labels, return_counts=True), strict=True)
    named = {classes[label] if classes else f"label {label}": int(n) for label, n in counts}
    check_counts(method, named, ipc, option)


def check_counts(method: Method, counts: Mapping[str, int], ipc: int, option: str = "--ipc") -> None:
    """Check that every class has enough images.

    Args:
        counts: class → number of images. option: where `ipc` comes from.

    Raises:
        InputError: ipc < 1.
        DataError: a class has fewer than `ipc` images.
    """
    if not method.uses_ipc:
        return
    if ipc < 1:
        raise InputError(f"ipc is {ipc}: give at least one image per class")
    for name, count in counts.items():
        if ipc > count:
            raise DataError(
                f"class {name} has {counted(count, 'real image')}, {option} asks for {ipc}: give {option} {count} "
                "or less"
            )


def rows_by_class(
    method: Method,
    labels: Int64,
    ipc: int,
    seed: int,
    features: Features | None = None,
    classes: tuple[str, ...] | None = None,
) -> Rows:
    """Choose rows of `labels` [n], sorted by class and within a class in the method's order.

    The random choice within a class depends on (seed, class) only.

    Raises:
        InputError, DataError: as `check_ipc`; features that are missing, not finite or not one row per image.
    """
    check_ipc(method, labels, ipc, classes)
    if features is None or method.sees == "nothing":
        features = np.empty((len(labels), 0), np.float32)
    if features.ndim != 2 or len(features) != len(labels) or (method.sees != "nothing" and not features.shape[1]):
        raise InputError(f"{method.name} needs {method.sees} [{len(labels)}, D], got {list(features.shape)}")
    if not np.isfinite(features).all():
        raise DataError(f"{method.name}: some {method.sees} are not finite; use another extractor")
    chosen = []
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        chosen.append(members[method.pick(features[members], ipc, np.random.default_rng([seed, label]))])
    return np.concatenate(chosen).astype(np.int64)
