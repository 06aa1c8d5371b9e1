"""Metrics of a set of images in a feature space."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_eval.extractors import Extractor  # and PyTorch, which a report does without


# -- Metrics based on cosines: mean-max cosine coverage and intra-class diversity.


BLOCK_ROWS = 4096


def unit_rows(features: Float32) -> NDArray[np.float64]:
    """Scale each row of [n, D] to length 1. A row of zeros stays zero, so its cosine with everything is 0."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


def mean_max_cosine(
    generated: Float32,
    labels: Int64,
    reference: Float32,
    reference_labels: Int64,
) -> float:
    """Average, over the reference images [m, D], the highest cosine with a set image [n, D] of the same class.

    The result is the mean of the class means, in [-1, 1]; it is 1 if every reference image is in the set. It grows
    with the size of the set, so compare sets at equal IPC.

    Raises:
        InputError: the set has no image of a class of the reference.
    """
    ours, real = unit_rows(generated), unit_rows(reference)
    means = []
    for label in np.unique(reference_labels):
        members, choices = real[reference_labels == label], ours[labels == label]
        if not len(choices):
            raise InputError(f"mean-max cosine: the set has no image of class {label}, but the reference has")
        blocks = (members[i : i + BLOCK_ROWS] for i in range(0, len(members), BLOCK_ROWS))
        means.append(np.concatenate([(block @ choices.T).max(axis=1) for block in blocks]).mean())
    return float(np.mean(means))


def intra_class_diversity(features: Float32, labels: Int64) -> float:
    """Average 1 − cosine over all pairs of images of a class, then over the classes with at least two images.

    In [0, 2]; 0 for copies, and if no class has two images. features: [n, D]; labels: [n].
    The sum over pairs is computed as Σ_{i≠j} u_i·u_j = |Σ u_i|² − Σ |u_i|².
    """
    units = unit_rows(features)
    means = []
    for label in np.unique(labels):
        members = units[labels == label]
        count = len(members)
        if count > 1:
            total = members.sum(axis=0)
            means.append(1 - float(total @ total - (members**2).sum()) / (count * (count - 1)))
    return max(0.0, float(np.mean(means))) if means else 0.0


# -- Kernel inception distance: unbiased squared MMD with a cubic kernel (Bińkowski et al. 2018, arXiv 1801.01401, §4).


SUBSETS = 100
LARGEST_SUBSET = 1000
KID_FEWEST_IMAGES = 4  # each half needs two images

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Kid:
    """Mean and spread of the estimates from `subsets` pairs of random subsets of `subset_sizes` images.

    mean: squared distance in kernel units, 0 for equal distributions; unbiased, so it may be negative.
    std: sample standard deviation between subsets, in the same units; `kernel_distance` explains its meaning.
    """

    mean: float
    std: float
    subsets: int
    subset_sizes: tuple[int, int]


def cubic_kernel(first: Float64, second: Float64) -> Float64:
    """Compute (x·y / D + 1)³ for the rows of [n, D] and [m, D]: [n, m]."""
    products: Float64 = first @ second.T / first.shape[1] + 1.0
    products **= 3  # in place: three matrices of 1000 × 1000 numbers are held at a time
    return products


def squared_mmd(first: Float64, second: Float64) -> float:
    """Compute the unbiased squared MMD of [n, D] and [m, D], n, m ≥ 2 (U-statistic; Gretton et al. 2012, eq. 3)."""
    n, m = len(first), len(second)
    within_first, within_second = cubic_kernel(first, first), cubic_kernel(second, second)
    own_first = (within_first.sum() - np.trace(within_first)) / (n * (n - 1))
    own_second = (within_second.sum() - np.trace(within_second)) / (m * (m - 1))
    return float(own_first + own_second - 2 * cubic_kernel(first, second).mean())


def kernel_distance(
    generated: Float32,
    reference: Float32,
    seed: int,
    *,
    subsets: int = SUBSETS,
    largest: int = LARGEST_SUBSET,
) -> Kid:
    """Compute KID of the features [n, D] and [m, D], over all classes together.

    Each subset has half of its side's images, at most `largest`, sampled without replacement. (Subsets as large as
    the side would all be equal, with a spread of 0 however noisy the estimate.) The spread between halves is the
    standard error of the whole if the distributions differ, and up to twice that if they do not, so it is
    conservative. For sides with more than twice `largest` images it is the error of a comparison of `largest` images.

    Raises:
        InputError: fewer than 4 images on a side, or fewer than two subsets.
    """
    sizes = min(len(generated) // 2, largest), min(len(reference) // 2, largest)
    if min(sizes) < 2:
        fewest = min(len(generated), len(reference))
        raise InputError(f"KID of {counted(fewest, 'image')}: it needs at least {KID_FEWEST_IMAGES} on each side")
    if subsets < 2:
        raise InputError(f"KID from {subsets} subsets: its spread needs at least 2")
    rng = np.random.default_rng(seed)
    estimates = []
    for _ in range(subsets):
        ours, theirs = (
            side[rng.choice(len(side), size, replace=False)].astype(np.float64)
            for side, size in zip((generated, reference), sizes, strict=True)
        )
        estimates.append(squared_mmd(ours, theirs))
    return Kid(float(np.mean(estimates)), float(np.std(estimates, ddof=1)), subsets, sizes)


# -- Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).


NEIGHBOURS = 5
BLOCK_NUMBERS = 2_000_000  # distances held in memory at a time: 16 MB, plus a few temporaries of that size
SAME = 1e-12  # relative to |x|² + |y|²: a smaller squared distance is a rounding error of 0
TIE = 1e-9  # relative: a distance this close to a radius lies on the sphere, not in the ball


@dataclass(frozen=True)
class Prdc:
    """precision, recall and coverage are in [0, 1]; density ≥ 0 is about 1 for equal distributions and may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def _distances(rows: Float64, others: Float64) -> Iterator[tuple[slice, Float64]]:
    """Yield squared Euclidean distances of [n, D] to [m, D] in blocks: the slice of rows, and [rows, m]."""
    norms, others_norms = (np.einsum("ij,ij->i", side, side) for side in (rows, others))
    step = max(1, BLOCK_NUMBERS // len(others))
    for start in range(0, len(rows), step):
        block = slice(start, min(start + step, len(rows)))
        lengths = norms[block, None] + others_norms
        squared = lengths - 2 * (rows[block] @ others.T)
        squared[squared < SAME * lengths] = 0.0
        yield block, squared


def squared_radii(points: Float64, neighbours: int) -> Float64:
    """Return the squared distance [n] of each point [n, D] to its k-th nearest other point, n > k."""
    radii = np.empty(len(points))
    for block, squared in _distances(points, points):
        rows = np.arange(block.start, block.stop)
        squared[rows - block.start, rows] = np.inf  # no point is its own neighbour
        radii[block] = np.partition(squared, neighbours - 1, axis=1)[:, neighbours - 1]
    return radii


def neighbour_shares(generated: Float32, reference: Float32, *, neighbours: int = NEIGHBOURS) -> Prdc:
    """Compute the four metrics for features [n, D] and [m, D], over all classes together.

    B(x) is the open ball around x that reaches to its k-th nearest neighbour on its own side.
    precision: share of generated images in some B(reference). recall: share of reference images in some B(generated).
    density: number of B(reference) that contain a generated image, averaged over the images and divided by k.
    coverage: share of B(reference) that contain a generated image.
    With open balls, as in the code of Naeem et al. (clovaai/generative-evaluation-prdc), a set equal to the reference
    scores 1 in all four. A set much smaller than the reference has few and wide B(generated): use recall and coverage
    only to compare sets of equal size.

    Raises:
        InputError: no more images than neighbours on a side.
    """
    for side, features in (("generated", generated), ("reference", reference)):
        if len(features) <= neighbours:
            raise InputError(
                f"precision and recall of {len(features)} {side} images: they need more than {neighbours}, "
                "the number of neighbours"
            )
    centre = reference.mean(axis=0, dtype=np.float64)  # centring reduces rounding errors
    ours, real = generated.astype(np.float64), reference.astype(np.float64)
    ours -= centre
    real -= centre
    our_radii = squared_radii(ours, neighbours) * (1 - TIE)
    real_radii = squared_radii(real, neighbours) * (1 - TIE)
    in_balls = np.zeros(len(ours), np.int64)  # number of B(reference) that contain each generated image
    recalled = covered = 0
    for block, squared in _distances(real, ours):
        inside = squared < real_radii[block, None]
        in_balls += inside.sum(axis=0)
        covered += int(inside.any(axis=1).sum())
        recalled += int((squared < our_radii).any(axis=1).sum())
    return Prdc(
        precision=float((in_balls > 0).mean()),
        recall=recalled / len(real),
        density=float(in_balls.mean()) / neighbours,
        coverage=covered / len(real),
    )


# -- All metrics of a set. They need no training on the set.
#
# A metric is a function of features [n, D] float32 and labels [n] int64. To add one, write its function, a field in
# `SetMetrics` and a line in `set_metrics`.


FEWEST_IMAGES = NEIGHBOURS + 1  # fewer images have no fifth neighbour


@dataclass(frozen=True)
class Agreement:
    """Shares in [0, 1]: over all images, and for each class of the set."""

    overall: float
    per_class: dict[str, float]


@dataclass(frozen=True)
class SetMetrics:
    """One set compared with the real training images, over all classes, in the features of one extractor.

    Args:
        arm, ipc, images: what is compared. extractor: its description.
        kid, kid_std: kernel inception distance over subsets, and its standard deviation.
        precision, recall, density, coverage: as Naeem et al. 2020 define them.
        mean_max_cosine: cosine of each real image with the most similar image of its class in the set, mean.
        intra_class_diversity: one minus the mean cosine of pairs within a class.
        reference_diversity: the same of the real images.
        teacher_agreement, per_class_agreement: share of the images that the extractor's classifier assigns to their
            class, overall and by class; None if it has no classifier for these classes.
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


# -- Detail of images: power by octave, fine contrast, and the kurtosis of what a blur takes away.
#
# Blurred images have less power in the highest octave and less fine contrast than real ones. Images whose sparse lines
# are lost have less kurtosis: 3 is that of Gaussian noise, and a few bright lines on a plain field have far more.


LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
KERNEL = np.array([0.25, 0.5, 0.25])  # binomial blur
FLAT = 1e-6  # variance, in squared grey levels of 0 … 255, below which an image has no detail
PART = 500  # images that are measured at once


@dataclass(frozen=True)
class SetDetail:
    """Detail of one arm's images, or of real images that no arm holds.

    Args:
        arm, ipc, images: what is measured; ipc is None for images of no arm.
        octaves: power of the grey levels (0 … 255), mean over all images, in the octaves 1 to 2, 2 to 4, … cycles an
            image. The first also holds what varies less than once an image, the last reaches to the corner of the
            spectrum.
        fine_contrast: of each class, standard deviation in grey levels of what the binomial blur takes away.
        kurtosis: of each class, mean over its images of E[x⁴] / E[x²]² of what it takes away; 3 if there is nothing.
    """

    arm: str
    ipc: int | None
    images: int
    octaves: tuple[float, ...]
    fine_contrast: dict[str, float]
    kurtosis: dict[str, float]


def set_detail(arm: str, ipc: int | None, labelled: tuple[Images, Int64], classes: tuple[str, ...]) -> SetDetail:
    """Measure square images, uint8 [n, S, S, C] with labels [n], that are at least 4 pixels wide."""
    images, labels = labelled
    parts = [_measured(images[i : i + PART]) for i in range(0, len(images), PART)]
    octaves, deviation, kurtosis = (np.concatenate(part) for part in zip(*parts, strict=True))
    own = {classes[label]: labels == label for label in np.unique(labels).tolist()}
    return SetDetail(
        arm=arm,
        ipc=ipc,
        images=len(images),
        octaves=tuple(octaves.mean(axis=0).tolist()),
        fine_contrast={name: float(deviation[rows].mean()) for name, rows in own.items()},
        kurtosis={name: float(kurtosis[rows].mean()) for name, rows in own.items()},
    )


def _measured(images: Images) -> tuple[Float64, Float64, Float64]:
    """Power by octave [n, octaves], deviation [n] and kurtosis [n] of what a blur takes away."""
    levels = grey(images)
    fine = high_pass(levels)
    second, fourth = ((fine**power).mean(axis=(1, 2)) for power in (2, 4))
    kurtosis = np.where(second > FLAT, fourth / np.maximum(second, FLAT) ** 2, 3.0)
    return octave_power(levels), np.sqrt(second), kurtosis


def grey(images: Images) -> Float64:
    """Grey levels [n, H, W], 0 … 255: the luma of three bands, the mean of any other number."""
    bands = images.shape[-1]
    levels: Float64 = images.astype(np.float64) @ (LUMA if bands == len(LUMA) else np.full(bands, 1 / bands))
    return levels


def octave_power(levels: Float64) -> Float64:
    """Power [n, octaves] of grey levels [n, S, S] by the radius of the frequency; they add up to the variance."""
    side = levels.shape[1]
    power = np.abs(np.fft.fft2(levels)) ** 2 / side**4
    power[:, 0, 0] = 0  # the mean
    frequency = np.fft.fftfreq(side, 1 / side)
    radius = np.hypot(frequency[:, None], frequency[None])
    last = int(np.log2(side)) - 2  # the octave that begins at half of the highest frequency along an axis
    octave = np.minimum(np.log2(np.maximum(radius, 1)).astype(int), last)
    return np.stack([power[:, octave == number].sum(axis=1) for number in range(last + 1)], axis=1)


def high_pass(levels: Float64) -> Float64:
    """What the binomial blur takes away from grey levels [n, H, W], whose borders are mirrored."""
    padded = np.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    kernel = KERNEL[:, None] * KERNEL
    detail: Float64 = levels - np.einsum("nhwij,ij->nhw", sliding_window_view(padded, (3, 3), axis=(1, 2)), kernel)
    return detail
