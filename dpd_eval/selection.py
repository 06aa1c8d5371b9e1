"""The interface of a selection method, and the loop over classes that all methods share."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from dpd_eval.extractor_choice import build_extractor, check_name
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.dataset import check_output_folder, contact_sheet, remove_partials, remove_set, set_hash
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.files import check_writable, dumps, write_atomically
from dpd_runtime.formats import PNG, folder_name
from dpd_runtime.image_folders import DECISIONS_NAME, SHEET_NAME
from dpd_runtime.sampler import BLOCK
from dpd_runtime.set_state import DATASET_NAME, METADATA_NAME, STATE_NAME, State
from dpd_runtime.text import counted
from dpd_runtime.versions import package_versions, versions
from dpd_train.doors import offered_names, open_door
from dpd_train.prototypes import herded
from dpd_train.reading import BY_CONTENT, HeldOut, Reading
from dpd_train.records import kept
from dpd_train.run import check_classes
from dpd_train.samples import Stage
from dpd_train.scene_set import SceneSet, fingerprint
from dpd_train.scenes import Scenes, check_unopened, opened

if TYPE_CHECKING:
    from dpd_eval.extractors import Extractor


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
        note: for the notes of an evaluation.
    """

    scenes: SceneSet
    features: Features | None = None
    network: str | None = None
    about: Callable[[Rows], dict[str, Any]] | None = None
    picture: Callable[[Rows], Images] | None = None
    note: str | None = None


@dataclass(frozen=True)
class Look:
    """What a method may look at to find out what it sees.

    Args:
        data: the real images, opened. scenes: their training part at the students' size.
        teacher: builds a network that knows the classes, in the order of `scenes`.
        cache: folder for what takes long; None for the user's cache directory.
    """

    data: Scenes
    scenes: SceneSet
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
    """

    name: str
    sees: Sight
    uses_seed: bool
    pick: Callable[[Features, int, np.random.Generator], Rows]
    uses_ipc: bool = True
    look: Callable[[Look], Seen] | None = None


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


# -- Selection methods of real images, their table, and the choice of images by one of them.


K_MEANS_SEED = 0
K_MEANS_STARTS = 10  # of k-means++; the one with the lowest inertia is used


def random_rows(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose the first `count` of a random permutation. A smaller count with an equal generator gives a prefix."""
    return generator.permutation(len(features))[:count]


def herding(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose images whose mean φ is near the mean of φ over the class, as `herded` does; φ is the feature at length 1.

    Unlike in iCaRL, means are not rescaled to length 1, so the distance between the means itself is minimised.
    """
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    unit = features / np.maximum(lengths, 1e-12)
    return np.array(herded(unit, unit.mean(axis=0), count), np.int64)


def k_center(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose images such that every other one is close to a chosen one.

    This is farthest-first traversal in Euclidean distance (Gonzalez 1985; Sener & Savarese 2018, algorithm 1).

    The first image is the one nearest to the class mean; each next one is farthest from those already chosen, and
    ties go to the lower row. The largest distance to the nearest chosen image is at most twice the optimum.
    Deterministic; a smaller count gives a prefix.
    """
    points = features.astype(np.float64)
    best = int(_squared_distances(points, points.mean(axis=0)).argmin())
    gaps = np.full(len(points), np.inf)
    chosen = []
    for _ in range(count):
        chosen.append(best)
        gaps = np.minimum(gaps, _squared_distances(points, points[best]))
        gaps[chosen] = -1.0  # below 0, the distance of copies: a chosen image is never chosen again
        best = int(gaps.argmax())
    return np.array(chosen, np.int64)


def _squared_distances(points: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.square(points - centre).sum(axis=1)
    return distances


def k_means(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose the member nearest to the centroid of each k-means cluster, larger clusters first.

    Ties go to the lower row. The seed is fixed. Another count makes other clusters, so a smaller choice is NOT a
    prefix of a larger one. If a class has fewer different images than `count`, copies are added at the end.
    """
    from sklearn.cluster import KMeans  # slow to import

    points = features.astype(np.float64)
    clusters = min(count, len(np.unique(points, axis=0)))
    with threadpool_limits(1):  # the order of summation depends on the threads
        model = KMeans(clusters, n_init=K_MEANS_STARTS, random_state=K_MEANS_SEED).fit(points)
    distances = ((points - model.cluster_centers_[model.labels_]) ** 2).sum(axis=1)
    names, sizes = np.unique(model.labels_, return_counts=True)
    chosen = []
    for cluster in names[np.argsort(-sizes, kind="stable")]:
        members = np.flatnonzero(model.labels_ == cluster)
        chosen.append(members[distances[members].argmin()])
    rest = np.setdiff1d(np.arange(len(points)), chosen)
    return np.concatenate([chosen, rest[: count - len(chosen)]]).astype(np.int64)


def all_rows(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Return every row in order; `count` is ignored. The upper reference for every subset."""
    return np.arange(len(features))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("random", sees="nothing", uses_seed=True, pick=random_rows),
        Method("herding", sees="features", uses_seed=False, pick=herding),
        Method("k-center", sees="features", uses_seed=False, pick=k_center),
        Method("k-means", sees="features", uses_seed=False, pick=k_means),
        Method("full", sees="nothing", uses_seed=False, pick=all_rows, uses_ipc=False),
    )
}


def method_names() -> tuple[str, ...]:
    """Names of all methods, here and in other packages (`dpd.selections`)."""
    return (*METHODS, *offered_names("dpd.selections"))


def find_method(name: str) -> Method:
    """Look up a method by name, here or in another package (`dpd.selections`), there maybe as `NAME:ARGUMENT`.

    Raises:
        InputError: no such method, or it takes no argument, or not this one.
    """
    if name in METHODS:
        return METHODS[name]
    family, colon, argument = name.partition(":")
    if family not in (offered := method_names()) or family in METHODS:
        raise InputError(f"no selection method {name!r}: there are {', '.join(offered)}")
    found: Method | Callable[[str], Method] = open_door("dpd.selections", family)
    if not isinstance(found, Method):
        return found(argument)
    if colon:
        raise InputError(f"{name}: {family} takes no argument; leave out what stands behind it")
    return found


def select(method: str, scenes: SceneSet, ipc: int, seed: int, features: Features | None = None) -> Rows:
    """Choose rows [classes · ipc] of `scenes`, sorted by class and within a class in the method's order.

    A smaller ipc gives a prefix of each class, except with k-means.

    Args:
        method: as in `find_method`.
        ipc: images per class; ignored by `full`, which takes all images.
        seed: used by `random` only.
        features: [n, D] of all images of `scenes`, for the methods that need them.

    Raises:
        InputError: an unknown method, ipc < 1, features that are missing or not one row per image.
        DataError: a class has fewer than ipc images, or features that are not finite.
    """
    return rows_by_class(find_method(method), scenes.labels, ipc, seed, features, scenes.classes)


def random_subset(labels: Int64, ipc: int, seed: int, classes: tuple[str, ...] | None = None) -> Int64:
    """Choose a class-balanced random subset: `ipc` rows of each class in `labels` [n], sorted by class.

    The choice within a class depends on (seed, class) only, so a smaller ipc with the same seed gives a prefix.

    Args:
        classes: class names for the error message; without them it gives the label number.

    Raises:
        InputError: ipc < 1.
        DataError: a class has fewer than `ipc` images.
    """
    return rows_by_class(METHODS["random"], labels, ipc, seed, classes=classes)


# -- Write a real subset as a distilled-set folder, so that it can take a distilled set's place: `dpd select`.


@dataclass(frozen=True)
class RealSet:
    """What `select_set` wrote. extractor: its description, None if the method needs no features. picture: whether there
    is one of the method's decisions.
    """

    out: Path
    images: int
    classes: int
    set_hash: str
    extractor: str | None
    rejected: int
    picture: bool


def select_set(
    data: Path | Scenes,
    out: Path,
    *,
    method: str,
    ipc: int | None,
    seed: int | None = None,
    held_out: HeldOut = BY_CONTENT,
    extractor: str | None = None,
    resolution: int | None = None,
    reading: Reading | None = None,
    overwrite: bool = False,
    cache: Path | None = None,
    progress: Stage = lambda title: lambda done, total: None,
) -> RealSet:
    """Choose real images from the training part of `data` and write them to `out`. Run it again to continue.

    Args:
        ipc: images per class; None for `full`, which takes all images.
        seed: for methods that use random numbers; None is 0.
        data: a folder or list, or scenes that were opened. held_out, reading: how a folder or list is opened; not for
            scenes that were.
        resolution: as in `Scenes.part`.
        extractor, cache: as in `build_extractor`, for methods that use features; None is `own`.
        overwrite: delete a distilled set that is already at `out`.

    Raises:
        InputError: an unknown method or extractor, an argument that is missing or has no effect,
            `out` inside `data`, a reading that carries bands.
        DataError: unreadable data, a class with fewer than `ipc` images.
        OutputFolderError: `out` holds something else, or a set made with other settings.
    """
    chosen = find_method(method)
    _check_arguments(chosen, ipc, seed, extractor)
    _check_out(out, data.root if isinstance(data, Scenes) else data)
    check_unopened(data, held_out, reading)
    seed, count, data = seed or 0, 0 if ipc is None else ipc, opened(data, held_out, reading)
    check_classes(data.root, data.classes)  # which become folders
    _check_rgb(data)
    check_counts(chosen, data.counts("train"), count)  # before images are opened
    scenes = data.part("train", resolution)
    check_ipc(chosen, scenes.labels, count, scenes.classes)  # before a training that takes minutes

    def build(name: str) -> "Extractor":
        return build_extractor(name, scenes, cache=cache, progress=progress(f"training the extractor {name}"))

    seen = Seen(scenes)
    if chosen.look is not None:
        seen = chosen.look(Look(data, scenes, lambda: build("own"), cache, progress))
    elif chosen.sees == "features":
        network = build(extractor or "own")
        seen = Seen(scenes, network.features(scenes.images), network.description)
    rows = select(method, seen.scenes, count, seed, seen.features)
    about: dict[str, Any] = {"method": chosen.name, "ipc": ipc, "seed": seed if chosen.uses_seed else None}
    about |= data.held_out.held_out_options
    about |= _describe(seen, rows)
    if overwrite:
        remove_set(out)
    models = {"method": method, "extractor": extractor}
    config = {"ipc": ipc, "seed": about["seed"], "resolution": resolution}
    config |= {name: None if value is None else kept(value) for name, value in models.items()} | (data.options or {})
    config = {} if data.options is None else {name: value for name, value in config.items() if value is not None}
    digest = write_folder(seen.scenes, rows, out, about, progress("writing"), config)
    if seen.picture is not None:
        write_atomically(out / DECISIONS_NAME, PNG.encode(seen.picture(rows)))
    return RealSet(
        out, len(rows), len(scenes.classes), digest, seen.network, len(scenes.rejected), seen.picture is not None
    )


def _check_rgb(data: Scenes) -> None:
    if data.carries:
        raise InputError(
            "--bands: dpd select writes RGB, and these are not three bands; give three, such as --bands 4,3,2, or "
            "compare a set with real images of all bands by dpd evaluate --baselines"
        )


def _check_out(out: Path, data: Path) -> None:
    if data.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} is inside {data}, where it would be read as images; choose another --out")
    check_output_folder(out)
    check_writable(out)


def _check_arguments(method: Method, ipc: int | None, seed: int | None, extractor: str | None) -> None:
    if method.uses_ipc and ipc is None:
        raise InputError(f"method {method.name} needs --ipc: give the number of images per class")
    for flag, value, used in (
        ("ipc", ipc, method.uses_ipc),
        ("seed", seed, method.uses_seed),
        ("extractor", extractor, method.sees == "features"),
    ):
        if value is not None and not used:
            raise InputError(f"--{flag} {value} has no effect on method {method.name}: leave it out")
    if seed is not None and seed < 0:
        raise InputError(f"--seed is {seed}: it must be at least 0")
    if extractor is not None:
        check_name(extractor)


def _describe(seen: Seen, rows: Rows) -> dict[str, Any]:
    scenes = seen.scenes
    about: dict[str, Any] = {
        "extractor": seen.network,
        "resolution": int(scenes.images.shape[1]),
        "data": fingerprint(scenes),
    }
    if scenes.rendering is not None:
        about["reading"] = scenes.rendering.record()
    return about | ({} if seen.about is None else seen.about(rows))


# -- Write chosen real images as a distilled set (docs/guides/generate.md), without any trace of their source files.


NOT_GENERATED = {"prototype": None, "candidate": None, "margin": None, "seed": None}
"""What metadata.jsonl says of a generated image only."""


def write_folder(
    scenes: SceneSet,
    rows: Rows,
    out: Path,
    about: dict[str, Any],
    progress: Progress = lambda done, total: None,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Write the images `rows` (sorted by class) of `scenes` to `out`, then metadata.jsonl and dataset.json.

    Args:
        about: what the choice depends on. An unfinished folder with other values is refused, one with the same values
            is written again.
        config: the options of `dpd select` that repeat it.

    Returns:
        The set hash.

    Raises:
        OutputFolderError: `out` holds a set made with other settings.
        OSError: the disk is full, read-only or gone.
    """
    # dpd_runtime.dataset recognises our sets by bundle, sampler, seed and classes
    header = {"bundle": None, "sampler": None, **about, "classes": list(scenes.classes)}
    counts = np.bincount(scenes.labels[rows], minlength=len(scenes.classes)).tolist()
    out.mkdir(parents=True, exist_ok=True)
    State(out, header, max(counts))  # marks the folder as ours and unfinished
    remove_partials(out, header)
    for name in (DATASET_NAME, METADATA_NAME):
        (out / name).unlink(missing_ok=True)
    records: list[dict[str, Any]] = []
    for name in scenes.classes:
        (out / name).mkdir(exist_ok=True)
    for row in rows:
        label = int(scenes.labels[row])
        index = len(records) - sum(counts[:label])
        name = folder_name(scenes.classes[label], label, index, PNG.suffix)
        write_atomically(out / name, PNG.encode(scenes.images[row]), below=out)
        records.append(
            {"file_name": name, "label": label, "class": scenes.classes[label], "index": index, **NOT_GENERATED}
        )
        progress(len(records), len(rows))
    chosen = list(zip(records, scenes.images[rows], strict=True))
    digest = set_hash((record["class"], record["index"], pixels) for record, pixels in chosen)
    sheet = [
        (name, [pixels for record, pixels in chosen if record["class"] == name and record["index"] < BLOCK])
        for name in scenes.classes
    ]
    dataset = {
        "set_hash": digest,
        "real_images": True,
        **about,
        "images": len(records),
        "counts": dict(zip(scenes.classes, counts, strict=True)),
        "versions": versions() | package_versions("torch", "transformers", "scikit-learn"),
        **({"config": dict(config)} if config else {}),
        "made_with": header,
        "state": "complete",
    }
    write_atomically(
        out / METADATA_NAME, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
    )
    write_atomically(out / SHEET_NAME, PNG.encode(contact_sheet(sheet)))
    write_atomically(out / DATASET_NAME, dumps(dataset))
    (out / STATE_NAME).unlink()
    return digest
