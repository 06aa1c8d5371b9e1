"""The training images T, a hold-out H of the same distribution, and the samples of them for each test."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.text import counted
from dpd_train.held_out import BY_CONTENT, HeldOut
from dpd_train.images import (
    PLAIN,
    Part,
    Reading,
    SceneSet,
    check_files,
    count_scenes,
    fingerprint,
    read_scenes,
    split_folders,
)

SEED = 9  # for the halves of H and the samples of T
MOST_SHARED = 0.1  # share of H that may be copies of T: these are left out; a larger share is an error
Rows = Int64


@dataclass(frozen=True)
class AuditData:
    """T (`train`) and H (`held`).

    Args:
        first, second: rows of H: H1 sets the thresholds, H2 is the negative control.
        notes: remarks on the data for the reader of the audit.
        set_aside: validation images where H is other images; what leaves must not give them away either.
    """

    train: SceneSet
    held: SceneSet
    first: Rows
    second: Rows
    notes: tuple[str, ...]
    set_aside: SceneSet | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @cached_property
    def structures(self) -> Float32:
        """Structures of T [n, D], as `dpd_train.images.structure` has them."""
        from dpd_train.images.structure import structure  # loads PyTorch

        return structure(self.train.images)

    @property
    def names(self) -> list[str]:
        """File names of all private images: T, H and those set aside."""
        return [path for part in self._parts for path in part.paths]

    @property
    def pixels(self) -> Images:
        """All private images, uint8 [n, H, W, C], in the same order."""
        return np.concatenate([part.images for part in self._parts])

    @property
    def _parts(self) -> list[SceneSet]:
        return [part for part in (self.train, self.held, self.set_aside) if part is not None]

    def fingerprint(self) -> str:
        """Return the hash of T as in run.json and bundle.json."""
        return str(fingerprint(self.train)["sha256"])

    def copied(self, most: int) -> Rows:
        """Choose `most` random rows of T, whose copies the tests must find."""
        return np.sort(np.random.default_rng(SEED).permutation(len(self.train.labels))[:most])

    def members(self, most: int) -> tuple[Rows, Rows]:
        """Choose about `most` rows of T and as many of H, with equal numbers of each class."""
        rng = np.random.default_rng([SEED, most])
        counts = [np.bincount(s.labels, minlength=len(self.classes)) for s in (self.train, self.held)]
        common = np.minimum(*counts)
        wanted = np.maximum(1, np.minimum(common, np.ceil(common * (most / max(most, common.sum()))).astype(int)))
        chosen = [
            np.concatenate(
                [np.sort(rng.permutation(np.flatnonzero(s.labels == label))[:n]) for label, n in enumerate(wanted)]
            )
            for s in (self.train, self.held)
        ]
        return chosen[0], chosen[1]


def read_data(
    train: Path,
    holdout: Path | None,
    *,
    classes: Sequence[str],
    resolution: int,
    held_out: HeldOut = BY_CONTENT,
    reading: Reading = PLAIN,
) -> AuditData:
    """Read T, the training part of `train`, and H, which is `holdout` or the validation part of `train`.

    Args:
        holdout: its test/ is used if it has one, otherwise all of it.
        classes: class names of what is audited.

    Raises:
        DataError: unusable data, other classes, a hold-out that was trained on or has fewer than two images per class.
    """
    read = partial(read_scenes, train, resolution=resolution, held_out=held_out, reading=reading)
    real, set_aside = read(part="train"), None
    if holdout is None:
        held = read(part="val")
    else:
        set_aside = read(part="val") if held_out.val_per_class != 0 else None
        part: Part = "test" if "test" in split_folders(holdout) else "all"
        alike = real.rendering or PLAIN
        held = read_scenes(holdout, part=part, resolution=resolution, held_out=held_out.elsewhere, reading=alike)
    source = _source(holdout)
    _check_classes(classes, real.classes, held.classes, source)
    held, shared = _without_copies(held, real, source)
    held, repeated = _one_of_each_scene(held)
    shown = sum(count_scenes(train, "train", held_out, real.rendering or reading).scenes.values())
    of_train = f"{len(real.labels)}" + (
        f", which show {counted(shown, 'distinct scene')}" if shown < len(real.labels) else ""
    )
    notes = [f"H is {source}: {counted(len(held.labels), 'image')}; T has {of_train}"]
    if holdout is None:
        notes.append(
            "H was used to choose when trainings stop: its losses are slightly lower than those of unseen images"
        )
    if shared:
        notes.append(f"{counted(shared, 'image of H is', 'images of H are')} also in T, and left out")
    if repeated:
        out = counted(repeated, "image of H was", "images of H were")
        notes.append(f"{out} left out as turned, mirrored or near duplicates of others in H")
    return AuditData(real, held, *_halves(held.labels, classes, source), tuple(notes), set_aside)


def check_sources(train: Path, holdout: Path | None, classes: Sequence[str], held_out: HeldOut = BY_CONTENT) -> None:
    """Check the folders or lists of `read_data`, their classes and counts, before any image is opened.

    Raises:
        DataError: as `read_data`.
    """
    real = check_files(train, "train", held_out)
    if holdout is None:
        held = check_files(train, "val", held_out)
    else:
        part: Part = "test" if "test" in split_folders(holdout) else "all"
        held = check_files(holdout, part, held_out.elsewhere)
    _check_classes(classes, tuple(real), tuple(held), _source(holdout))


def _source(holdout: Path | None) -> str:
    return "the validation part of --train" if holdout is None else "--holdout"


def _check_classes(audited: Sequence[str], real: Sequence[str], held: Sequence[str], source: str) -> None:
    for what, classes in (("--train", real), (source, held)):
        if set(classes) != set(audited):
            differing = ", ".join(sorted(set(classes) ^ set(audited)))
            raise DataError(f"{what}: its classes differ from the audited ones: {differing}")


def _without_copies(held: SceneSet, real: SceneSet, source: str) -> tuple[SceneSet, int]:
    known = set(real.hashes)
    kept = np.array([digest not in known for digest in held.hashes], dtype=bool)
    shared = int((~kept).sum())
    if shared > MOST_SHARED * len(kept):
        are = "is a training image" if shared == 1 else "are training images"
        raise DataError(
            f"{source}: {shared} of its {counted(len(kept), 'image')} {are}; give images that were not trained on"
        )
    return held.only(np.flatnonzero(kept)), shared


def _one_of_each_scene(held: SceneSet) -> tuple[SceneSet, int]:
    """H with one image of each scene, and the number of others: H1 and H2 share none, and numbers of images decide what
    a test can tell.
    """
    from dpd_train.images.structure import near_duplicates  # loads PyTorch

    near = near_duplicates(held.images, held.hashes)
    return (held.only([row for row in range(len(held.labels)) if row not in near]), len(near)) if near else (held, 0)


def _halves(labels: Rows, classes: Sequence[str], source: str) -> tuple[Rows, Rows]:
    """Split each class into random halves."""
    rng = np.random.default_rng(SEED)
    first, second = [], []
    for label, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < 2:
            raise DataError(
                f"{source}: class {name} has {counted(len(rows), 'usable image')}, near duplicates counted once: an "
                "audit needs at least 2 per class"
            )
        first.append(rows[: len(rows) // 2])
        second.append(rows[len(rows) // 2 :])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def check_numbers(images: int | None, seed: int | None) -> None:
    """Check the numbers given on the command line; None is not given.

    Raises:
        InputError: a number out of range.
    """
    if images is not None and images < 1:
        raise InputError(f"--images is {images}: give at least 1; an audit needs 500")
    if seed is not None and not 0 <= seed < 2**32:
        raise InputError(f"--seed is {seed}: it must be 0 … 2**32 - 1")
