"""The images of an evaluation: sets, real training images and test images, read in the same way and cross-checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dpd_eval.bands import bands_of_set, check_bands, set_reading
from dpd_runtime.annotations import Int64
from dpd_runtime.errors import DataError
from dpd_runtime.text import counted
from dpd_train.held_out import BY_CONTENT, HeldOut
from dpd_train.images import (
    PLAIN,
    Reading,
    SceneSet,
    check_files,
    fingerprint,
    natural_side,
    read_scenes,
    split_folders,
)


@dataclass(frozen=True)
class EvaluationInputs:
    """Sets, training images (`real`) and test images (`test`), all at one size and with the same classes.

    names: of the sets, for messages. test_part: "val", "test" or "all" (a folder without parts).
    """

    names: tuple[str, ...]
    sets: tuple[SceneSet, ...]
    real: SceneSet
    test: SceneSet
    test_part: Literal["val", "test", "all"]

    @property
    def side(self) -> int:
        return int(self.sets[0].images.shape[1])

    def smallest_class(self) -> int:
        """Count the images in the smallest class of any set."""
        return min(int(_class_counts(scenes).min()) for scenes in self.sets)

    def smallest_real_class(self) -> int:
        """Count the images in the smallest class of the real training images."""
        return int(_class_counts(self.real).min())

    def check_ipc(self, largest: int) -> None:
        """Check that every class of every set has enough images.

        Raises:
            DataError: a class with fewer images.
        """
        for name, scenes in zip(self.names, self.sets, strict=True):
            check_set(name, dict(zip(scenes.classes, _class_counts(scenes).tolist(), strict=True)), largest)

    def prefix(self, which: int, ipc: int) -> Int64:
        """Return the rows of the first `ipc` images of each class of set `which`, by file name."""
        labels = self.sets[which].labels
        return np.concatenate([np.flatnonzero(labels == c)[:ipc] for c in range(len(self.real.classes))])

    def fingerprints(self) -> dict[str, str]:
        """Return the sha256 over the sorted content hashes of each part."""
        parts = {"train": self.real, "test": self.test}
        parts |= {f"set {i}": scenes for i, scenes in enumerate(self.sets)}
        return {name: str(fingerprint(scenes)["sha256"]) for name, scenes in parts.items()}

    def notes(self) -> list[str]:
        """List what a reader of the results must know: shared images and rejected files."""
        notes = []
        test_hashes = set(self.test.hashes)
        named = [("--train", self.real)]
        named += [(f"SET {name}", scenes) for name, scenes in zip(self.names, self.sets, strict=True)]
        for name, scenes in named:
            shared = len(test_hashes.intersection(scenes.hashes))
            if shared:
                notes.append(
                    f"{counted(shared, 'test image is', 'test images are')} also in {name}, byte for byte: the "
                    "accuracies are too high"
                )
        for name, scenes in (*named, ("--test", self.test)):
            if scenes.rejected:
                notes.append(
                    f"{name}: {counted(len(scenes.rejected), 'file')} left out, first {scenes.rejected[0].path}: "
                    f"{scenes.rejected[0].reason}"
                )
        return notes


def read_inputs(
    sets: Sequence[Path],
    train: Path,
    test: Path | Literal["val"],
    resolution: int | None = None,
    held_out: HeldOut = BY_CONTENT,
    reading: Reading = PLAIN,
) -> EvaluationInputs:
    """Read all images at `resolution`; None takes the size of the first set.

    Args:
        reading: for the real images. The stretch is computed on `train` and used for the test images too, and for
            sets of the same bands.

    Raises:
        DataError: unreadable data, classes that differ, test images that were trained on.
        InputError: a set with other bands than the training images.
    """
    side = natural_side(Path(sets[0])) if resolution is None else resolution
    real = read_scenes(train, part="train", resolution=side, held_out=held_out, reading=reading)
    for path in sets:
        if (bands := bands_of_set(Path(path))) is not None:
            check_bands(f"SET {path}", bands, real, f"--train {train}")
    distilled = [read_scenes(Path(path), part="all", resolution=side, reading=set_reading(real)) for path in sets]
    part = _test_part(test)
    tested = read_scenes(
        train if test == "val" else Path(test),
        part=part,
        resolution=side,
        held_out=held_out if test == "val" else held_out.elsewhere,
        reading=real.rendering or PLAIN,
    )
    inputs = EvaluationInputs(tuple(str(path) for path in sets), tuple(distilled), real, tested, part)
    _check_overlap(tested, real, f"--test {test}", f"--train {train}")
    _check_classes(tested.classes, real.classes, f"--test {test}", f"--train {train}")
    for name, scenes in zip(inputs.names, inputs.sets, strict=True):
        _check_classes(scenes.classes, real.classes, f"SET {name}", f"--train {train}")
    return inputs


def check_set(name: str, counts: Mapping[str, int], largest: int) -> None:
    """Check that every class of a set has enough images.

    Args:
        counts: class → number of images. largest: IPC to compare at.

    Raises:
        DataError: a class with fewer images.
    """
    smallest = min(counts, key=lambda name: counts[name])
    if largest > counts[smallest]:
        raise DataError(
            f"SET {name}: class {smallest} has {counted(counts[smallest], 'image')}, --ipc asks for {largest}: give "
            f"--ipc {counts[smallest]} or less, or generate more images"
        )


def check_sources(
    sets: Sequence[Path], train: Path, test: Path | Literal["val"], held_out: HeldOut = BY_CONTENT
) -> tuple[list[dict[str, int]], dict[str, int]]:
    """Check the folders or lists of `read_inputs`, their classes and counts, before any image is opened.

    Returns:
        class → number of image files, of each set and of the training part.

    Raises:
        DataError: as `read_inputs`.
    """
    of_sets = [check_files(Path(path), "all") for path in sets]
    real = check_files(train, "train", held_out)
    own = test == "val"
    tested = check_files(train if own else Path(test), _test_part(test), held_out if own else held_out.elsewhere)
    _check_classes(tuple(tested), tuple(real), f"--test {test}", f"--train {train}")
    for path, counts in zip(sets, of_sets, strict=True):
        _check_classes(tuple(counts), tuple(real), f"SET {path}", f"--train {train}")
    return of_sets, real


def _test_part(test: Path | str) -> Literal["val", "test", "all"]:
    if test == "val":
        return "val"
    folders = split_folders(Path(test))
    if folders and "test" not in folders:
        raise DataError(f"--test {test}: has {', '.join(folders)} but no test part; give test images, or --test val")
    return "test" if folders else "all"


def _check_classes(classes: tuple[str, ...], expected: tuple[str, ...], what: str, reference: str) -> None:
    missing, extra = sorted(set(expected) - set(classes)), sorted(set(classes) - set(expected))
    if missing or extra:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"additional {', '.join(extra)}"] if extra else []
        raise DataError(
            f"{what}: its classes differ from those of {reference}: {'; '.join(parts)}; "
            "the class folders must have the same names"
        )


def _check_overlap(tested: SceneSet, real: SceneSet, what: str, reference: str) -> None:
    """Refuse test images of which more than a tenth are training images; a few shared images only give a note."""
    shared = len(set(tested.hashes) & set(real.hashes))
    if 10 * shared > len(tested.labels):
        raise DataError(
            f"{what}: {shared} of its {len(tested.labels)} images are training images of {reference}; "
            "give images that were not trained on, or --test val"
        )


def _class_counts(scenes: SceneSet) -> Int64:
    return np.bincount(scenes.labels, minlength=len(scenes.classes)).astype(np.int64)
