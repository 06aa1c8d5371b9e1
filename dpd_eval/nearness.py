"""Whether images or latents lie nearer to the training images than to others like them."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import gammaln, ndtr  # type: ignore[import-untyped]
from scipy.stats import binomtest  # type: ignore[import-untyped]

from dpd_eval.attacks import (
    REPLICATES,
    area_under_curve,
    generators,
    members_of,
    percentile_ends,
    resampled,
    resampled_by_class,
    widened,
)
from dpd_eval.extractors import Extractor
from dpd_eval.subject import SEED, AuditData
from dpd_eval.verdict import COMPARABLE, WOULD_TELL, Ends, FewHeld, Outcome, decide, not_run, power
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.bands import Band, picture
from dpd_runtime.dataset import contact_sheet
from dpd_runtime.text import counted
from dpd_train.symmetry import NEAR, ORDER, closeness, orbit, similarities, structure, unit
from dpd_train.too_near import Nearest, thresholds

# -- Feature spaces in which images are compared.


@dataclass(frozen=True)
class Space:
    """A map from images uint8 [n, H, W, C] to unit vectors [n, D]; similarity is their cosine.

    Args:
        sees_through_vae: whether an image remains similar to itself after passing through a VAE.
        symmetric: whether the eight views of an image (D4) have the same vector.
    """

    name: str
    embed: Callable[[Images], Float32]
    sees_through_vae: bool = False
    symmetric: bool = False

    def orbit(self, images: Images) -> Float32:
        """Embed the views of each image that differ: vectors [n, 8, D], or [n, 1, D] in a symmetric space."""
        return self.embed(images)[:, None] if self.symmetric else orbit(images, self.embed)


def teacher_space(extractor: Extractor) -> Space:
    """Return the space of a classifier's last features, which describe the content of a scene."""
    return Space("teacher features", lambda images: unit(extractor.features(images)))


def further_space(extractor: Extractor) -> Space:
    """Return the space of a further extractor's features, named by it."""
    name = extractor.description.partition(": ")[0]
    return Space(f"features of {name}", lambda images: unit(extractor.features(images)), symmetric=extractor.symmetric)


def structure_space() -> Space:
    """Return the space of edge positions, independent of contrast (`dpd_train.symmetry`)."""
    return Space("structure", structure, sees_through_vae=True)


# -- Nearer to T than to H: is the nearest neighbour of an image too often a training image? (docs/reference/privacy.md)
#
# The statistic is the share of images whose nearest neighbour lies in a random T' ⊂ T of H's size rather than in H.
# Instead of one T', the exact expectation over all T' is used: if r images of T are nearer than the nearest of H, then
# a random T' of m among N contains one of them with probability 1 − C(N−r, m) / C(N, m).


NAME = "nearer to T than to H"
INNOCENT = 0.5  # of images that are as near to T as to H
MARGIN = 0.05  # above the hold-out's own share
Float = NDArray[np.floating]


def holds_one(nearer: NDArray[np.integer], drawn: int, total: int) -> Float:
    """Return the probability that `drawn` of `total`, without replacement, include at least one of `nearer` [..]."""
    left = total - nearer.astype(np.float64)
    possible = left >= drawn
    kept = np.where(possible, left, drawn)
    logs = gammaln(kept + 1) - gammaln(kept - drawn + 1) - gammaln(total + 1) + gammaln(total - drawn + 1)
    probabilities: Float = np.where(possible, -np.expm1(np.minimum(logs, 0.0)), 1.0)
    return probabilities


def nearer_share(to_train: Float32, to_held: Float32) -> Float:
    """Return the probability [n] that each image is nearer to T' than to H.

    If T is the smaller side, a random H' of T's size is used instead of T'.

    Args:
        to_train, to_held: similarities [n, N] and [n, m].
    """
    if to_train.shape[1] < to_held.shape[1]:
        return 1 - nearer_share(to_held, to_train)
    beyond = (to_train > to_held.max(axis=1, keepdims=True)).sum(axis=1)
    return holds_one(beyond, to_held.shape[1], to_train.shape[1])


def _replicates(larger: Float32, smaller: Float32, seed: int) -> Float:
    """Return the mean share of each replicate [R].

    Images and the smaller side are resampled. The part of the larger side is as large as the smaller side without
    copies.
    """
    images, size = smaller.shape
    nearest = np.empty((images, REPLICATES), np.float32)
    counts = np.empty(REPLICATES, np.int64)
    rows = np.empty((REPLICATES, images), np.int64)
    for number, generator in enumerate(generators(seed)):
        kept = np.unique(resampled(size, generator))
        counts[number] = len(kept)
        nearest[:, number] = smaller[:, kept].max(axis=1)
        rows[number] = resampled(images, generator)
    total = larger.shape[1]
    ordered = np.sort(larger, axis=1)
    beyond = np.stack([total - np.searchsorted(o, n, side="right") for o, n in zip(ordered, nearest, strict=True)])
    return np.array([holds_one(beyond[rows[r], r], int(counts[r]), total).mean() for r in range(REPLICATES)])


def nearer_interval(to_train: Float32, to_held: Float32, seed: int) -> Ends:
    """Return the 95 % interval of the mean of `nearer_share`: the spread of the replicates around the value.

    The spread is not taken around the replicates' own mean, because a resampled side without copies is smaller.
    """
    value = float(nearer_share(to_train, to_held).mean())
    swapped = to_train.shape[1] < to_held.shape[1]
    sides = (to_held, to_train) if swapped else (to_train, to_held)
    shares = _replicates(*sides, seed)
    spread = (1 - shares if swapped else shares) - (1 - shares if swapped else shares).mean()
    low, high = np.quantile(spread, (0.025, 0.975)).tolist()
    return max(0.0, value + low), min(1.0, value + high)


@dataclass(frozen=True)
class OwnShare:
    """The share of the hold-out's second half that is nearer to T than to its first half, with its interval.

    It is what a generator without a memory has. It is one half in a space that knows neither side; a network that was
    trained on T moves T's images away from all others.
    """

    value: float
    interval: Ends


INNOCENT_SHARE = OwnShare(INNOCENT, (INNOCENT, INNOCENT))


def own_share(to_train: Float32, to_first: Float32, seed: int = 1) -> OwnShare:
    """Args: to_train, to_first: similarities of H2 with T [n, N] and with H1 [n, m]."""
    return OwnShare(float(nearer_share(to_train, to_first).mean()), nearer_interval(to_train, to_first, seed))


def nearer_test(
    name: str,
    to_train: Float32,
    to_held: Float32,
    *,
    own: OwnShare = INNOCENT_SHARE,
    copied: float | None = None,
    seed: int = 0,
) -> Outcome:
    """Test whether the share of images nearer to T is above the hold-out's own share by more than MARGIN.

    Args:
        own: its uncertainty widens the interval, as the two are measured on different images.
        copied: the share of copies of T, for the test's power.
    """
    value = float(nearer_share(to_train, to_held).mean())
    ends = nearer_interval(to_train, to_held, seed)
    low = value - math.hypot(value - ends[0], own.interval[1] - own.value)
    high = value + math.hypot(ends[1] - value, own.value - own.interval[0])
    sizes = to_train.shape[1], to_held.shape[1]
    note = f"{counted(to_train.shape[0], 'image')}, {min(sizes)} on each side, of {sizes[0]} in T and {sizes[1]} in H"
    note += f"; the hold-out's own share is {own.value:.3f}" if own is not INNOCENT_SHARE else ""
    of_copies = None if copied is None else power(copied, own.value, (low, high))
    of_held = sizes[1] <= min(to_train.shape)
    return decide(name, value, (low, high), own.value + MARGIN, note=note, power=of_copies, of_held=of_held)


# -- Is the hold-out comparable: does H show the same kind of images as T?
#
# What an audit says of T it says in comparison with H. If H was taken at another scale, place or season, images made
# like T are nearer to T and networks know T better, without a memory of any single image. So this is tested first: a
# classifier two-sample test (Lopez-Paz & Oquab 2017, 1610.06545) of T and H within their classes, in the features of
# random weights, which nothing was trained to please. The classifier is a ridge regression, whose predictions of images
# left out have a closed form, so that 1,000 permutations of the labels tell the distribution of chance.
#
# Scenes that look alike but lie elsewhere are seen in the structure of the images: of a half of H as many are nearer to
# T as to the other half, if all three show the same scenes.


MEMBERSHIP_LIMIT = (
    0.6  # for the AUC: what a membership test may find, so that telling H from T cannot look like membership
)
CHANCE = 0.001  # of permuted labels with a higher AUC than the one that counts as found
PERMUTATIONS = 1000
LEAST_SHARE = 0.45  # of the second half of H nearer to T than to the first
MOST = 2000  # images of each side
RIDGE = 1.0  # for features of deviation 1, divided by the root of their number
Float64 = NDArray[np.float64]


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
    if samples.auc > max(MEMBERSHIP_LIMIT, samples.reach) or share.interval[1] < LEAST_SHARE:
        return Outcome(
            COMPARABLE, samples.auc, None, MEMBERSHIP_LIMIT, "WARN", f"{note}: H shows other images than T"
        ), False
    if samples.reach > MEMBERSHIP_LIMIT:
        needed = round(samples.images * ((samples.reach - 0.5) / (MEMBERSHIP_LIMIT - 0.5)) ** 2)
        few = FewHeld(needed / samples.images) if samples.images == len(data.held.labels) else None
        return Outcome(
            COMPARABLE, samples.auc, None, MEMBERSHIP_LIMIT, "WARN", f"{note}; about {needed} {WOULD_TELL}", few=few
        ), True
    return Outcome(COMPARABLE, samples.auc, None, MEMBERSHIP_LIMIT, "PASS", note), True


def _share_of_second(data: AuditData) -> OwnShare:
    """The nearness of H2 in the space of structures, which no network knows."""
    first, second = (data.held.images[rows] for rows in (data.first, data.second))
    views = orbit(second)
    return own_share(similarities(views, data.structures), similarities(views, structure(first)))


# -- Replication: how many images are closer to a training image than hold-out images are? (docs/reference/privacy.md)
#
# The threshold of a class is the 99th percentile of the highest similarity to T over H1. The share of images above it
# is compared with the share of H2 above it.


LIMIT = 0.02  # for the share of images minus the share of H2
FEWEST = 50  # images of H1; of fewer the 99th percentile is about their maximum, which 1 in n + 1 new images exceed
DRAWS = 200  # of normal values, for `expected_exceedance`


def exceedance(images: Nearest, limits: Float) -> float:
    """Return the share of images above the threshold of their class."""
    return float((images.values > limits[images.labels]).mean())


@cache
def expected_exceedance(counts: tuple[int, ...]) -> float:
    """The share of new images above their class's threshold, if H1 has so many images of each class.

    It is 1 % where each class has its own limit. Medians of few images make it larger: it is simulated, as if
    similarities within a class were normal.
    """
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(len(counts)), counts)
    drawn = [thresholds(Nearest(rng.standard_normal(len(labels)), labels), len(counts)) for _ in range(DRAWS)]
    return float(np.average(ndtr(-np.array(drawn)).mean(0), weights=counts))


def replication_test(
    name: str,
    images: Nearest,
    first: Nearest,
    second: Nearest | None,
    classes: int,
    *,
    copies: Nearest | None = None,
    seed: int = 0,
) -> Outcome:
    """Test the exceedance of `images` minus that of H2.

    Images, H1 and H2 are resampled 1,000 times, H1 and H2 within their classes.

    Args:
        first, second: H1 and H2. Without H2 `expected_exceedance` is subtracted; this is how H2 itself is tested.
        copies: images of T, for the test's power.

    Returns:
        NOT RUN if H1 has fewer than FEWEST images.
    """
    if len(first) < FEWEST:
        reason = f"thresholds need {FEWEST} images, half of the hold-out is {len(first)}: give more"
        return not_run(name, reason, FewHeld(FEWEST / len(first)))

    usual = expected_exceedance(tuple(np.bincount(first.labels, minlength=classes).tolist()))

    def statistic(ours: Nearest, h1: Nearest, h2: Nearest | None) -> float:
        limits = thresholds(h1, classes)
        return exceedance(ours, limits) - (usual if h2 is None else exceedance(h2, limits))

    strata, others = members_of(first.labels), [] if second is None else members_of(second.labels)
    replicates = np.array(
        [
            statistic(
                images[resampled(len(images), generator)],
                first[resampled_by_class(strata, generator)],
                None if second is None else second[resampled_by_class(others, generator)],
            )
            for generator in generators(seed)
        ]
    )
    limits = thresholds(first, classes)
    share = exceedance(images, limits)
    expected = usual if second is None else exceedance(second, limits)
    beside = "expected" if second is None else f"of the {len(second)} of H2"
    note = f"{100 * share:.1f} % of {len(images)} above the threshold, {100 * expected:.1f} % {beside}"
    ends = widened(percentile_ends(replicates), round(share * len(images)), len(images), expected)
    of_copies = None if copies is None else power(exceedance(copies, limits) - expected, 0.0, ends)
    return decide(
        name,
        share - expected,
        ends,
        LIMIT,
        note=note,
        power=of_copies,
        of_held=second is not None and len(second) <= len(images),
    )


# -- Compare images with T and H in one feature space; both tests of a set use these similarities.


SECOND = "H2"
COPIES = 500


@dataclass(frozen=True)
class Compared:
    """Similarities of images with labels [n] to T and H: [n, N] and [n, m]."""

    labels: Int64
    to_train: Float32
    to_held: Float32

    @property
    def nearest(self) -> Nearest:
        return Nearest(closeness(self.to_train.max(axis=1)), self.labels)


@dataclass(frozen=True)
class Yardstick:
    """A feature space with T and H embedded in it.

    Args:
        reals: T and H as they are compared: unchanged, or passed through the VAE.
        train, held: unit vectors [N, D] and [m, D]. held_to_train: similarities [m, N].
        copies: COPIES random images of T, turned at random. shown: the same as a generator would show them, through
            the VAE where there is an encoder.
    """

    name: str
    space: Space
    data: AuditData
    reals: tuple[Images, Images]
    train: Float32
    held: Float32
    held_to_train: Float32
    copies: Compared
    shown: Compared

    def compare(self, images: Images, labels: Int64) -> Compared:
        """Compare images uint8 [n, H, W, C] in all eight views (D4)."""
        return compare(self.space, images, labels, self.train, self.held)

    def half(self, rows: Int64) -> Nearest:
        """Compare H1 or H2 with T."""
        return Nearest(closeness(self.held_to_train[rows].max(axis=1)), self.data.held.labels[rows])

    def replication(self, compared: Compared, what: str) -> Outcome:
        name = f"replication, {what}, {self.name}"
        first, second = self.half(self.data.first), self.half(self.data.second)
        classes, copies = len(self.data.classes), self.shown.nearest
        return replication_test(name, compared.nearest, first, second, classes, copies=copies)

    def nearer(self, compared: Compared, what: str) -> Outcome:
        name, sides = f"{NAME}, {what}, {self.name}", (compared.to_train, compared.to_held)
        copied = float(nearer_share(self.shown.to_train, self.shown.to_held).mean())
        return nearer_test(name, *sides, own=self.own, copied=copied)

    @cached_property
    def own(self) -> OwnShare:
        return own_share(*self.of_second)

    @cached_property
    def of_second(self) -> tuple[Float32, Float32]:
        """Similarities of H2 with T and with H1."""
        second = self.data.second
        orbit = self.space.orbit(self.reals[1][second])
        return self.held_to_train[second], similarities(orbit, self.held[self.data.first])

    def control(self) -> list[Outcome]:
        """Run both tests on H2, compared with T and H1."""
        nearest = self.half(self.data.second), self.half(self.data.first)
        return [
            replication_test(f"replication, {SECOND}, {self.name}", *nearest, None, len(self.data.classes)),
            nearer_test(f"{NAME}, {SECOND}, {self.name}", *self.of_second),
        ]


def yardstick(
    space: Space,
    data: AuditData,
    progress: Callable[[], None] = lambda: None,
    *,
    decoded: tuple[Images, Images] | None = None,
) -> Yardstick:
    """Embed T and H in `space`.

    Args:
        decoded: T and H passed through the VAE, if there is an encoder: in this form a latent generator shows a
            memorised image.
    """
    shown = None if decoded is None else decoded[0]
    return _yardstick(space, space.name, data, (data.train.images, data.held.images), shown, progress)


def yardstick_through_vae(
    space: Space, data: AuditData, decoded: tuple[Images, Images], progress: Callable[[], None] = lambda: None
) -> Yardstick:
    """Embed T and H, passed through the VAE, in `space`: features that the VAE changes can still find an image."""
    return _yardstick(space, f"{space.name} through the VAE", data, decoded, None, progress)


def _yardstick(
    space: Space,
    name: str,
    data: AuditData,
    reals: tuple[Images, Images],
    shown: Images | None,
    progress: Callable[[], None],
) -> Yardstick:
    train = space.embed(reals[0])
    progress()
    orbit = space.orbit(reals[1])
    held = np.ascontiguousarray(orbit[:, 0])
    progress()
    rows = data.copied(COPIES)

    def copied(images: Images) -> Compared:
        return compare(space, turned(images[rows]), data.train.labels[rows], train, held)

    copies = copied(reals[0])
    seen = copies if shown is None else copied(shown)
    return Yardstick(name, space, data, reals, train, held, similarities(orbit, train), copies, seen)


def compare(space: Space, images: Images, labels: Int64, train: Float32, held: Float32) -> Compared:
    """Compare images uint8 [n, H, W, C] in all eight views (D4) with T and H, given as unit vectors."""
    orbit = space.orbit(images)
    return Compared(labels, similarities(orbit, train), similarities(orbit, held))


def turned(images: Images) -> Images:
    """Rotate or flip each image [n, S, S, C] at random (D4)."""
    elements = np.random.default_rng(SEED).integers(ORDER, size=len(images))
    views = [np.rot90(i[:, ::-1] if e >= 4 else i, e % 4) for i, e in zip(images, elements, strict=True)]
    return np.stack(views)


# -- Tests of images: generated images and decoded prototypes.


COLUMNS = 12
ROWS = 3


@dataclass(frozen=True)
class AuditedImages:
    """Images of one kind, with labels in the data's order."""

    what: str
    images: Images
    labels: Int64


def set_tests(
    audited: AuditedImages, yardsticks: list[Yardstick], private: Path | None, progress: Callable[[], None]
) -> list[Outcome]:
    """Run both tests in each space, and write the worst pairs to `private`."""
    tests = []
    for yardstick in yardsticks:
        compared = yardstick.compare(audited.images, audited.labels)
        tests += [yardstick.replication(compared, audited.what), yardstick.nearer(compared, audited.what)]
        if private is not None:
            _keep_worst(audited, yardstick, compared, private)
        progress()
    return tests


def near_copies(audited: AuditedImages, data: AuditData, private: Path | None) -> Outcome:
    """Count the images that are near duplicates of an image of T, as `near_duplicates` finds them.

    Copies at another contrast, blurred or with noise are among them. It needs no hold-out; where H has near duplicates
    of T too, as neighbouring patches may be, the count is a warning only, unless their share is above H's beyond doubt
    (95 % intervals of Clopper and Pearson that do not meet).
    """

    def nearest(images: Images) -> Float32:
        return similarities(orbit(images), data.structures)

    name, ours = f"near duplicates of T, {audited.what}", nearest(audited.images)
    copies = np.flatnonzero(ours.max(axis=1) > NEAR)
    note = f"of {counted(len(ours), 'image')}"
    if not len(copies):
        return Outcome(name, 0.0, None, 0.0, "PASS", note)
    if private is not None:
        real = data.train.images[ours[copies].argmax(axis=1)]
        write_worst_pairs(private / f"{name}.png", audited.images[copies], real, data.train.bands)
    of_held = int((nearest(data.held.images).max(axis=1) > NEAR).sum())
    note += f"; {of_held} of {len(data.held.labels)} of H are near duplicates of T too" if of_held else ""
    ours_at_least = binomtest(len(copies), len(ours)).proportion_ci(0.95, "exact").low
    theirs_at_most = binomtest(of_held, len(data.held.labels)).proportion_ci(0.95, "exact").high
    doubtful = of_held > 0 and ours_at_least <= theirs_at_most
    return Outcome(name, float(len(copies)), None, 0.0, "WARN" if doubtful else "FAIL", note)


def _keep_worst(audited: AuditedImages, yardstick: Yardstick, compared: Compared, private: Path) -> None:
    """Write the images that are furthest above the threshold of their class."""
    limits = thresholds(yardstick.half(yardstick.data.first), len(yardstick.data.classes))
    beyond = compared.nearest.values - limits[audited.labels]
    rows = np.argsort(-beyond, kind="stable")
    nearest = yardstick.data.train.images[compared.to_train.argmax(axis=1)]
    name = re.sub(r",? |[:/]", "-", f"{audited.what}, {yardstick.name}")  # an extractor's name may be that of a folder
    write_worst_pairs(private / f"{name}.png", audited.images[rows], nearest[rows], yardstick.data.train.bands)


def write_worst_pairs(path: Path, images: Images, nearest: Images, bands: tuple[Band, ...] = ()) -> None:
    """Draw the first 36 images, worst first, each above the most similar real image (in any of the eight views).

    Images of other bands than RGB are drawn as people see them.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    images, nearest = (picture(some[: COLUMNS * ROWS], bands) for some in (images, nearest))
    rows = []
    for start in range(0, min(len(images), COLUMNS * ROWS), COLUMNS):
        part = slice(start, min(start + COLUMNS, COLUMNS * ROWS))
        rows += [("audited", list(images[part])), ("nearest real", list(nearest[part]))]
    Image.fromarray(contact_sheet(rows, size=int(images.shape[1]))).save(path)
