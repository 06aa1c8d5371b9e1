"""Statistics with differential privacy: what noise a budget asks for, and what one image can change."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from dpd_train.prototypes.matching import Matching, Watcher, match_codes
from dpd_train.prototypes.matching import private as mechanism
from dpd_train.prototypes.matching.private import Budget, Eye, noise_of, public_eye, release, system_gauss
from tests.train.prototypes.test_matching import CLASSES, coloured, decode, network, start

WIDTH = 6


def seeded(seed: int) -> mechanism.Gauss:
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randn(count, generator=generator, dtype=torch.float64)


def silent(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.float64)


@pytest.fixture(scope="module")
def eyes() -> list[Eye]:
    images, labels = coloured(30, 11)
    return [public_eye(network(seed), images, labels, CLASSES, WIDTH, seed) for seed in (1, 2)]


@pytest.mark.parametrize(("epsilon", "ratio"), [(1, 3.73), (2, 1.99), (5, 0.89), (10, 0.50)])
def test_one_release_has_the_published_noise(epsilon: float, ratio: float) -> None:
    """METHOD §11: σ / Δ of one release at δ = 1e-5 (Balle & Wang 2018)."""
    assert 1 / Budget(epsilon=epsilon).shift == pytest.approx(ratio, abs=0.006)


def test_both_releases_spend_the_budget_together() -> None:
    budget, limits = Budget(epsilon=3.0), (2.0, 1.0, 0.5)
    noise = noise_of(budget, limits, 40, 10)
    sums = 2 * math.sqrt(4 + 1 + 0.25)
    moment = math.sqrt(2 * (16 + 1 + 0.0625)) / 400
    assert (sums / noise.sums) ** 2 + (moment / noise.moment) ** 2 == pytest.approx(budget.shift**2)
    assert (sums / noise.sums) ** 2 == pytest.approx(0.8 * budget.shift**2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0.1, 50), row=st.integers(0, 29))
def test_one_image_changes_the_sums_by_no_more_than_is_said(eyes: list[Eye], seed: int, size: float, row: int) -> None:
    """Whatever the image is: values far outside [-1, 1], too."""
    images, labels = coloured(10, 12)
    other = images.clone()
    other[row] = size * torch.randn(other[row].shape, generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(labels)
    sums = moments = 0.0
    for eye in eyes:
        before, after = (mechanism._sums(mechanism._views(eye, x), labels, counts) for x in (images, other))
        sums += float((before[0] - after[0]).square().sum())
        moments += float((before[1] - after[1]).square().sum())
    limits = [eye.limit for eye in eyes]
    noise = noise_of(Budget(epsilon=1.0), limits, 10, CLASSES)
    shift = Budget(epsilon=1.0).shift
    assert math.sqrt(sums) <= noise.sums * shift * math.sqrt(0.8) * (1 + 1e-5)
    assert math.sqrt(moments) <= noise.moment * shift * math.sqrt(0.2) * (1 + 1e-5)


def test_a_forgotten_clip_would_be_seen(eyes: list[Eye]) -> None:
    images, labels = coloured(10, 12)
    other, counts = images.clone(), torch.bincount(labels)
    other[0] *= 1000
    open_ = replace(eyes[0], limit=math.inf)
    before, after = (mechanism._sums(mechanism._views(open_, x), labels, counts)[0] for x in (images, other))
    assert float((before - after).norm()) > 2 * eyes[0].limit


def test_without_noise_and_clip_these_are_the_statistics_of_the_images(eyes: list[Eye]) -> None:
    images, labels = coloured(20, 13)  # of one colour each: all views are alike
    open_ = [replace(eye, limit=1e6) for eye in eyes]
    found = release(open_, images, labels, CLASSES, Budget(epsilon=1.0), silent)
    for eye, released in zip(open_, found, strict=True):
        z = mechanism._views(eye, images)[0]
        of_class = [z[labels == label] for label in range(CLASSES)]
        means = torch.stack([v.mean(0) for v in of_class])
        torch.testing.assert_close(released.class_means, means, atol=2e-2, rtol=1e-2)
        moment = torch.stack([v.T @ v / len(v) for v in of_class]).mean(0)
        torch.testing.assert_close(released.second_moment, moment, atol=5e-2, rtol=2e-2)
        pooled = torch.stack([v.var(0, correction=0) for v in of_class]).mean(0).sqrt()
        torch.testing.assert_close(released.class_deviations[0], pooled, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize(("broken", "told"), [(1.0, False), (2.0, True)])
def test_a_canary_in_a_thousand_releases_stays_on_the_curve(broken: float, told: bool) -> None:
    """The best test of one image against its opposite has the means μ apart; noise that is too small shows itself."""
    budget, limit, repeats = Budget(epsilon=2.0, share_of_means=1 - 1e-9), 1.0, 1000
    noise = noise_of(budget, [limit], 5, 2)
    canary = torch.zeros(2, WIDTH, dtype=torch.float64)
    canary[0, 0] = limit
    gauss = seeded(0)
    released = {
        sign: torch.stack(
            [sign * canary + noise.sums / broken * gauss(canary.numel()).view(canary.shape) for _ in range(repeats)]
        )[:, 0, 0].numpy()
        for sign in (1, -1)
    }
    threshold = 0.0
    power = (released[1] > threshold).mean() - math.exp(budget.epsilon) * (released[-1] > threshold).mean()
    away = (released[1].mean() - released[-1].mean()) / np.sqrt((released[1].var() + released[-1].var()) / 2)
    error = 3 * math.sqrt(2 / repeats) * (1 + budget.shift)
    assert (away > budget.shift + error) == told
    assert norm.cdf(budget.shift / 2 - budget.epsilon / budget.shift) > budget.delta  # the curve is not trivial
    assert power < 1


def test_noise_is_normal_and_never_the_same(eyes: list[Eye]) -> None:
    images, labels = coloured(10, 14)
    first, second = (release(eyes, images, labels, CLASSES, Budget(epsilon=1.0))[0].class_means for _ in range(2))
    assert not torch.equal(first, second)
    drawn = system_gauss(4000)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.08)
    assert float(drawn.std()) == pytest.approx(1, abs=0.06)


def test_codes_are_matched_to_what_was_released(tmp_path: Path) -> None:
    seen, private = coloured(30, 11), coloured(40, 1)
    eyes = [public_eye(network(seed), *seen, CLASSES, 48, seed) for seed in (1, 2)]
    wanted = 0.5 * (torch.arange(CLASSES) - 1.0)[:, None]

    def away(codes: torch.Tensor) -> float:
        return float((decode(codes.flatten(0, 1)).mean((2, 3)).view(CLASSES, -1, 3).mean(1) - wanted).abs().mean())

    def matched(epsilon: float) -> float:
        found = release(eyes, *private, CLASSES, Budget(epsilon=epsilon), seeded(1))
        watchers = [Watcher(eye.network, own, judges=False) for eye, own in zip(eyes, found, strict=True)]
        state = tmp_path / str(epsilon)
        return away(match_codes(start(10), decode, watchers, Matching(steps=150, rate=0.2), state=state))

    assert away(start(10)) > 0.3
    assert matched(1000.0) < 0.15
    assert matched(0.01) > 0.3, "so little budget says nothing of the images"
