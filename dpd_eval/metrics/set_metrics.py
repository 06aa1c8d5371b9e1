"""What a set looks like in a network's features, without training on it. One metric, one file; `set_metrics` asks all.

A metric is a function of features [n, D] float32 and labels [n] int64. To add one: its file, its field in `SetMetrics`,
its line in `set_metrics`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_eval.extractors.extractor import Extractor
from dpd_eval.metrics.cosine import intra_class_diversity, mean_max_cosine
from dpd_eval.metrics.kid import kernel_distance
from dpd_eval.metrics.prdc import NEIGHBOURS, neighbour_shares
from dpd_runtime.errors import InputError

FEWEST_IMAGES = NEIGHBOURS + 1  # a set of fewer images has no sixth to be a fifth neighbour


@dataclass(frozen=True)
class Agreement:
    """Shares in [0, 1]: over all images, and for each class that the set has."""

    overall: float
    per_class: dict[str, float]


@dataclass(frozen=True)
class SetMetrics:
    """One set against the real training images, over all classes, in one extractor's features.

    extractor: its description. kid, kid_std: kid.py. precision … coverage: prdc.py. mean_max_cosine: coverage.py.
    intra_class_diversity: diversity.py; reference_diversity is the same of the reference, as a yardstick.
    teacher_agreement: share of the set's images which the extractor's classifier puts into their class, and per class;
    None where the extractor has no classifier of these classes.
    """

    arm: str
    ipc: int
    images: int
    extractor: str
    kid: float
    kid_std: float
    precision: float
    recall: float
    density: float
    coverage: float
    mean_max_cosine: float
    intra_class_diversity: float
    teacher_agreement: float | None
    per_class_agreement: dict[str, float] | None
    reference_diversity: float | None = None


def set_metrics(
    arm: str,
    ipc: int,
    generated: tuple[NDArray[np.uint8], NDArray[np.int64]],
    reference: tuple[NDArray[np.float32], NDArray[np.int64]],
    extractor: Extractor,
    classes: tuple[str, ...],
    seed: int,
) -> SetMetrics:
    """All metrics of one set.

    A real subset of the reference is flattered: each of its images is at distance 0 of a reference image, so that its
    precision is 1, and its density, coverage and mean-max cosine are a little above those of other images as good.

    Args:
        generated: images uint8 [n, H, W, 3] and labels [n].
        reference: features [m, D] of the real images by the same extractor, and labels [m].
        classes: what both labels index.
        seed: of KID's subsets.

    Raises:
        InputError: fewer than 6 images on a side, or features that cannot be compared.
    """
    images, labels = generated
    real, real_labels = reference
    if len(images) < FEWEST_IMAGES:
        raise InputError(
            f"arm {arm!r} at IPC {ipc} has {len(images)} images: set metrics need at least {FEWEST_IMAGES}"
        )
    features = extractor.features(images)
    if features.ndim != 2 or features.shape[1:] != real.shape[1:]:
        raise InputError(
            f"features of arm {arm!r} are {features.shape}, the reference's {real.shape}: take one extractor for both"
        )
    if not (np.isfinite(features).all() and np.isfinite(real).all()):
        raise InputError(f"extractor {extractor.name!r} gave features that are not finite: take another one")
    distance, shares = kernel_distance(features, real, seed), neighbour_shares(features, real)
    # an extractor that does not know every class cannot be right about the others
    knows = extractor.classes is not None and set(classes) <= set(extractor.classes)
    predicted = extractor.classify(images) if knows else None
    agreed = None if predicted is None else class_agreement(labels, predicted, classes, extractor.classes)
    return SetMetrics(
        arm=arm,
        ipc=ipc,
        images=len(images),
        extractor=extractor.description,
        kid=distance.mean,
        kid_std=distance.std,
        precision=shares.precision,
        recall=shares.recall,
        density=shares.density,
        coverage=shares.coverage,
        mean_max_cosine=mean_max_cosine(features, labels, real, real_labels),
        intra_class_diversity=intra_class_diversity(features, labels),
        teacher_agreement=agreed.overall if agreed else None,
        per_class_agreement=agreed.per_class if agreed else None,
        reference_diversity=intra_class_diversity(real, real_labels),
    )


def class_agreement(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: tuple[str, ...],
    predicted_classes: tuple[str, ...] | None = None,
) -> Agreement:
    """Compare by name the labels [n], which index `classes`, with the predictions [n].

    Args:
        predicted_classes: what the predictions index; `classes` unless said.
    """
    hits = np.array(classes)[labels] == np.array(predicted_classes or classes)[predicted]
    shares = {classes[label]: float(hits[labels == label].mean()) for label in np.unique(labels).tolist()}
    return Agreement(float(hits.mean()), shares)
