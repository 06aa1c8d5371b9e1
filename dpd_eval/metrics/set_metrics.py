"""All metrics of a set. They need no training on the set.

A metric is a function of features [n, D] float32 and labels [n] int64. To add one, write its function, a field in
`SetMetrics` and a line in `set_metrics`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dpd_eval.metrics.cosine import intra_class_diversity, mean_max_cosine
from dpd_eval.metrics.kid import kernel_distance
from dpd_eval.metrics.prdc import NEIGHBOURS, neighbour_shares
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_eval.extractors.extractor import Extractor  # and PyTorch, which a report does without

FEWEST_IMAGES = NEIGHBOURS + 1  # fewer images have no fifth neighbour


@dataclass(frozen=True)
class Agreement:
    """Shares in [0, 1]: over all images, and for each class of the set."""

    overall: float
    per_class: dict[str, float]


@dataclass(frozen=True)
class SetMetrics:
    """One set compared with the real training images, over all classes, in the features of one extractor.

    extractor: its description. kid, kid_std: see kid.py. precision … coverage: see prdc.py. mean_max_cosine,
    intra_class_diversity: see cosine.py. reference_diversity: diversity of the real images, for comparison.
    teacher_agreement: share of the set's images that the extractor's classifier assigns to their class, overall and
    per class; None if the extractor has no classifier for these classes.
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
    generated: tuple[Images, Int64],
    reference: tuple[Float32, Int64],
    extractor: "Extractor",
    classes: tuple[str, ...],
    seed: int,
) -> SetMetrics:
    """Compute all metrics of one set.

    A subset of the reference gets an advantage: each of its images is at distance 0 from a reference image. Its
    precision is therefore 1, and its density, coverage and mean-max cosine are slightly too high.

    Args:
        generated: images uint8 [n, H, W, C] and labels [n].
        reference: features [m, D] of the real images from the same extractor, and labels [m].
        classes: names that both labels index.
        seed: of KID's subsets.

    Raises:
        InputError: fewer than 6 images on a side, or features that cannot be compared.
    """
    images, labels = generated
    real, real_labels = reference
    if len(images) < FEWEST_IMAGES:
        raise InputError(
            f"arm {arm!r} at IPC {ipc} has {counted(len(images), 'image')}: set metrics need at least {FEWEST_IMAGES}"
        )
    features = extractor.features(images)
    if features.ndim != 2 or features.shape[1:] != real.shape[1:]:
        raise InputError(
            f"features of arm {arm!r} are {features.shape}, the reference's {real.shape}: use one extractor for both"
        )
    if not (np.isfinite(features).all() and np.isfinite(real).all()):
        raise InputError(f"extractor {extractor.name!r} returned features that are not finite: use another one")
    distance, shares = kernel_distance(features, real, seed), neighbour_shares(features, real)
    # a classifier that lacks a class could never be right about it
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
    labels: Int64,
    predicted: Int64,
    classes: tuple[str, ...],
    predicted_classes: tuple[str, ...] | None = None,
) -> Agreement:
    """Compare labels [n] with predictions [n] by class name: how often does a classifier agree with the set?

    Args:
        classes: names that the labels index.
        predicted_classes: names that the predictions index; None takes `classes`.
    """
    hits = np.array(classes)[labels] == np.array(predicted_classes or classes)[predicted]
    shares = {classes[label]: float(hits[labels == label].mean()) for label in np.unique(labels).tolist()}
    return Agreement(float(hits.mean()), shares)
