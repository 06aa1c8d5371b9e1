"""Label images with a classifier, without PyTorch."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from dpd_runtime.annotations import Array, Float32, Pixels, Progress
from dpd_runtime.classifier.model import GRAPH_NAME, INPUT, Classifier
from dpd_runtime.dataset.sheet import MOST_ROWS, contact_sheet
from dpd_runtime.engines.engine import Engine, Provider, run_to
from dpd_runtime.errors import CheckError, DataError
from dpd_runtime.generation.providers import choose_provider
from dpd_runtime.generation.teacher import softmax
from dpd_runtime.images.folders import image_files, passed_over
from dpd_runtime.images.pixels import ToPixels, alike, evenly_spaced, pillow_rgb, read_square
from dpd_runtime.sampling.sample import from_uint8
from dpd_runtime.text import composed, counted, csv_line, printable

_log = logging.getLogger(__name__)
BATCH, BATCH_PIXELS = 64, 64 * 256**2
"""Images in one call, at most, and their pixels, unless one image has more."""
OFFERED = ("auto", "cpu", "cuda")
"""Providers; those that compile a graph would take longer than the images."""
TOLERANCE = 2e-2  # of the largest logit: half precision is not used, other GPUs round differently
ON_SHEET = 10  # images of each class
UNSURE = 0.5  # probability below which a label is little more than the best of several guesses
COLUMNS = ("file", "class", "probability", "reason")
OF_TRAINING = ("; pass --", ": pass --", "; say which ", ": say which ")
"""Begins advice that only commands with --bands can take."""


@dataclass(frozen=True)
class Label:
    """The class of one image and its probability by softmax, or the reason why it has none. file: below the folder."""

    file: str
    name: str | None = None
    probability: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Labelled:
    """The labels of a folder, in the order of its files, and a contact sheet with a row for each class.

    notes: what the user should know of how the files were read.
    """

    labels: tuple[Label, ...]
    sheet: Pixels
    classes: tuple[str, ...]
    notes: tuple[str, ...]

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
    probe = np.random.default_rng(0).uniform(-1, 1, (2, 3, side, side)).astype(np.float32)
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
    """Logits [n, classes] of images [n, 3, side, side] in [-1, 1]."""
    return run_to(engine, GRAPH_NAME, (len(images), len(classifier.record.classes)), **{INPUT: images})


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
    labels: list[Label] = []
    batch = max(1, min(BATCH, BATCH_PIXELS // classifier.record.side**2))
    for start in range(0, len(files), batch):
        labels += _label_batch(classifier, engine, files[start : start + batch], below, to_pixels)
        progress(len(labels), len(files))
    if all(label.name is None for label in labels):
        raise DataError(
            f"{place}: none of {counted(len(files), 'file')} can be read, first {labels[0].file}: {labels[0].reason}"
        )
    notes = [together.note] if together.note else []
    if holes := sum(gaps):
        have = counted(holes, "image has", "images have")
        notes.append(f"{have} pixels without data, which are black; such labels are less certain")
    shown = []
    for name in classifier.record.classes[:MOST_ROWS]:
        own = [path for path, label in zip(files, labels, strict=True) if label.name == name]
        again = [read_square(path, classifier.record.side, to_pixels) for path in evenly_spaced(own, ON_SHEET)]
        shown.append((name, [image[1] for image in again if not isinstance(image, str)]))
    return Labelled(tuple(labels), contact_sheet(shown), classifier.record.classes, tuple(notes))


def _label_batch(
    classifier: Classifier, engine: Engine, files: Sequence[Path], below: Path, to_pixels: ToPixels
) -> Iterator[Label]:
    squares = (read_square(path, classifier.record.side, to_pixels) for path in files)
    read = [square if isinstance(square, str) else square[1] for square in squares]  # without the files' bytes
    pixels = [image for image in read if not isinstance(image, str)]
    shares: Iterator[Array] = iter(())
    if pixels:
        shares = iter(softmax(logits_of(classifier, engine, from_uint8(np.stack(pixels)))))
    for path, image in zip(files, read, strict=True):
        file = printable(path.relative_to(below))
        if isinstance(image, str):
            yield Label(file, reason=_without_options(image))
            continue
        row = next(shares)
        best = int(row.argmax())
        yield Label(file, classifier.record.classes[best], float(row[best]))


def _without_options(reason: str) -> str:
    """The reason why an image cannot be read, with a way out that needs none of the training's options."""
    begins = [place for advice in OF_TRAINING if (place := reason.find(advice)) >= 0]
    return f"{reason[: min(begins)]}; convert it to 8-bit RGB as the training images were" if begins else reason
