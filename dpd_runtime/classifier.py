"""A classifier of `dpd fit` on disk, and the labels that it gives."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from dpd_runtime.annotations import Array, Float32, Pixels, Progress
from dpd_runtime.archive import refuse_holes
from dpd_runtime.dataset import MOST_ROWS, contact_sheet, tile
from dpd_runtime.engines import Compilation, Engine, Provider, run_to
from dpd_runtime.errors import CheckError, DataError, InputError, ModelError
from dpd_runtime.files import MAX_JSON_BYTES, check_writable, is_safe_name, naming, open_regular, parse_json
from dpd_runtime.graph_check import read_graph
from dpd_runtime.graph_facts import classifier_facts
from dpd_runtime.image_folders import image_files, passed_over
from dpd_runtime.images import alike, evenly_spaced, pillow_rgb, read_square
from dpd_runtime.machine import usable_memory
from dpd_runtime.manifest import FileEntry
from dpd_runtime.networks import choose_provider, softmax
from dpd_runtime.sampling import from_uint8
from dpd_runtime.sessions import Host
from dpd_runtime.set_card import quoted
from dpd_runtime.text import LONGEST_NAME, composed, counted, csv_line, is_readable, printable
from dpd_runtime.untrusted import apart

# -- The folder of a classifier that `dpd fit` made: its graph, and model.json with classes and how it was trained.
#
# The graph takes `images`, float32 [n, 3, side, side] in [-1, 1], and gives logits [n, classes]. It passes the check
# that a bundle's graphs pass without a signature, and runs in a process of its own as they do.


GRAPH_NAME, RECORD_NAME, CARD_NAME = "model.onnx", "model.json", "README.md"
INPUT, OUTPUT = "images", "logits"
FORMAT, FORMAT_VERSION = "dpd-classifier", 1
MOST_CLASSES, LARGEST_SIDE = 10_000, 4096
MOST_BYTES = 2**31  # of the graph: protobuf's own limit
COPIES = 3  # of the graph in memory: here, on its way to its process, and there
AGAIN = "fit it again"
MAKER = "dpd fit"


@dataclass(frozen=True, kw_only=True)
class ClassifierRecord:
    """The content of model.json.

    Args:
        classes: names in the order of the logits.
        side: height and width of the images that the graph takes, in pixels.
        graph: sha256 and size of model.onnx.
        network: what was trained, such as convnet.
        validation: `images`, and shares `oa`, `aa` with the 95 % interval `low`, `high` of oa; empty if the fit had no
            own images to hold out.
        training: images, recipe, seed and versions.
        format, format_version: what marks the file.
    """

    classes: tuple[str, ...]
    side: int
    graph: FileEntry
    network: str
    validation: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    @property
    def read_with(self) -> str:
        """The options by which the site's own images became RGB when it was fitted; empty where there were none."""
        own = self.training.get("own")
        rendering = own.get("rendering") if isinstance(own, dict) else None
        if not isinstance(rendering, dict):
            return ""
        bands, stretch = rendering.get("bands"), rendering.get("stretch")
        words = [f"--bands {','.join(map(str, bands))}"] if isinstance(bands, list) else []
        words += [f"--stretch {stretch}"] if isinstance(stretch, str) else []
        return printable(" ".join(words))[:LONGEST_NAME]


def is_class_name(name: str) -> bool:
    """Whether a classifier may have a class of this name."""
    return len(name) <= LONGEST_NAME and is_safe_name(name)


def parse_record(raw: bytes) -> ClassifierRecord:
    """Parse model.json.

    Raises:
        ModelError: not what `dpd fit` writes, or of a later version.
    """
    content = parse_json(raw, RECORD_NAME)
    _require(isinstance(content, dict) and content.get("format") == FORMAT, "is not the record of a classifier")
    version = content.get("format_version")
    _require(type(version) is int and version >= 1, "has no version")
    if version > FORMAT_VERSION:
        raise ModelError(f"{RECORD_NAME}: has version {version}, this dpd knows {FORMAT_VERSION}; upgrade dpd-distill")
    known = {f.name for f in fields(ClassifierRecord)}
    _require(set(content) == known, f"has other keys than dpd fit writes: {sorted(set(content) ^ known)[:4]}")
    classes, side = content["classes"], content["side"]
    _require(isinstance(classes, list) and 2 <= len(classes) <= MOST_CLASSES, f"needs 2 to {MOST_CLASSES} classes")
    _require(len({str(name) for name in classes}) == len(classes), "has a class twice")
    for name in classes:
        _require(isinstance(name, str) and is_class_name(name), f"has class {name!r:.60}")
    _require(type(side) is int and 1 <= side <= LARGEST_SIDE, f"side {side!r:.20} is not 1 to {LARGEST_SIDE}")
    graph = content["graph"]
    described = isinstance(graph, dict) and {key: type(graph[key]) for key in graph} == {"sha256": str, "bytes": int}
    _require(described, "has no size or hash of the graph")
    _require(isinstance(content["network"], str) and isinstance(content["training"], dict), "has no training")
    shares = content["validation"]
    numbers = isinstance(shares, dict) and all(type(value) in (int, float) for value in shares.values())
    _require(numbers and is_readable(content), "has texts or numbers that dpd fit does not write")
    return ClassifierRecord(**content | {"classes": tuple(classes), "graph": FileEntry(**graph)})


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ModelError(f"{RECORD_NAME} {sentence}; {AGAIN}")


@dataclass(frozen=True)
class Classifier:
    """A verified classifier in memory."""

    record: ClassifierRecord
    graph: bytes = field(repr=False)

    @property
    def host(self) -> Host:
        """The process in which it runs. Nobody signs a classifier, so it has one of its own."""
        return apart(self.record.graph.sha256)

    def engine(self, provider: Provider, threads: int | None = None) -> Engine:
        """Load the graph.

        Raises:
            MissingExtraError, ProviderError: the provider is not installed, or does not work here.
            BundleError: it cannot be run.
        """
        row = (len(self.record.classes),)
        return self.host.load(self.graph, provider, threads, None, GRAPH_NAME, Compilation(), row=row)


def check_place(out: Path, overwrite: bool) -> None:
    """Check, before anything is trained, that a classifier may be written to `out`.

    Raises:
        InputError: `out` exists and is not a classifier that --overwrite may replace.
        DiskError: its folder cannot be written.
    """
    if out.is_symlink():
        raise InputError(f"--out {out} is a link; give the folder itself")
    check_writable(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"--out {out} exists; choose another --out, or pass --overwrite")
    if not (out / RECORD_NAME).is_file() or {path.name for path in out.iterdir()} - {
        GRAPH_NAME,
        RECORD_NAME,
        CARD_NAME,
    }:
        raise InputError(f"{out} is not a classifier that dpd fit wrote, and is not overwritten; choose another --out")


def write_classifier(out: Path, graph: bytes, record: ClassifierRecord, card: str, *, overwrite: bool = False) -> None:
    """Write the folder, complete or not at all.

    Raises:
        InputError, DiskError: as `check_place`.
    """
    check_place(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        finished = scratch / out.name  # not the folder itself, which others may not read
        finished.mkdir()
        with naming(out):
            for name, content in ((GRAPH_NAME, graph), (RECORD_NAME, record.to_json()), (CARD_NAME, card.encode())):
                (finished / name).write_bytes(content)
        if out.is_dir():
            shutil.rmtree(out)
        finished.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def open_classifier(folder: Path) -> Classifier:
    """Read and check a classifier: its record, the hash of its graph, and what the graph may do.

    Raises:
        InputError: there is no classifier at `folder`.
        ModelError: damaged, changed, or of a later version.
        BundleError: a graph that `dpd fit` does not make.
    """
    if not (folder / RECORD_NAME).is_file():
        raise InputError(f"{folder}: no classifier, as it has no {RECORD_NAME}; give a folder that dpd fit wrote")
    refuse_holes(folder, (path for path in (folder / RECORD_NAME, folder / GRAPH_NAME) if path.is_file()), "classifier")
    record = parse_record(_read(folder / RECORD_NAME, MAX_JSON_BYTES))
    graph = _read(folder / GRAPH_NAME, min(MOST_BYTES, (usable_memory() or MOST_BYTES) // COPIES))
    digest = hashlib.sha256(graph).hexdigest()
    if len(graph) != record.graph.bytes or digest != record.graph.sha256:
        raise ModelError(
            f"{GRAPH_NAME}: sha256 is {digest[:12]}…, {RECORD_NAME} says {record.graph.sha256[:12]}…; it was changed "
            f"or damaged: fetch it again, or {AGAIN}"
        )
    check_classifier_graph(graph, record.classes, record.side)
    return Classifier(record, graph)


def check_classifier_graph(graph: bytes, classes: Sequence[str], side: int) -> None:
    """Check a graph as one of a bundle that nobody signed.

    Raises:
        BundleError: as `read_graph` and `CheckedGraph.require_usual`, or its metadata say other classes or sizes. There
            is no file with weights beside it, so all of them must be in the graph.
    """
    read = read_graph(GRAPH_NAME, graph, maker=MAKER)
    read.require_usual(MAKER)
    read.require_facts(classifier_facts(classes, side), MAKER)


def _read(path: Path, most: int) -> bytes:
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > most:
                raise ModelError(f"{path.name} has {size} bytes, more than {most}; {AGAIN}")
            return file.read(size)  # a link may lead to a file of the system, which has no end
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); fetch it again, or {AGAIN}") from None


# -- Label images with a classifier, without PyTorch.


_log = logging.getLogger(__name__)
BATCH, BATCH_PIXELS = 64, 64 * 256**2
"""Images in one call, at most, and their pixels, unless one image has more."""
OFFERED = ("auto", "cpu", "cuda")
"""Providers; those that compile a graph would take longer than the images."""
TOLERANCE = 2e-2  # of the largest logit: half precision is not used, other GPUs round differently
ON_SHEET = 10  # images of each class
UNSURE = 0.5  # probability below which a label is little more than the best of several guesses
COLUMNS = ("file", "class", "probability", "reason")
OF_TRAINING = (
    "; pass --",
    ": pass --",
    "; say which ",
    ": say which ",
    "; those are read with --",
    ": those are read with --",
)
"""Begins advice that only commands with --bands can take."""


@dataclass(frozen=True)
class Label:
    """The class of one image and its probability by softmax, or the reason why it has none. file: below the folder."""

    file: str
    name: str | None = None
    probability: float = 0.0
    reason: str = ""


ReadSquare = Callable[[Path], tuple[bytes, Pixels] | str]
"""A file → its bytes and its middle square, or why there is none."""


@dataclass(frozen=True)
class Labelled:
    """The labels of a folder, in the order of its files.

    files: of the labels. square: reads one of them again, as it was labelled. notes: what the user should know of how
    the files were read.
    """

    labels: tuple[Label, ...] = field(repr=False)
    files: tuple[Path, ...] = field(repr=False)
    square: ReadSquare = field(repr=False)
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    @cached_property
    def sheet(self) -> Pixels:
        """A contact sheet with a row for each class, whose images are read again."""
        shown = []
        for name in self.classes[:MOST_ROWS]:
            own = [path for path, label in zip(self.files, self.labels, strict=True) if label.name == name]
            again = map(self.square, evenly_spaced(own, ON_SHEET))
            shown.append((name, [tile(image[1]) for image in again if not isinstance(image, str)]))
        return contact_sheet(shown)

    @property
    def unread(self) -> tuple[Label, ...]:
        return tuple(label for label in self.labels if label.name is None)

    def counts(self) -> dict[str, int]:
        """The number of images that got each name, for names that were given."""
        return dict(sorted(Counter(label.name for label in self.labels if label.name is not None).items()))

    def agreement(self) -> float | None:
        """The share of labels that are the names of their folders; None unless every folder has a class's name."""
        folders = self.agreement_of_folders()
        if folders is None:
            return None
        return sum(agreed for agreed, _ in folders.values()) / sum(images for _, images in folders.values())

    def agreement_of_folders(self) -> dict[str, tuple[int, int]] | None:
        """Name of a folder → its images with that label, and all; the lowest share first. None as for `agreement`."""
        images, agreed = Counter[str](), Counter[str]()
        for label in self.labels:
            if label.name is not None:
                folder = composed(PurePath(label.file).parent.name)
                images[folder] += 1
                agreed[folder] += composed(label.name) == folder
        if not set(images) <= set(map(composed, self.classes)):
            return None
        return {name: (agreed[name], images[name]) for name in sorted(images, key=lambda n: (agreed[n] / images[n], n))}

    def unsure(self) -> int:
        """The number of labels whose probability is below UNSURE."""
        return sum(label.name is not None and label.probability < UNSURE for label in self.labels)

    def to_csv(self) -> bytes:
        """One line for each file, in UTF-8."""
        lines = [csv_line(COLUMNS)]
        for label in self.labels:
            probability = "" if label.name is None else f"{label.probability:.4f}"
            lines.append(csv_line((label.file, label.name or "", probability, label.reason)))
        return "".join(lines).encode()


def images_below(place: Path) -> list[Path]:
    """The image files of a folder and of the folders in it, sorted by path; or the file itself.

    Images of formats that nothing here reads are among them, and get a reason. Hidden files, other suffixes, folders
    behind links and a set's own pictures are left out; so are folders that dpd made, which the log names.

    Raises:
        DataError: there is none, or a folder cannot be listed.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{place}: no such file or folder; give a folder of images")
    try:
        files = sorted(image_files(place, lambda folder, what: _log.warning("%s", passed_over(folder, what))))
    except RecursionError:
        raise DataError(f"{place}: has folders in folders, more than can be listed; give one further in") from None
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be listed ({error.strerror}); grant the permission or remove it"
        ) from error
    if not files:
        raise DataError(f"{place}: holds no images; give a folder of images")
    return files


def load_engine(
    classifier: Classifier, requested: str, device: int | None, threads: int | None
) -> tuple[Provider, Engine]:
    """Resolve `--provider` and load the classifier there: a GPU must give the logits that this machine's CPU gives.

    Raises:
        ProviderError, InputError, CheckError: as `choose_provider`.
    """
    side = classifier.record.side
    probe = 2 * np.random.default_rng(0).random((2, 3, side, side), np.float32) - 1
    engines: dict[str, Engine] = {}

    def attempt(provider: Provider) -> None:
        engine = engines[provider.name] = classifier.engine(provider, threads)
        logits = logits_of(classifier, engine, probe)
        if provider.name == "cpu":
            return
        expected = logits_of(classifier, classifier.engine(Provider("cpu", "compared"), threads), probe)
        if not np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max():
            raise CheckError(f"provider {provider.name} gives other logits than the CPU; use --provider cpu")

    chosen = choose_provider(requested, attempt, device, listed=classifier.host.available_providers)
    return chosen, engines[chosen.name]


def logits_of(classifier: Classifier, engine: Engine, images: Float32) -> Float32:
    """Logits [n, classes] of images [n, 3, side, side] in [-1, 1].

    Raises:
        ModelError: they are not finite, so that no class is the likeliest.
    """
    logits = run_to(engine, GRAPH_NAME, (len(images), len(classifier.record.classes)), **{INPUT: images})
    if not np.isfinite(logits).all():
        raise ModelError(f"{GRAPH_NAME} gave numbers that are not finite, so that no class is the likeliest; {AGAIN}")
    return logits


def label_folder(
    classifier: Classifier,
    engine: Engine,
    place: Path,
    files: Sequence[Path],
    progress: Progress = lambda done, total: None,
) -> Labelled:
    """Label `files`, the images below the folder `place` or that file itself (`images_below`).

    Raises:
        DataError: none that can be read.
    """
    below = place if place.is_dir() else place.parent
    together, gaps = alike(files), list[bool]()
    to_pixels = partial(pillow_rgb, files=together, gaps=gaps)
    square = partial(read_square, resolution=classifier.record.side, to_pixels=to_pixels)
    labels: list[Label] = []
    batch = max(1, min(BATCH, BATCH_PIXELS // classifier.record.side**2))
    for start in range(0, len(files), batch):
        labels += _label_batch(classifier, engine, files[start : start + batch], below, square)
        progress(len(labels), len(files))
    if all(label.name is None for label in labels):
        raise DataError(
            f"{place}: none of {counted(len(files), 'file')} can be read, first {labels[0].file}: {labels[0].reason}"
        )
    notes = [together.note] if together.note else []
    if classifier.record.read_with:
        notes.append(
            f"own images were read with {classifier.record.read_with} when it was fitted, and these as they are: bring "
            "them to 8-bit RGB in the same way first"
        )
    if holes := sum(gaps):
        have = counted(holes, "image has", "images have")
        notes.append(f"{have} pixels without data, which are black; such labels are less certain")
    return Labelled(tuple(labels), tuple(files), square, classifier.record.classes, tuple(notes))


def _label_batch(
    classifier: Classifier, engine: Engine, files: Sequence[Path], below: Path, square: ReadSquare
) -> Iterator[Label]:
    squares = map(square, files)
    read = [one if isinstance(one, str) else one[1] for one in squares]  # without the files' bytes
    pixels = [image for image in read if not isinstance(image, str)]
    shares: Iterator[Array] = iter(())
    if pixels:
        shares = iter(softmax(logits_of(classifier, engine, from_uint8(np.stack(pixels)))))
    for path, image in zip(files, read, strict=True):
        file = printable(path.relative_to(below))
        if isinstance(image, str):
            yield Label(file, reason=without_options(image))
            continue
        row = next(shares)
        best = int(row.argmax())
        yield Label(file, classifier.record.classes[best], float(row[best]))


def without_options(reason: str) -> str:
    """The reason why an image cannot be read, with a way out that needs none of the training's options."""
    begins = [place for advice in OF_TRAINING if (place := reason.find(advice)) >= 0]
    return f"{reason[: min(begins)]}; convert it to 8-bit RGB as the training images were" if begins else reason


# -- README.md of a classifier, from its record alone.


def classifier_card(record: ClassifierRecord) -> str:
    """What the classifier is, how well it does, and how it is used with dpd and without."""
    side, shares = record.side, record.validation
    lines = ["# Classifier", "", *(_released(record) if "privacy" in record.training else _fitted(record))]
    lines += ["", "## How good it is", ""]
    if shares:
        ends = f"{100 * shares['low']:.1f} to {100 * shares['high']:.1f}"
        lines.append(
            f"{100 * shares['oa']:.1f} % of {shares['images']} images of the site that it was not trained on are named "
            f"right (95 % interval {ends}); average over classes {100 * shares['aa']:.1f} %."
        )
    elif checked := record.training.get("set_check"):
        ends = f"{100 * checked['low']:.1f} to {100 * checked['high']:.1f}"
        second = f"training with {counted(checked['steps'], 'step')}" if checked["steps"] else "fit of the last layer"
        lines.append(
            f"Not measured on images of the site. A second {second} on a part of the set "
            f"names {100 * checked['oa']:.1f} % of {checked['images']} other images of the set right (95 % interval "
            f"{ends}). Real images may differ: label some that you know, and count."
        )
    else:
        why = "no images of the site were held out" if "own" in record.training else "the set has too few images"
        why = "no images of the site were given" if "privacy" in record.training else why
        lines.append(f"Not measured: {why}. Label some that you know, and count.")
    lines += [
        "",
        "## How to use it",
        "",
        "```sh",
        "dpd predict . IMAGES/ --out labels.csv",
        "```",
        "",
        *(
            [
                f"The site's own images were read with {quoted(record.read_with)}: bring images to 8-bit RGB in the "
                "same way first.",
                "",
            ]
            if record.read_with
            else []
        ),
        f"Without dpd, any ONNX Runtime: {GRAPH_NAME} takes `{INPUT}`, float32 [n, 3, {side}, {side}], RGB, each value "
        "divided by 127.5, less 1. It gives logits [n, classes] in this order:",
        "",
        *(f"{number}. {quoted(name)}" for number, name in enumerate(record.classes)),
    ]
    return "".join(f"{line}\n" for line in lines)


def _fitted(record: ClassifierRecord) -> list[str]:
    training = record.training
    lines = [f"`dpd fit` trained it: {quoted(record.network)} for images of {record.side} × {record.side} pixels."]
    for name, what in (
        ("set", "a distilled set"),
        ("own", "the site's own images"),
        ("unlabelled", "the site's images without labels"),
    ):
        if name in training:
            lines.append(
                f"- {counted(training[name]['images'], 'image')} of {what}, content hash `{training[name]['sha256']}`"
            )
    if teacher := training.get("teacher"):
        lines.append(
            f"- taught by the classifier of the bundle {quoted(teacher['bundle'])}, hash `{teacher['bundle_hash']}`, "
            f"{teacher['signature']}, audit {teacher['audit']}: it answered every view of the set's images and of "
            "those without labels. What its answers tell of its own training images, this network may tell too"
        )
    return [*lines, f"- recipe {quoted(training['recipe']['name'])}, seed {training['seed']}"]


def _released(record: ClassifierRecord) -> list[str]:
    claim = record.training["privacy"]
    return [
        f"`dpd private` made it: {quoted(record.network)}, for images of {record.side} × {record.side} pixels.",
        f"({claim['epsilon']:.6g}, {claim['delta']:g})-differential privacy. Unit: {quoted(claim['unit'])}.",
        "It was made from public images and what was released for the codes: both together have this one guarantee,",
        "and the bundle's card says what it rests on.",
    ]
