"""Is the hold-out comparable: does H show the same kind of images as T?

What an audit says of T it says in comparison with H. If H was taken at another scale, place or season, images made like
T are nearer to T and networks know T better, without a memory of any single image. So this is tested first: a
classifier two-sample test (Lopez-Paz & Oquab 2017, 1610.06545) of T and H within their classes, in the features of
random weights, which nothing was trained to please. The classifier is a ridge regression, whose predictions of images
left out have a closed form, so that 1,000 permutations of the labels tell the distribution of chance.

Scenes that look alike but lie elsewhere are seen in the structure of the images: of a half of H as many are nearer to T
as to the other half, if all three show the same scenes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_eval.audit.data import SEED, AuditData
from dpd_eval.audit.membership import area_under_curve
from dpd_eval.audit.nearer import OwnShare, own_share
from dpd_eval.audit.outcome import COMPARABLE, WOULD_TELL, FewHeld, Outcome
from dpd_eval.extractors.extractor import Extractor
from dpd_runtime.annotations import Float32, Int64
from dpd_runtime.text import counted
from dpd_train.images.structure import orbit, similarities, structure

LIMIT = 0.6  # for the AUC: what a membership test may find, so that telling H from T cannot look like membership
CHANCE = 0.001  # of permuted labels with a higher AUC than the one that counts as found
PERMUTATIONS = 1000
LEAST_SHARE = 0.45  # of the second half of H nearer to T than to the first
MOST = 2000  # images of each side
RIDGE = 1.0  # for features of deviation 1, divided by the root of their number
Float = NDArray[np.float64]


@dataclass(frozen=True)
class TwoSamples:
    """auc: of telling T from H. reach: what chance exceeds once in 1 / CHANCE, by permuted labels."""

    auc: float
    reach: float
    images: int


def two_samples(train: Float32, held: Float32, classes: tuple[Int64, Int64]) -> TwoSamples:
    """Tell two samples apart whose classes have equal counts.

    Args:
        train, held: features [n, D] each. classes: labels [n] each.
    """
    labels = np.concatenate(classes)
    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    features = np.concatenate([train, held]).astype(np.float64)
    for rows in of_class:
        features[rows] -= features[rows].mean(axis=0)
    deviations = features.std(axis=0)
    features = features[:, deviations > 0] / deviations[deviations > 0]
    kernel = features @ features.T / max(1, features.shape[1])
    hat = np.linalg.solve(kernel + RIDGE * np.eye(len(kernel)), kernel).T
    sides = np.empty((len(labels), 1 + PERMUTATIONS))
    sides[:, 0] = np.repeat([1.0, 0.0], [len(train), len(held)])
    rng = np.random.default_rng(SEED)
    for rows in of_class:
        sides[rows, 1:] = rng.permuted(np.repeat(sides[rows, :1], PERMUTATIONS, axis=1), axis=0)
    itself = np.diag(hat)[:, None]
    # the predictions of a ridge regression without the image itself
    left_out = (hat @ (sides - 0.5) - itself * (sides - 0.5)) / (1 - itself)
    ours = sides > 0.5
    areas = [area_under_curve(left_out[own, k], left_out[~own, k]) for k, own in enumerate(ours.T)]
    return TwoSamples(
        areas[0],
        float(np.quantile(areas[1:], 1 - CHANCE)),
        len(train),
    )


def comparable_test(data: AuditData, extractor: Extractor) -> tuple[Outcome, bool]:
    """Tell H from as many images of each class of T, and compare its halves with T.

    Returns:
        the outcome, WARN unless it is a PASS; and whether tests that compare T with H make sense. They do not where
        the two can be told apart. Where the images are too few to tell, it stays open.
    """
    rows = data.members(MOST)
    sides = [extractor.features(s.images[chosen]) for s, chosen in zip((data.train, data.held), rows, strict=True)]
    samples = two_samples(sides[0], sides[1], (data.train.labels[rows[0]], data.held.labels[rows[1]]))
    note = (
        f"{counted(samples.images, 'image')} of each side; chance reaches {samples.reach:.3f} once in {1 / CHANCE:.0f}"
    )
    share = _share_of_second(data)
    note += f"; of H2 {share.value:.0%} are nearer to T than to H1"
    if samples.auc > max(LIMIT, samples.reach) or share.interval[1] < LEAST_SHARE:
        return Outcome(COMPARABLE, samples.auc, None, LIMIT, "WARN", f"{note}: H shows other images than T"), False
    if samples.reach > LIMIT:
        needed = round(samples.images * ((samples.reach - 0.5) / (LIMIT - 0.5)) ** 2)
        few = FewHeld(needed / samples.images) if samples.images == len(data.held.labels) else None
        return Outcome(
            COMPARABLE, samples.auc, None, LIMIT, "WARN", f"{note}; about {needed} {WOULD_TELL}", few=few
        ), True
    return Outcome(COMPARABLE, samples.auc, None, LIMIT, "PASS", note), True


def _share_of_second(data: AuditData) -> OwnShare:
    """The nearness of H2 in the space of structures, which no network knows."""
    first, second = (data.held.images[rows] for rows in (data.first, data.second))
    views = orbit(second)
    return own_share(similarities(views, data.structures), similarities(views, structure(first)))
