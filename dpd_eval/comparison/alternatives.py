"""Arms of what could travel in place of a bundle: a trained classifier that names a site's own images, and JPEGs."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from PIL import Image

from dpd_eval.comparison.arm_names import LABELS_ARM, jpegs_arm
from dpd_eval.comparison.config import EvaluateConfig
from dpd_eval.comparison.plan import Part
from dpd_eval.extractors.extractor import Extractor
from dpd_eval.selection.methods import random_subset
from dpd_runtime.annotations import Images
from dpd_runtime.dataset.formats import Encoding
from dpd_runtime.errors import DataError
from dpd_runtime.text import counted
from dpd_train.images import SceneSet

QUALITY = 90
JPEG = Encoding("jpeg", ".jpg", QUALITY)
Alternatives = dict[str, Callable[[int, int], Part]]
"""Arm → (IPC, seed) → what its students are trained on."""


def alternatives(
    config: EvaluateConfig, real: SceneSet, classifier: Callable[[SceneSet], Extractor]
) -> tuple[Alternatives, list[str]]:
    """The arms that `config` asks for, and notes on what they are.

    Args:
        classifier: trains a network that knows the classes.

    Raises:
        DataError: not one JPEG of each class fits into the megabytes, or a class is too small to be halved.
    """
    arms: Alternatives = {}
    notes = []
    if config.labels:
        arms[LABELS_ARM], note = _named(real, classifier)
        notes.append(note)
    if config.jpegs is not None:
        arms[jpegs_arm(config.jpegs)], note = _jpegs(real, config.jpegs)
        notes.append(note)
    return arms, notes


def _named(real: SceneSet, classifier: Callable[[SceneSet], Extractor]) -> tuple[Callable[[int, int], Part], str]:
    """As many images as the set has, whose classes nobody but a classifier knows.

    It is trained on a random half of each class and names images of the other half, as a site's images are not those
    that it was trained on. So it knows half as much as the classifier of all images.
    """
    smallest = int(np.bincount(real.labels).min())
    if smallest < 4:
        raise DataError(
            f"--labels: a class has {counted(smallest, 'real image')}, too few for two halves; leave it out"
        )
    halves = [np.flatnonzero(real.labels == label) for label in range(len(real.classes))]
    rng = np.random.default_rng(0)
    learned = np.sort(np.concatenate([rng.permutation(rows)[: len(rows) // 2] for rows in halves]))
    others = real.only(np.setdiff1d(np.arange(len(real.labels)), learned))
    network = classifier(real.only(learned))
    shares = network.probabilities(others.images)
    assert shares is not None
    named = replace(others, labels=shares.argmax(axis=1).astype(np.int64))
    right = float((named.labels == others.labels).mean())

    def part(ipc: int, seed: int) -> Part:
        wanted = ipc * len(real.classes)
        if wanted > len(named.labels):
            raise DataError(
                f"--labels: IPC {ipc} takes {wanted} images, half of the real are {len(named.labels)}: leave it out"
            )
        rows = np.random.default_rng([seed, 1]).permutation(len(named.labels))[:wanted]
        return named, np.sort(rows).astype(np.int64)

    return part, (
        f"{LABELS_ARM}: images of one half of the real ones, named by one classifier of the other half, which is right "
        f"in {100 * right:.1f} %; intervals repeat neither"
    )


def _jpegs(real: SceneSet, megabytes: float) -> tuple[Callable[[int, int], Part], str]:
    """Random real images, as many of each class as fit; each pair draws others."""
    content = [JPEG.encode(pixels) for pixels in real.images]
    mean = float(np.mean([len(one) for one in content]))
    each = min(int(1e6 * megabytes / (mean * len(real.classes))), int(np.bincount(real.labels).min()))
    if each < 1:
        raise DataError(
            f"--jpegs {megabytes:g}: a JPEG of each class takes {mean * len(real.classes) / 1e6:.2g} MB; give more"
        )
    scenes = replace(real, images=_decoded(content))

    @cache
    def part(ipc: int, seed: int) -> Part:
        return scenes, random_subset(real.labels, each, seed, real.classes)

    return part, f"{jpegs_arm(megabytes)}: {each} of each class, {mean / 1e3:.1f} kB each at quality {QUALITY}"


def _decoded(content: list[bytes]) -> Images:
    return np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in content])
