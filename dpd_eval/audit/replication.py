"""Replication: how many images are closer to a training image than hold-out images are? (docs/reference/privacy.md)

The threshold of a class is the 99th percentile of the highest similarity to T over H1. The share of images above it is
compared with the share of H2 above it.
"""

from functools import cache

import numpy as np
from scipy.special import ndtr  # type: ignore[import-untyped]

from dpd_eval.audit.bootstrap import (
    generators,
    members_of,
    percentile_ends,
    resampled,
    resampled_by_class,
    widened,
)
from dpd_eval.audit.outcome import FewHeld, Outcome, decide, not_run, power
from dpd_train.prototypes.too_near import Float, Nearest, thresholds

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
