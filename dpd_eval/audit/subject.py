"""The subject of an audit: a bundle, a run or a folder of labelled images, as networks, images and files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dpd_eval.audit.kind import Kind, kind_of
from dpd_eval.audit.model import Labels, Model
from dpd_eval.bands import bands_of_set, check_bands, set_reading
from dpd_runtime.annotations import Images
from dpd_runtime.bundle.archive import open_files
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.manifest import MANIFEST_NAME
from dpd_runtime.errors import InputError
from dpd_runtime.generation.networks import load_networks
from dpd_runtime.generation.providers import choose_provider
from dpd_runtime.generation.teacher import TEACHER
from dpd_runtime.images.bands import Band
from dpd_runtime.machine.cores import usable_cores
from dpd_runtime.text import counted
from dpd_train.images import Reading, SceneSet, check_files, natural_side, parse_reading, read_scenes
from dpd_train.run.finished import read_run


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Args:
        files: what leaves the site, by path; None for a run.
        trained_on: hash of the training images, if known.
        bands: of its images; empty for RGB, None for a set without dataset.json, whose files decide.
        model: None for a set.
        images: of a set, with their labels, as `with_images` reads them.
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


def open_subject(path: Path) -> Subject:
    """Open a bundle, a run or a set: any folder of labelled images.

    Raises:
        InputError: nothing at `path`.
        BundleError: a damaged bundle.
        DataError: a folder without labelled images.
    """
    kind = kind_of(path)
    if kind == "set":
        return _open_set(path)
    if kind == "run":
        from dpd_eval.audit.run_model import open_run

        model = open_run(path)
        return _with_model(path, "run", model, None)
    bundle = load_bundle(path, allow_older=True)
    provider = choose_provider("cpu", lambda candidate: None, listed=bundle.host.available_providers)
    teacher = bundle.engine(TEACHER, provider) if TEACHER in bundle.files else None
    files = dict(bundle.files) | {MANIFEST_NAME: bytes(open_files(path)[MANIFEST_NAME])}
    networks = load_networks(bundle, provider, usable_cores())
    return _with_model(path, "bundle", Model(bundle, networks, teacher), files)


def _with_model(path: Path, kind: Literal["bundle", "run"], model: Model, files: Mapping[str, bytes] | None) -> Subject:
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


def _open_set(path: Path) -> Subject:
    return Subject(
        name=path.resolve().name,
        kind="set",
        classes=tuple(check_files(path, "all")),
        side=natural_side(path),
        files={str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()},
        trained_on=None,
        bands=bands_of_set(path),
    )


def reading_of(subject: Subject, run: Path | None, reading: Reading) -> Reading:
    """How T is read: as the options say or, where they say nothing of the subject's bands, as its run read it.

    Args:
        run: that was audited or exported, if it is known.

    Raises:
        InputError: neither says it.
    """
    if not subject.bands or not reading.plain:
        return reading
    if run is None:
        way_out = "give --bands all" + ("" if subject.kind == "set" else ", or --run RUN")
        raise InputError(f"{subject.name} has {counted(len(subject.bands), 'band')}, --train is read as RGB: {way_out}")
    config = read_run(run).record["config"]
    return parse_reading(config.get("bands"), config.get("stretch"))


def with_images(subject: Subject, path: Path, train: SceneSet) -> Subject:
    """The subject beside T: a set with its images, read as they must be to be compared with it.

    Raises:
        InputError: it has other bands than T.
        DataError: a set whose images cannot be used.
    """
    if subject.bands is not None:
        check_bands(subject.name, subject.bands, train, "--train")
    if subject.kind != "set":
        return subject
    scenes = read_scenes(path, part="all", resolution=subject.side, reading=set_reading(train))
    return replace(subject, images=(scenes.images, scenes.labels))
