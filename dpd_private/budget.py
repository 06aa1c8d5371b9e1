"""The guarantee of one release: the noise that it asks for, what was spent, and how far the noise moves a class mean.

Data sets are neighbours if one image of one class is replaced: the label stays, so that the number of
images of each class is public.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dpd_runtime.errors import DataError, InputError
from dpd_runtime.manifest import MOST_EPSILON
from dpd_runtime.text import counted
from dpd_train.prototypes import DELTA, HALVINGS, delta_of

WIDTHS = (1024, 512, 256, 128)  # values of an image's vector, over all watchers together
MOST_NOISE = 0.1
"""Norm of the noise on a class mean, in units of the limit R, above which a release is refused. 1,200 images
at ε = 1 (0.07) pass, 40 at ε = 10 (0.28) do not. Means of EuroSAT's classes lie 0.2 to 0.3 R from the nearest other
one, seen by watchers of drawn scenes: noise of 0.1 on both of two means (0.14 together) leaves them apart."""
MOMENT, LENGTHS = 0.4, 0.3  # scales of the second moment and of squared lengths; see `sensitivity_of`
LEAST_DELTA = 1e-9  # below it the accountant's ε is too large
HEADROOM = 1e-7  # share of ε that the noise is larger for, as the accountant's ε is an upper bound
DIGITS = 4  # after the decimal point, of the ε that is reported, rounded up


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The guarantee (ε, δ) for one image.

    Args:
        epsilon: above 0; math.inf for no noise, which no command offers.
    """

    epsilon: float
    delta: float = DELTA

    @property
    def mu(self) -> float:
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


def moment_scale(fewest: int, classes: int) -> float:
    """What the second moment is multiplied by where it is released: an image then adds at most 0.4 Σₚ uₚuₚᵀ to it.

    In the second moment each class has equal weight, so an image of the smallest one weighs 1 / (classes · fewest).

    Args:
        fewest: images in the smallest class.
    """
    return MOMENT * classes * fewest


def sensitivity_of(limit: float) -> float:
    """2 R: what one image changes at most (L2 norm) in class sums, squared lengths and the second moment together.

    An image is a vector u with ‖u‖ ≤ R = `limit`, whose parts uₚ, one a watcher, have a norm of at most 1. It adds u to
    its class's sums, s ‖uₚ‖² to its class's squared lengths and at most m uₚuₚᵀ to the scaled second moment, with
    m = MOMENT and s = LENGTHS. If v takes its place, the square of the change is at most
    Σₚ ‖uₚ − vₚ‖² + m² ‖uₚuₚᵀ − vₚvₚᵀ‖² + s² (‖uₚ‖² − ‖vₚ‖²)². Let a and b be the norms of uₚ and vₚ and c ≥ −ab their
    product. A term is a² + b² − 2c + m² (a⁴ + b⁴ − 2c²) + s² (a² − b²)², which falls with c from −1 / (2 m²) on, and
    that is below −1. So it is at most (a + b)² + (m² + s²) (a² − b²)², and as m² + s² = ¼ and a + b ≤ 2, at most
    (a + b)² + (a − b)² = 2a² + 2b². All terms together are at most 4 R². The sums alone can change by as much: the rest
    is released for nothing. The mean over the views of an image keeps the bound, as the norm is convex.
    """
    return 2 * limit


def noise_of(budget: Budget, sensitivity: float) -> float:
    """Standard deviation of the noise on each value that the budget asks for (Gaussian mechanism)."""
    return sensitivity / (budget.mu * (1 - HEADROOM))


def mu_of(budget: Budget) -> float:
    """Sensitivity / noise of a release for this budget, slightly below `Budget.mu`."""
    return 1 / noise_of(budget, 1.0)


def spent(sensitivity: float, noise: float, delta: float) -> float:
    """The ε of the release, by the privacy loss distribution of dp-accounting, from the noise alone.

    Nothing of `Budget` is used, so that a mistake there shows as another ε. Rounded up to DIGITS.
    """
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism  # only here: it is an extra

    ratio = noise / sensitivity
    loss = from_gaussian_mechanism(ratio, value_discretization_interval=1e-4 / ratio)
    epsilon = float(loss.get_epsilon_for_delta(delta))
    digits = 10.0**DIGITS
    return math.ceil(epsilon * digits) / digits


def noise_on_mean(budget: Budget, images: int, width: int) -> float:
    """Expected norm of the noise on the mean of a class of so many images, in units of R: σ √D / (n R).

    D is of the watchers' values alone. The few of the appearance add a tenth to it at D = 128, and nothing to what is
    spent.
    """
    return 2 * math.sqrt(width) / (budget.mu * images)


def sampling_error(images: int) -> float:
    """Expected distance of such a mean from that of all images of its kind, in units of R: at most 1 / √n."""
    return 1 / math.sqrt(images)


def suited_width(budget: Budget, fewest: int) -> int:
    """D: the most values for which the noise moves the smallest class's mean by no more than MOST_NOISE, or the least.

    At ε = 1 a ridge regression on what was released of EuroSAT names 66.5, 68.6 and 68.2 % of the validation part right
    with D = 128, 256 and 512.
    """
    wide = (width for width in WIDTHS if noise_on_mean(budget, fewest, width) <= MOST_NOISE)
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
        raise InputError(f"--epsilon {epsilon:g}: give an epsilon above 0 and at most {MOST_EPSILON:g}")
    if round(epsilon, DIGITS) != epsilon:  # rounded up, what is spent would be more than this
        raise InputError(f"--epsilon {epsilon}: give an epsilon with at most {DIGITS} decimal places")
    if not LEAST_DELTA <= budget.delta < 1 / total:
        raise InputError(
            f"--delta {budget.delta:g}: give a number from {LEAST_DELTA:g} (the accountant is not exact below) "
            f"to below 1 / {total}, the number of images: with more, whole images could be told"
        )
    name = min(counts, key=counts.__getitem__)
    images, needed = counts[name], fewest_images(budget)
    if images < needed:
        noise, sampling = noise_on_mean(budget, images, WIDTHS[-1]), sampling_error(images)
        raise DataError(
            f"--epsilon {epsilon:g}: class {name!r} has {counted(images, 'training image')}, and the noise would move "
            "its mean by "
            f"{noise:.2f} in units of the largest norm (limit: {MOST_NOISE:g}; sampling: {sampling:.2f}): the codes "
            f"would show noise; it needs {counted(needed, 'image')}, or take a larger epsilon, or leave the class out"
        )
