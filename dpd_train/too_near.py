"""Drop prototypes that decode too near to a training image, by the audit's measure and limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dpd_runtime.annotations import Float32, Images, Int64
from dpd_train.prototypes import ClassPrototypes, at_full_size
from dpd_train.scene_set import SceneSet
from dpd_train.symmetry import closeness, orbit, similarities, structure

PERCENTILE = 0.99
OF_ITS_OWN = 100  # hold-out images from which a class has its own limit
Float = npt.NDArray[np.floating]
NOBODY = -1
ASKED = 1000  # hold-out images that set the limits, evenly spaced over the classes
BLOCK = 128
Decode = Callable[[Float32], Images]


@dataclass(frozen=True)
class Nearest:
    """Highest similarity of images to the training part [n], by `structure.closeness`, and their labels [n]."""

    values: Float
    labels: Int64

    def __getitem__(self, rows: Int64) -> "Nearest":
        return Nearest(self.values[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.values)


def thresholds(held: Nearest, classes: int) -> Float:
    """For each class [classes] the similarity above which an image counts as too near, from hold-out images.

    A class with ≥ 100 images has its own 99th percentile. The others have their median plus one margin: the 99th
    percentile over all classes after each class's median is subtracted. A class without images has the median of all.
    Percentiles are those that a new image exceeds with a probability of 1 % (Weibull 1939; Hyndman & Fan 1996, type 6).
    """
    overall = float(np.median(held.values))
    medians = np.full(classes, overall)
    members = [np.flatnonzero(held.labels == label) for label in np.unique(held.labels)]
    for rows in members:
        medians[held.labels[rows[0]]] = np.median(held.values[rows])
    limits: Float = medians + np.quantile(held.values - medians[held.labels], PERCENTILE, method="weibull")
    for rows in members:
        if len(rows) >= OF_ITS_OWN:
            limits[held.labels[rows[0]]] = np.quantile(held.values[rows], PERCENTILE, method="weibull")
    return limits


def drop_too_near(
    prototypes: Sequence[ClassPrototypes | None], train: SceneSet, held: SceneSet, decode: Decode, side: int
) -> tuple[list[ClassPrototypes | None], int]:
    """The prototypes that are `far_enough`, and the number of those that were dropped."""
    kept: list[ClassPrototypes | None] = []
    dropped = 0
    for own, far in zip(prototypes, far_enough(prototypes, train, held, decode, side), strict=True):
        kept.append(own and _only(own, far))
        dropped += int((~far).sum())
    return kept, dropped


def far_enough(
    prototypes: Sequence[ClassPrototypes | None], train: SceneSet, held: SceneSet, decode: Decode, side: int
) -> list[npt.NDArray[np.bool_]]:
    """For each class's prototypes [K] whether they decode no nearer to any training image than hold-out images are.

    Nearness is that of the audit's replication test: structure space, eight views. The limit of a class is the 99th
    percentile of its hold-out images, so that about one harmless prototype in a hundred is also too near.

    Args:
        decode: scaled latents [n, C, side, side] → uint8 [n, H, W, 3].
        side: of a latent; block means are repeated up to it.
    """
    if not any(prototypes):
        return [np.zeros(0, bool) for _ in prototypes]
    real, some = structure(train.images), slice(None, None, -(-len(held.labels) // ASKED))
    limits = thresholds(Nearest(_nearest(held.images[some], real), held.labels[some]), len(train.classes))
    return [
        np.zeros(0, bool) if own is None else _nearest(decode(at_full_size(own.latents, side)), real) <= limit
        for own, limit in zip(prototypes, limits, strict=True)
    ]


def _nearest(images: Images, real: Float32) -> Float32:
    """Closeness [n] of images to the nearest real one [m, D]."""
    blocks = (images[i : i + BLOCK] for i in range(0, len(images), BLOCK))
    return closeness(np.concatenate([similarities(orbit(block), real).max(axis=1) for block in blocks]))


def _only(prototypes: ClassPrototypes, kept: npt.NDArray[np.bool_]) -> ClassPrototypes | None:
    """The kept prototypes in their order; the members of the others have none."""
    if not kept.any():
        return None
    places = np.where(kept, np.cumsum(kept) - 1, NOBODY)
    counts = tuple(count for count, stays in zip(prototypes.counts, kept, strict=True) if stays)
    return replace(prototypes, latents=prototypes.latents[kept], counts=counts, members=places[prototypes.members])
