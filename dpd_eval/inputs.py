"""What an evaluation or a fit begins with: images and sets, read and checked without PyTorch."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from dpd_eval.extractor_choice import check_extractor_bands, check_name
from dpd_eval.options import EvaluateConfig, FitConfig
from dpd_eval.pretrained import PROBE, TUNE, TUNE_RECIPE, check_student, without_folder
from dpd_eval.recipe import Recipe, load_recipe
from dpd_eval.records import check_bands, described
from dpd_eval.selection import METHODS, check_counts, check_ipc, check_look, find_method
from dpd_eval.sets import Set, open_set
from dpd_eval.statistics import fewest_pairs
from dpd_eval.verdict import TEACHER_TESTS, Audit
from dpd_runtime.annotations import Int64
from dpd_runtime.bundle import Bundle
from dpd_runtime.classifier import MOST_CLASSES, images_below, is_class_name
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.files import parse_json
from dpd_runtime.manifest import AUDIT_NAME
from dpd_runtime.networks import check_teacher
from dpd_runtime.text import counted, printable
from dpd_train.reading import ImageOptions
from dpd_train.records import convert
from dpd_train.scene_set import SceneSet, fingerprint
from dpd_train.scenes import Scenes, opened

log = logging.getLogger(__name__)

# -- The images of an evaluation: sets, real training images and test images, read in the same way and cross-checked.


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
        """Return the sha256 over the sorted content hashes of each part, and that of the data card, if there is one."""
        parts = {"train": self.real, "test": self.test}
        parts |= {f"set {i}": scenes for i, scenes in enumerate(self.sets)}
        hashes = {name: str(fingerprint(scenes)["sha256"]) for name, scenes in parts.items()}
        return hashes if self.real.card is None else hashes | {"data card": self.real.card}

    def notes(self) -> list[str]:
        """List what a reader of the results must know: shared images and rejected files."""
        notes = []
        test_hashes = set(self.test.hashes)
        named = [("--train", self.real)]
        named += [(f"SET {name}", scenes) for name, scenes in zip(self.names, self.sets, strict=True)]
        for name, scenes in named:
            shared = len(test_hashes.intersection(scenes.hashes_as(self.test.rendering)))
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


@dataclass(frozen=True)
class Compared:
    """What an evaluation compares, opened. test: None for the validation part of `train`."""

    sets: tuple[Set, ...]
    train: Scenes
    test: Scenes | None

    @property
    def tested(self) -> str:
        """The test images, for messages."""
        return f"--test {'val' if self.test is None else self.test.root}"

    @property
    def test_part(self) -> Literal["val", "test", "all"]:
        """Raises:
        DataError: a folder with parts of which none is test.
        """
        if self.test is None:
            return "val"
        parts = self.test.parts
        if parts and "test" not in parts:
            raise DataError(f"{self.tested}: has {', '.join(parts)} but no test part; give test images, or --test val")
        return "test" if parts else "all"


def open_compared(
    sets: Sequence[Path | Scenes | Set],
    train: Path | Scenes,
    test: Path | Scenes | Literal["val"],
    options: ImageOptions,
) -> Compared:
    """Open what an evaluation compares, where it is not open yet. options: of the real images.

    Raises:
        DataError: as `open_scenes`.
        InputError: a dataset.json is damaged.
    """
    return Compared(
        tuple(map(open_set, sets)),
        opened(train, options),
        None if test == "val" else opened(test, options.elsewhere),
    )


def read_inputs(compared: Compared, resolution: int | None = None) -> EvaluationInputs:
    """Read all images at `resolution`; None takes the size of the first set.

    The stretch is computed on the training images and used for the test images too, and for sets of the same bands.

    Raises:
        DataError: unreadable data, classes that differ, test images that were trained on.
        InputError: a set with other bands than the training images.
    """
    sets, train = compared.sets, compared.train
    side = sets[0].scenes.side if resolution is None else resolution
    real, source = train.part("train", side), f"--train {train.root}"
    for one in sets:
        if one.bands is not None:
            check_bands(f"SET {one.root}", one.bands, real, source)
    distilled = [one.beside(real, side) for one in sets]
    part = compared.test_part
    test = train if compared.test is None else compared.test.read_like(train, "--test", "--train")
    tested = test.part(part, side)
    inputs = EvaluationInputs(tuple(str(one.root) for one in sets), tuple(distilled), real, tested, part)
    check_overlap(tested, real, compared.tested, source)
    _check_classes(tested.classes, real.classes, compared.tested, source)
    for name, scenes in zip(inputs.names, inputs.sets, strict=True):
        _check_classes(scenes.classes, real.classes, f"SET {name}", source)
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


def check_sources(compared: Compared) -> tuple[list[dict[str, int]], dict[str, int]]:
    """Check the folders or lists of `read_inputs`, their classes and counts, before any image is opened.

    Returns:
        class → number of image files, of each set and of the training part.

    Raises:
        DataError: as `read_inputs`.
    """
    train, source = compared.train, f"--train {compared.train.root}"
    for one in compared.sets:
        _check_undivided(one.scenes, f"SET {one.root}", "test images with --test")
    of_sets = [one.scenes.counts("all") for one in compared.sets]
    real = train.counts("train")
    tested = (compared.test or train).counts(compared.test_part)
    _check_classes(tuple(tested), tuple(real), compared.tested, source)
    for one, counts in zip(compared.sets, of_sets, strict=True):
        _check_classes(tuple(counts), tuple(real), f"SET {one.root}", source)
    return of_sets, real


def _check_classes(classes: tuple[str, ...], expected: tuple[str, ...], what: str, reference: str) -> None:
    missing, extra = sorted(set(expected) - set(classes)), sorted(set(classes) - set(expected))
    if missing or extra:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"additional {', '.join(extra)}"] if extra else []
        raise DataError(
            f"{what}: its classes differ from those of {reference}: {'; '.join(parts)}; "
            "the class folders must have the same names"
        )


def check_overlap(
    tested: SceneSet,
    real: SceneSet,
    what: str,
    reference: str,
    way_out: str = "give images that were not trained on, or --test val",
) -> None:
    """Refuse test images of which more than a tenth are training images; a few shared images only give a note.

    Args:
        what, reference: what the message calls the test images, and the training images. way_out: its end.

    Raises:
        DataError: they are.
    """
    shared = len(set(tested.hashes) & set(real.hashes))
    if 10 * shared > len(tested.labels):
        raise DataError(
            f"{what}: {shared} of its {len(tested.labels)} images are training images of {reference}; {way_out}"
        )


def _class_counts(scenes: SceneSet) -> Int64:
    return np.bincount(scenes.labels, minlength=len(scenes.classes)).astype(np.int64)


# -- What an evaluation checks beyond its config: what needs its sets, its images or installed models.


@dataclass(frozen=True)
class OpenedEvaluation:
    """What an evaluation is asked, opened and checked. Its images are not read yet.

    Args:
        config: as the real images settle it. recipe: the one that it names.
        teacher: a bundle whose classifier may teach these classes.
    """

    compared: Compared
    config: EvaluateConfig
    recipe: Recipe
    teacher: Bundle | None


def open_evaluation(
    sets: Sequence[Path | Scenes | Set],
    config: EvaluateConfig,
    train: Path | Scenes,
    test: Path | Scenes | Literal["val"],
    teacher: Bundle | None = None,
) -> OpenedEvaluation:
    """Open what an evaluation compares, and check everything that needs no image to be opened.

    Args:
        sets, train, test, teacher: as in `dpd_eval.evaluate`.

    Raises:
        InputError: no set, more sets than pairs, a student, baseline, extractor or recipe that is unknown or not on
            this machine, an extractor that nothing would use, or a teacher that cannot teach.
        DataError: as `open_compared`; classes that differ, or too few images.
    """
    if not sets:
        raise InputError("no SET given: name at least one folder of a distilled set")
    for name in config.students:
        check_student(name)
    shown = [without_folder(name) for name in config.students]
    if same := next((name for name in shown if shown.count(name) > 1), None):
        raise InputError(f"--students: two are called {same}, which tables could not tell apart; rename a folder")
    if config.pairs is not None and config.pairs < len(sets):
        raise InputError(f"--pairs is {config.pairs}: give at least {len(sets)}, so that every SET is used")
    extractor_name(config)
    recipe = load_recipe(config.recipe)
    for name in config.baselines:
        find_method(name)
    compared = open_compared(sets, train, test, config)
    of_sets, real = check_sources(compared)
    if config.with_real:
        check_counts(METHODS["random"], real, max(config.with_real), "--with-real")
    if config.ipc:
        for one, counts in zip(compared.sets, of_sets, strict=True):
            check_set(str(one.root), counts, max(config.ipc))
        for name in config.baselines:
            check_counts(find_method(name), real, max(config.ipc))
    if config.labels:
        check_labels(real, max(config.ipc or (0,)))
    if teacher is not None:
        if config.soft_labels:
            raise InputError("--teacher and --soft-labels: a student learns from one teacher; leave one out")
        if probe := next((name for name in config.students if name.startswith(PROBE)), None):
            raise InputError(f"--teacher: student {probe} is fitted and asks no teacher; evaluate it without one")
        _check_teacher(teacher, real)
    return OpenedEvaluation(compared, compared.train.settle(config), recipe, teacher)


def check_labels(real: Mapping[str, int], ipc: int) -> None:
    """Check that real images can be halved: a classifier learns from one half, and names images of the other.

    Args:
        real: class → images. ipc: how many of each class are named at most; 0 where that is not known yet.

    Raises:
        DataError: too few.
    """
    smallest, half = min(real.values()), sum(count - count // 2 for count in real.values())
    if smallest < 4:
        raise DataError(
            f"--labels: a class has {counted(smallest, 'real image')}, too few for two halves; leave it out"
        )
    if (wanted := ipc * len(real)) > half:
        raise DataError(f"--labels: IPC {ipc} takes {wanted} images, half of the real are {half}: leave it out")


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


def check_sight(inputs: EvaluationInputs, config: EvaluateConfig, teacher: Bundle | None = None) -> None:
    """Check that all that looks at images can see their bands, before anything is trained. Students are built later.

    Raises:
        InputError: a baseline, an extractor, JPEGs or a teacher that know RGB only, for images of other bands.
    """
    for name in config.baselines:
        check_look(find_method(name), inputs.real)
    if (extractor := extractor_name(config)) is not None:
        check_extractor_bands(extractor, inputs.real)
    bands = inputs.real.images.shape[-1]
    if config.jpegs is not None and bands != 3:
        raise InputError(f"--jpegs {config.jpegs:g}: a JPEG has 3 bands, these images have {bands}; leave it out")
    if teacher is not None and bands != 3:
        raise InputError(f"--teacher {teacher.path}: it sees 3 bands, these images have {bands}; leave it out")


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


# -- What a fit begins with.


@dataclass(frozen=True)
class FitInputs:
    """What a fit begins with, opened and checked. Its images are not read yet.

    Args:
        distilled: the set. config: as own images settle it. recipe: with the config's steps, if it gives any.
        own: the site's labelled images, of the same classes.
        teacher: a bundle whose classifier may teach the classes of the set.
        unlabelled: folder of images that it answers too. files: those images, at least one.
    """

    distilled: Set
    config: FitConfig
    recipe: Recipe
    own: Scenes | None = None
    teacher: Bundle | None = None
    unlabelled: Path | None = None
    files: tuple[Path, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.distilled.scenes.counts("all"))

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.config.resolution or self.distilled.scenes.side


def open_fit(
    distilled: Path | Scenes | Set,
    config: FitConfig,
    own: Path | Scenes | None = None,
    teacher: Bundle | None = None,
    unlabelled: Path | None = None,
) -> FitInputs:
    """Open what a network is to be trained on, and check everything that needs no image to be opened.

    Args:
        distilled: a distilled set, or any folder of labelled images.
        own: the site's own labelled images of the same classes. A part of them is held out and measures the accuracy;
            the rest is trained on together with the set.
        teacher: a bundle whose classifier answers every view of the set's images, in the place of their labels. Own
            images keep their labels, and have half of each batch then.
        unlabelled: folder of the site's images without labels, which the teacher answers too.

    Raises:
        InputError: an unknown student or recipe, a backbone that is not there, options for own images without any,
            unlabelled images without a teacher, or a bundle without a teacher or with one that its audit failed.
        DataError: no class folders, one class, classes that differ, or a set of several sizes without `resolution`.
    """
    made, mine = open_set(distilled), None if own is None else opened(own, config)
    config = config if mine is None else mine.settle(config)
    usual = TUNE_RECIPE if config.backbone is not None else "quick" if teacher is None else "taught"
    recipe = load_recipe(config.recipe or usual)
    if unlabelled is not None and teacher is None:
        raise InputError(f"--unlabelled {unlabelled}: nobody says what they show; give --teacher BUNDLE, too")
    files = () if unlabelled is None else tuple(images_below(unlabelled))
    if teacher is not None and config.steps == 0:
        raise InputError("--steps 0: a teacher answers the views of a training; give steps, or leave out --teacher")
    for way, steps in ((PROBE, " --steps 0"), (TUNE, "")):
        if config.network.startswith(way):
            raise InputError(f"--student {config.network}: {way} is for dpd evaluate; give --backbone MODEL{steps}")
    check_student(config.network)
    if made.bands:
        raise InputError(
            f"{made.root} has {described(made.bands)}, and dpd fit trains on RGB: train a network of your own on its "
            "GeoTIFF files, which hold physical values"
        )
    if mine is None and config.image_options != ImageOptions().image_options:
        raise InputError("--bands, --stretch, --val-per-class, --split and --groups are for --own images; give some")
    if config.reading.carries:
        raise InputError(f"--bands {config.bands}: dpd fit trains on RGB; give three bands, such as --bands 4,3,2")
    _check_undivided(made.scenes, str(made.root), "own ones with --own")
    classes = made.scenes.counts("all")
    _check_names(classes, made.root)
    if teacher is not None:
        _check_teacher(teacher, classes)
    if mine is not None:
        _check_classes(tuple(mine.counts("train")), tuple(classes), f"--own {mine.root}", str(made.root))
    if config.resolution is None and len(made.scenes.sizes) > 1:
        raise DataError(f"{made.root}: has images of {len(made.scenes.sizes)} sizes; give --resolution")
    if config.steps is not None:
        recipe = replace(recipe, steps=config.steps or 1, epochs=0, warmup=min(recipe.warmup, max(config.steps - 1, 0)))
    return FitInputs(made, config, recipe, mine, teacher, unlabelled, files)


def _check_undivided(scenes: Scenes, name: str, others: str) -> None:
    """Check that a set has no parts, as all of it is trained on.

    Raises:
        DataError: it has some.
    """
    if parts := scenes.parts:
        raise DataError(
            f"{name}: has the parts {', '.join(parts)}, and all of a set is trained on; give the images that are to "
            f"be trained on alone, and {others}"
        )


def _check_names(classes: Collection[str], root: Path) -> None:
    """Check that a classifier may have these classes, before it is trained.

    Raises:
        DataError: a name that a classifier's record cannot have, or too many.
    """
    if odd := next((name for name in classes if not is_class_name(name)), None):
        raise DataError(
            f"{root}: a classifier cannot have a class called {printable(odd)!r}: file systems and tables would take "
            "it for something else; rename its folder, or its label in the list"
        )
    if len(classes) > MOST_CLASSES:
        raise DataError(f"{root}: has {len(classes)} classes, a classifier has {MOST_CLASSES} at most; give fewer")


def _check_teacher(bundle: Bundle, classes: Collection[str]) -> None:
    """Check that the bundle holds a teacher who may teach students of these classes.

    Raises:
        InputError: there is none, or its audit failed it. DataError: it does not know a class.
    """
    check_teacher(bundle, "--teacher")
    if missing := sorted(set(classes) - {known.name for known in bundle.classes}):
        raise DataError(
            f"--teacher {bundle.path}: it does not know {counted(len(missing), 'class')} of the data, first "
            f"{missing[0]}; name the class folders as the bundle does (dpd info lists them), or leave out --teacher"
        )
    height, width, _ = bundle.manifest.image_shape
    if height != width:
        raise InputError(f"--teacher {bundle.path}: its images are {height} × {width} px, and views are square")
    if AUDIT_NAME not in bundle.files:
        log.warning("%s was not audited: nobody tested whether its teacher tells who was in its training", bundle.path)
        return
    where = f"{bundle.path}: {AUDIT_NAME}"
    audit = convert(parse_json(bundle.files[AUDIT_NAME], where), Audit, where)
    tests = [test for test in audit.tests if test.name.startswith(TEACHER_TESTS)]
    if failed := next((test for test in tests if test.verdict == "FAIL"), None):
        raise InputError(
            f"--teacher {bundle.path}: its audit failed it ({printable(failed.name)}), and a network that it teaches "
            "would tell who was in its training, too; use a bundle whose teacher passes"
        )
    if all(test.verdict == "NOT RUN" for test in tests):
        log.warning("%s: its audit did not test its teacher; it may tell who was in its training", bundle.path)
