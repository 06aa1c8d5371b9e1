"""The guarantee of one release: the noise that it asks for, what was spent, and how far the noise moves a class mean.

Data sets are neighbours if one image of one class is replaced (METHOD §11): the label stays, so that the number of
images of each class is public.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dpd_runtime.bundle.privacy import MOST_EPSILON
from dpd_runtime.errors import DataError, InputError
from dpd_train.prototypes.noise import DELTA, HALVINGS, delta_of

WIDTHS = (1024, 512, 256, 128)  # values of an image's vector, over all watchers together
MOST_NOISE = 0.1
"""Norm of the noise on a class mean, in units of the limit R, above which a release is refused. METHOD §11 offers
1,200 images at ε = 1 (0.08) and not 40 at ε = 10 (0.32). Means of EuroSAT's classes lie 0.2 to 0.3 R from the nearest
other one, seen by watchers of drawn scenes: noise of 0.1 on both of two means (0.14 together) leaves them apart."""
LEAST_DELTA = 1e-9  # below it the accountant's ε is too large
HEADROOM = 1e-7  # share of ε that the noise is larger for, as the accountant's ε is an upper bound
DIGITS = 4  # after the decimal point, of the ε that is reported, rounded up


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The guarantee (ε, δ) for one image.

    Args:
        epsilon: above 0; math.inf for no noise, which no command offers.
        share_of_means: of μ² = 1 / σ² that the class sums get; the second moment has the rest.
    """

    epsilon: float
    delta: float = DELTA
    share_of_means: float = 0.8

    @property
    def shift(self) -> float:
        """μ: the largest sensitivity / standard deviation that gives (ε, δ) (Balle & Wang 2018), by bisection."""
        if math.isinf(self.epsilon):
            return math.inf
        low, high = 0.0, 1.0
        while delta_of(self.epsilon, high) < self.delta:
            high *= 2
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if delta_of(self.epsilon, middle) <= self.delta else (low, middle)
        return low


@dataclass(frozen=True)
class Sensitivity:
    """What one image can change at most: the class sums by their L2 norm, the second moment by its Frobenius norm."""

    sums: float
    moment: float


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the noise on each value of the class sums, and on the second moment (in its isometry)."""

    sums: float
    moment: float


def sensitivity_of(limit: float, fewest: int, classes: int) -> Sensitivity:
    """The sensitivities of vectors u with ‖u‖ ≤ R = `limit`, whose parts, one a watcher, have a norm of at most 1.

    Sums: ‖u − v‖ ≤ 2 R. Second moments, one block uₚuₚᵀ for each part p: blocks are positive, so that an exchange
    changes them by at most √2 times the norm of one image's blocks, and Σ ‖uₚ‖⁴ ≤ Σ ‖uₚ‖² ≤ R². (Without the limit of
    the parts it would be R² instead of R.) Means over the views of one image keep both bounds. In the second moment an
    image of the smallest class weighs 1 / (classes · fewest).

    Args:
        fewest: images in the smallest class.
    """
    return Sensitivity(2 * limit, math.sqrt(2) * limit / (classes * fewest))


def noise_of(budget: Budget, change: Sensitivity) -> Noise:
    """The noise that the budget asks for. Gaussian mechanisms compose exactly: μ² adds up (Dong et al. 2022)."""
    shift, share = budget.shift * (1 - HEADROOM), budget.share_of_means
    return Noise(change.sums / (shift * math.sqrt(share)), change.moment / (shift * math.sqrt(1 - share)))


def spent(change: Sensitivity, noise: Noise, delta: float) -> float:
    """The ε of both releases together, by the privacy loss distributions of dp-accounting, from the noise alone.

    Nothing of `Budget` is used, so that a mistake there shows as another ε. Rounded up to DIGITS.
    """
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism  # only here: it is an extra

    ratios = (noise.sums / change.sums, noise.moment / change.moment)
    interval = 1e-4 / min(ratios)
    first, second = (from_gaussian_mechanism(ratio, value_discretization_interval=interval) for ratio in ratios)
    epsilon = float(first.compose(second).get_epsilon_for_delta(delta))
    digits = 10.0**DIGITS
    return math.ceil(epsilon * digits) / digits


def noise_on_mean(budget: Budget, images: int, width: int) -> float:
    """Expected norm of the noise on the mean of a class of so many images, in units of R: σ √D / (n R)."""
    return 2 * math.sqrt(width) / (budget.shift * math.sqrt(budget.share_of_means) * images)


def sampling_error(images: int) -> float:
    """Expected distance of such a mean from that of all images of its kind, in units of R: at most 1 / √n."""
    return 1 / math.sqrt(images)


def suited_width(budget: Budget, fewest: int) -> int:
    """D: the most values for which the noise moves the smallest class's mean less than sampling does, or the least."""
    wide = (width for width in WIDTHS if noise_on_mean(budget, fewest, width) <= sampling_error(fewest))
    return next(wide, WIDTHS[-1])


def fewest_images(budget: Budget) -> int:
    """The smallest class that the budget allows."""
    return math.ceil(noise_on_mean(budget, 1, WIDTHS[-1]) / MOST_NOISE)


def check_budget(budget: Budget, counts: Mapping[str, int]) -> None:
    """Check a budget before anything is trained.

    Args:
        counts: class → number of private images.

    Raises:
        InputError: ε or δ out of range.
        DataError: a class is too small; the message names the smallest size that would do.
    """
    epsilon, total = budget.epsilon, sum(counts.values())
    if not 0 < epsilon <= MOST_EPSILON:
        raise InputError(f"--dp {epsilon:g}: give an epsilon above 0 and at most {MOST_EPSILON:g}")
    if round(epsilon, DIGITS) != epsilon:  # rounded up, what is spent would be more than this
        raise InputError(f"--dp {epsilon}: give an epsilon with at most {DIGITS} decimal places")
    if not LEAST_DELTA <= budget.delta < 1 / total:
        raise InputError(
            f"--dp-delta {budget.delta:g}: give a number from {LEAST_DELTA:g} (the accountant is not exact below) "
            f"to below 1 / {total}, the number of images: with more, whole images could be told"
        )
    name = min(counts, key=counts.__getitem__)
    images, needed = counts[name], fewest_images(budget)
    if images < needed:
        noise, sampling = noise_on_mean(budget, images, WIDTHS[-1]), sampling_error(images)
        raise DataError(
            f"--dp {epsilon:g}: class {name!r} has {images} training images, and the noise would move its mean by "
            f"{noise:.2f} of the largest norm (sampling: {sampling:.2f}), more than {MOST_NOISE:g}: the codes would "
            f"show noise; it needs {needed} images, or take a larger epsilon, or leave the class out"
        )
