"""What is audited, and the images it is audited with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from dpd_eval.audited_model import Labels, Model
from dpd_eval.extractor_choice import check_name
from dpd_eval.records import check_bands
from dpd_eval.sets import Set, open_set
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.bands import Band
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.image_folders import check_apart
from dpd_runtime.machine import usable_cores, usable_memory
from dpd_runtime.manifest import MANIFEST_NAME
from dpd_runtime.networks import TEACHER, choose_provider, load_networks
from dpd_runtime.set_state import DATASET_NAME
from dpd_runtime.text import counted
from dpd_train.reading import BY_CONTENT, PLAIN, HeldOut, Reading, parse_reading
from dpd_train.run import Run, open_run
from dpd_train.scene_set import Part, SceneSet, fingerprint
from dpd_train.scenes import Scenes, check_unopened, opened

# -- What an audit checks before PyTorch is imported: what kind of thing is audited, its classes, and the data.


Kind = Literal["bundle", "run", "set"]
AuditSubject = Bundle | Run | Set
"""A bundle, a run or a set, opened."""


def open_audited(path: Path | Scenes | AuditSubject) -> AuditSubject:
    """Open what is audited, where it is not open yet. Any folder that is neither a bundle nor a run is a set, whoever
    made its images.

    Raises:
        InputError: nothing at all, or no finished run.
        BundleError: a file that is no bundle, or a damaged one.
        DataError: a folder without labelled images.
    """
    if not isinstance(path, Path):
        return open_set(path) if isinstance(path, Scenes) else path
    if (path / DATASET_NAME).is_file():
        return open_set(path)
    if (path / "run.json").is_file():
        return open_run(path)
    if not path.exists():
        raise InputError(f"{path}: no such bundle, run or set; give a .dpd file, a run or a folder of labelled images")
    if path.is_file() or (path / MANIFEST_NAME).is_file():
        return load_bundle(path, allow_older=True)
    return open_set(path)


def kind_of(audited: AuditSubject) -> Kind:
    """What is audited, in a word."""
    return "bundle" if isinstance(audited, Bundle) else "run" if isinstance(audited, Run) else "set"


def check_run(kind: Kind, run: Path | None) -> None:
    """Check `--run` for what is audited.

    Raises:
        InputError: `run` has no effect, or is not a run.
    """
    if run is None:
        return
    if kind == "set":
        raise InputError(f"--run {run} has no effect on a set: it has no networks")
    if kind == "run":
        raise InputError(f"--run {run} has no effect: a run is audited with its own encoder")
    if not (run / "pipeline").is_dir():
        raise InputError(f"--run {run}: no pipeline/ in it; give the run directory from which the bundle was exported")


def check_asked(audited: AuditSubject, *, run: Path | None, images: int | None, seed: int | None) -> None:
    """Check the options for what is audited.

    Raises:
        InputError: an option without effect, or a `run` that is none.
    """
    kind = kind_of(audited)
    if isinstance(audited, Set) and not audited.root.is_dir():
        raise InputError(f"{audited.root}: is a list; give the folder of a set, as all of its files are looked at")
    for option, value in (("--images", images), ("--seed", seed)):
        if kind == "set" and value is not None:
            raise InputError(f"{option} {value} has no effect on a set: all its images are tested")
    check_run(kind, run)


def check_private(private: Path | None, audited: AuditSubject, train: Scenes, holdout: Scenes | None) -> None:
    """Check that pictures of real images go neither into what will leave, nor among the images that are read.

    Raises:
        InputError: `private` is inside a set or a bundle, or among the images.
    """
    if private is None:
        return
    leaves = audited.root if isinstance(audited, Set) else audited.path if isinstance(audited, Bundle) else None
    if leaves is not None and private.resolve().is_relative_to(leaves.resolve()):
        raise InputError(f"--private {private}: is inside {leaves}, which would leave with it; choose another place")
    for scenes in (train, holdout):
        if scenes is not None:
            check_apart("--private", private, scenes.root)


def check_further(extractor: str | None) -> None:
    """Check the name of a further extractor.

    Raises:
        InputError: an unknown one, or own, which the audit always has.
    """
    if extractor == "own":
        raise InputError("--extractor own has no effect: the audit always has it; name another one")
    if extractor is not None:
        check_name(extractor)


@dataclass(frozen=True)
class AuditInputs:
    """What an audit is asked, opened and checked. Its images are not read yet.

    Args:
        train: has the training images T. holdout: images H of the same distribution; None for the validation part of
            `train`. run: from which the bundle was exported.
        images: number of images to generate and test; None for FEWEST_IMAGES. Of a set all are tested. seed: for
            generating them; None for 0.
        extractor: whose features are compared too. private: folder for pictures and findings that show real images;
            None takes the run's private/audit, if any.
    """

    audited: AuditSubject
    train: Scenes
    holdout: Scenes | None
    run: Path | None
    images: int | None
    seed: int | None
    extractor: str | None
    private: Path | None


def open_audit(
    path: Path | Scenes | AuditSubject,
    *,
    train: Path | Scenes,
    holdout: Path | Scenes | None = None,
    run: Path | None = None,
    held_out: HeldOut = BY_CONTENT,
    reading: Reading | None = None,
    images: int | None = None,
    seed: int | None = None,
    extractor: str | None = None,
    private: Path | None = None,
) -> AuditInputs:
    """Open what is audited and the folders that it is compared with, and check everything that needs no image.

    Args:
        path: a bundle, a run directory or a distilled set, or one that was opened.
        train: the training images T: the training part without the validation part (`held_out`). Scenes that were
            opened say themselves what is held out and how they are read: neither may be given with them.
        holdout: images H of the same distribution that were never trained on; None takes the validation part.
        run: the run from which the bundle was exported; its VAE includes the encoder.
        reading: of T and H; if it says nothing, a bundle of other bands than RGB is compared as its run read them.
        images, seed, extractor, private: as in `AuditInputs`. The audit's own spaces stay beside those of an
            extractor, so that no choice of features makes a verdict milder.

    Raises:
        InputError, DataError, BundleError: arguments that are out of range or without effect, or unusable places.
    """
    check_numbers(images, seed)
    audited = open_audited(path)
    check_asked(audited, run=run, images=images, seed=seed)
    check_further(extractor)
    check_unopened(train, held_out, reading)
    scenes = opened(train, held_out, reading)
    others = None if holdout is None else opened(holdout, held_out.elsewhere)
    check_private(private, audited, scenes, others)
    check_sources(scenes, others, classes_of(audited))
    return AuditInputs(audited, scenes, others, run, images, seed, extractor, private)


def classes_of(audited: AuditSubject) -> tuple[str, ...]:
    """The class names of what is audited."""
    if isinstance(audited, Bundle):
        return tuple(c.name for c in audited.classes)
    if isinstance(audited, Run):
        return tuple(str(entry["name"]) for entry in audited.table["classes"])
    return tuple(audited.scenes.counts("all"))


# -- The subject of an audit: a bundle, a run or a folder of labelled images, as networks, images and files.


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Args:
        files: what leaves the site, by path; None for a run.
        trained_on: hash of the training images, if known.
        bands: of its images; empty for RGB, None for a set without dataset.json, whose files decide.
        model: None for a set.
        images: of a set, with their labels, as `with_images` reads them. made: the set, opened.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    side: int
    files: Mapping[str, bytes] | None
    trained_on: str | None
    bands: tuple[Band, ...] | None = ()
    model: Model | None = None
    images: tuple[Images, Labels] | None = None
    made: Set | None = None


def subject_of(audited: AuditSubject) -> Subject:
    """Load the networks of a bundle or a run.

    Raises:
        InputError: a run whose pipeline cannot be opened.
        ProviderError: a bundle without a provider that computes it here.
    """
    if isinstance(audited, Set):
        return _of_set(audited)
    if isinstance(audited, Run):
        from dpd_eval.audited_run import model_of_run

        return _with_model("run", model_of_run(audited), None)
    provider = choose_provider("cpu", lambda candidate: None, listed=audited.host.available_providers)
    teacher = audited.engine(TEACHER, provider) if TEACHER in audited.files else None
    files = {**audited.files, MANIFEST_NAME: audited.raw}
    return _with_model("bundle", Model(audited, load_networks(audited, provider, usable_cores()), teacher), files)


def _with_model(kind: Literal["bundle", "run"], model: Model, files: Mapping[str, bytes] | None) -> Subject:
    bundle = model.bundle
    return Subject(
        name=bundle.manifest.name,
        kind=kind,
        classes=tuple(c.name for c in bundle.classes),
        side=bundle.manifest.image_shape[0],
        files=files,
        trained_on=bundle.manifest.data.get("fingerprint"),
        bands=bundle.manifest.bands,
        model=model,
    )


def _of_set(made: Set) -> Subject:
    path = made.root
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    size, memory = sum(file.stat().st_size for file in files), usable_memory()
    if memory is not None and size > memory / 4:
        raise InputError(
            f"{path}: the audit looks for traces in all of its {counted(len(files), 'file')}, {size / 1e9:.1f} GB: "
            f"more than a quarter of the {memory / 1e9:.1f} GB of memory; give a folder that holds the set alone"
        )
    return Subject(
        name=path.resolve().name,
        kind="set",
        classes=tuple(made.scenes.counts("all")),
        side=made.scenes.side,
        files={str(file.relative_to(path)): file.read_bytes() for file in files},
        trained_on=None,
        bands=made.bands,
        made=made,
    )


def read_as_made(subject: Subject, run: Path | Run | None, train: Scenes) -> Scenes:
    """T, read as the options say or, where they say nothing of the subject's bands, as its run read it.

    Args:
        run: that was audited or exported, if it is known.

    Raises:
        InputError: neither says it.
    """
    if not subject.bands or train.reading != PLAIN:
        return train
    if run is None:
        way_out = "give --bands all" + ("" if subject.kind == "set" else ", or --run RUN")
        raise InputError(f"{subject.name} has {counted(len(subject.bands), 'band')}, --train is read as RGB: {way_out}")
    config = (run if isinstance(run, Run) else open_run(run)).record["config"]
    return train.read_as(parse_reading(config.get("bands"), config.get("stretch")))


def with_images(subject: Subject, train: SceneSet) -> Subject:
    """The subject beside T: a set with its images, read as they must be to be compared with it.

    Raises:
        InputError: it has other bands than T.
        DataError: a set whose images cannot be used.
    """
    if subject.bands is not None:
        check_bands(subject.name, subject.bands, train, "--train")
    if subject.made is None:
        return subject
    scenes = subject.made.beside(train, subject.side)
    return replace(subject, images=(scenes.images, scenes.labels))


# -- The training images T, a hold-out H of the same distribution, and the samples of them for each test.


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
        """Structures of T [n, D], as `dpd_train.symmetry` has them."""
        from dpd_train.symmetry import structure  # loads PyTorch

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


@dataclass(frozen=True)
class Words:
    """What messages call T and the classes that are audited, and the end of those about a hold-out."""

    train: str = "--train"
    audited: str = "the audited ones"
    way_out: str = "give another --holdout"

    def source(self, holdout: Scenes | None) -> str:
        """What messages call H."""
        return f"the validation part of {self.train}" if holdout is None else "--holdout"


def read_data(
    train: Scenes,
    holdout: Scenes | None,
    *,
    classes: Sequence[str],
    resolution: int,
    words: Words = Words(),
) -> AuditData:
    """Read T, the training part of `train`, and H, which is `holdout` or the validation part of `train`.

    Args:
        holdout: its test/ is used if it has one, otherwise all of it.
        classes: class names of what is audited.

    Raises:
        DataError: unusable data, other classes, a hold-out that was trained on or has fewer than two images per class.
    """
    real, set_aside = train.part("train", resolution), None
    if holdout is None:
        held = train.part("val", resolution)
    else:
        set_aside = train.part("val", resolution) if train.held_out.val_per_class != 0 else None
        held = holdout.read_like(train, "--holdout", "--train").part(part_of(holdout), resolution)
    source = words.source(holdout)
    _check_classes(classes, real.classes, held.classes, holdout, words)
    held, shared = _without_copies(held, real, source, words)
    held, repeated = _one_of_each_scene(held)
    shown = sum(train.counted("train").scenes.values())
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
    return AuditData(real, held, *_halves(held.labels, classes, source, words), tuple(notes), set_aside)


def check_sources(train: Scenes, holdout: Scenes | None, classes: Sequence[str], words: Words = Words()) -> None:
    """Check the folders or lists of `read_data`, their classes and counts, before any image is opened.

    Raises:
        DataError: as `read_data`.
    """
    real = train.counts("train")
    held = train.counts("val") if holdout is None else holdout.counts(part_of(holdout))
    _check_classes(classes, tuple(real), tuple(held), holdout, words)


def part_of(holdout: Scenes) -> Part:
    """The part of a hold-out that an audit compares with."""
    return "test" if "test" in holdout.parts else "all"


def _check_classes(
    audited: Sequence[str], real: Sequence[str], held: Sequence[str], holdout: Scenes | None, words: Words
) -> None:
    for what, classes in ((words.train, real), (words.source(holdout), held)):
        if set(classes) != set(audited):
            differing = ", ".join(sorted(set(classes) ^ set(audited)))
            raise DataError(
                f"{what}: its classes differ from {words.audited}: {differing}; name the class folders alike"
            )


def _without_copies(held: SceneSet, real: SceneSet, source: str, words: Words) -> tuple[SceneSet, int]:
    known = set(real.hashes)
    kept = np.array([digest not in known for digest in held.hashes], dtype=bool)
    shared = int((~kept).sum())
    if shared > MOST_SHARED * len(kept):
        are = "is a training image" if shared == 1 else "are training images"
        raise DataError(
            f"{source}: {shared} of its {counted(len(kept), 'image')} {are}; give images that were not trained on: "
            f"{words.way_out}"
        )
    return held.only(np.flatnonzero(kept)), shared


def _one_of_each_scene(held: SceneSet) -> tuple[SceneSet, int]:
    """H with one image of each scene, and the number of others: H1 and H2 share none, and numbers of images decide what
    a test can tell.
    """
    from dpd_train.symmetry import near_duplicates  # loads PyTorch

    near = near_duplicates(held.images, held.hashes)
    return (held.only([row for row in range(len(held.labels)) if row not in near]), len(near)) if near else (held, 0)


def _halves(labels: Rows, classes: Sequence[str], source: str, words: Words) -> tuple[Rows, Rows]:
    """Split each class into random halves."""
    rng = np.random.default_rng(SEED)
    first, second = [], []
    for label, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < 2:
            raise DataError(
                f"{source}: class {name} has {counted(len(rows), 'usable image')}, near duplicates counted once: an "
                f"audit needs at least 2 per class; {words.way_out}"
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
