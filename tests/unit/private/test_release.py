"""Statistics with differential privacy: what noise a budget asks for, what one image can change, what is released."""

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from dpd_private import limited_watchers as looking
from dpd_private import release as mechanism
from dpd_private.budget import LENGTHS, Budget, moment_scale, noise_of, sensitivity_of
from dpd_private.limited_watchers import LimitedWatcher, LimitedWatchers, limited_watchers
from dpd_private.release import Gauss, Release, read_release, release, system_gauss, with_noise
from dpd_runtime.errors import InputError
from dpd_train.matching import Standard
from tests.unit.train.test_matching import CLASSES, coloured, network

WIDTH = 12
CPU = torch.device("cpu")


def seeded(seed: int) -> Gauss:
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randn(count, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def watchers() -> LimitedWatchers:
    return limited_watchers([network(seed) for seed in (1, 2)], *coloured(30, 11), CLASSES, WIDTH, 1)


def changed(images: torch.Tensor, row: int, size: float, seed: int) -> torch.Tensor:
    other = images.clone()
    other[row] = size * torch.randn(other[row].shape, generator=torch.Generator().manual_seed(seed))
    return other


def totals(watchers: LimitedWatchers, images: torch.Tensor, labels: torch.Tensor) -> mechanism.Totals:
    return mechanism.totals_of(watchers, images, labels, torch.bincount(labels), lambda done, total: None)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.1, 1.0, 50.0, 1e20, math.inf]), row=st.integers(0, 29))
def test_one_image_changes_the_statistics_by_no_more_than_is_said(
    watchers: LimitedWatchers, seed: int, size: float, row: int
) -> None:
    """Whatever the image is: values far outside [-1, 1] and NaN, too."""
    images, labels = coloured(10, 12)
    before, after = totals(watchers, images, labels), totals(watchers, changed(images, row, size, seed), labels)
    moved = float((before.sums - after.sums).square().sum())
    moved += float((LENGTHS * (before.lengths - after.lengths)).square().sum())
    scale = moment_scale(10, CLASSES)
    moved += sum(float((scale * (a - b)).square().sum()) for a, b in zip(before.moments, after.moments, strict=True))
    assert math.sqrt(moved) <= sensitivity_of(watchers.limit) * (1 + 1e-9)


def test_one_shared_vector_has_less_noise_than_a_limit_for_each_eye(watchers: LimitedWatchers) -> None:
    assert 1 < watchers.limit <= math.sqrt(3) * (1 + 1e-9)
    vectors = watchers.views(coloured(30, 11)[0]).flatten(0, 1)
    uncut = (vectors.norm(dim=1) < watchers.limit * (1 - 1e-9)).double().mean()
    assert float(uncut) == pytest.approx(looking.UNCUT, abs=0.02)
    assert max(float(part.norm(dim=1).max()) for part in watchers.parts(vectors)) <= 1 + 1e-9


def test_without_noise_and_limits_these_are_the_statistics_of_the_images(watchers: LimitedWatchers) -> None:
    images, labels = coloured(20, 13)  # of one colour each: all views are alike
    wide = [LimitedWatcher(watcher.see, replace(watcher.standard, limit=1e4)) for watcher in watchers.of]
    found = release(
        LimitedWatchers(tuple(wide), 1e4, CPU), images, labels, CLASSES, Budget(epsilon=math.inf), seeded(0)
    )
    assert (found.noise, found.counts) == (0, (20, 20, 20))
    for watcher, released in zip(watchers.of, found.statistics, strict=True):
        z = replace(watcher.standard, limit=None)(watcher.see(images)[0])
        of_class = [z[labels == label] for label in range(CLASSES)]
        means = torch.stack([v.mean(0) for v in of_class])
        torch.testing.assert_close(released.class_means, means, atol=2e-2, rtol=1e-2)
        moment = torch.stack([v.T @ v / len(v) for v in of_class]).mean(0)
        torch.testing.assert_close(released.second_moment, moment, atol=5e-2, rtol=2e-2)
        variances = torch.stack([v.var(0, correction=0) for v in of_class])
        spreads = variances.sum(1) / variances.sum(1).mean()
        expected = (variances.mean(0) * spreads[:, None]).sqrt()
        torch.testing.assert_close(released.class_deviations, expected, atol=5e-2, rtol=5e-2)


@dataclass(frozen=True)
class Flat:
    """A watcher whose vector is the image's first values: a canary can then be as large as the limit allows."""

    standard: object
    limit: float = 1.0


class FlatWatchers(LimitedWatchers):
    def views(self, images: torch.Tensor) -> torch.Tensor:
        return looking.cut(images.flatten(1).double(), self.limit)[None]

    def parts(self, vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (vectors,)


def flat_watchers(width: int, kind: type[FlatWatchers] = FlatWatchers) -> FlatWatchers:
    """One watcher for images of `width` values, whose limit is 1."""
    return kind((Flat(Standard(torch.zeros(width), torch.ones(width), torch.eye(width))),), 1.0, CPU)  # type: ignore[arg-type]


class Unlimited(FlatWatchers):
    """As if the cut had been forgotten."""

    def views(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).double()[None]


def test_noise_is_added_to_sums_and_moment(watchers: LimitedWatchers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known noise instead of random noise: all ones. The accountant knows what was meant, this knows what was added."""
    monkeypatch.setattr(mechanism, "_denoised", lambda moment, deviation: moment)
    images, labels = coloured(10, 12)
    budget = Budget(epsilon=5.0)
    silent, loud = (
        release(watchers, images, labels, CLASSES, budget, lambda count, size=size: torch.full((count,), size).double())
        for size in (0.0, 1.0)
    )
    noise = loud.noise
    assert noise == noise_of(budget, sensitivity_of(watchers.limit))
    for watcher, before, after in zip(watchers.of, silent.statistics, loud.statistics, strict=True):
        means = torch.full_like(before.class_means, watcher.limit * noise / 10)
        torch.testing.assert_close(after.class_means - before.class_means, means, rtol=1e-3, atol=1e-5)
        width = len(before.second_moment)
        own = noise / (0.4 * 10 * CLASSES)
        moment = torch.full((width, width), own / math.sqrt(2)).fill_diagonal_(own)
        change = after.second_moment - before.second_moment
        torch.testing.assert_close(change, watcher.limit**2 * moment, rtol=1e-3, atol=1e-5)


def test_noise_does_not_come_from_a_generator_that_a_seed_sets() -> None:
    """Every training seeds the global generators, with seeds that are public."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        drawn.append(system_gauss(8))
    assert not torch.equal(*drawn)


def test_a_damaged_release_says_what_a_new_one_costs(watchers: LimitedWatchers, tmp_path: Path) -> None:
    path = tmp_path / "release.safetensors"
    release(watchers, *coloured(10, 12), CLASSES, Budget(epsilon=5.0), seeded(0)).save(path)
    for damaged in (path.read_bytes()[:-9], b"", b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"is damaged .*second release of the same images and adds to epsilon"):
            read_release(path, CPU)


def advantage(watchers: LimitedWatchers, monkeypatch: pytest.MonkeyPatch, break_noise: float = 1.0) -> float:
    """δ at ε that the best test of one image against its opposite reaches in 1,000 releases of either data set.

    The likelihood ratio grows with the first value of the class mean alone: the images' second moments are equal.
    """
    budget, repeats = Budget(epsilon=2.0, delta=0.01), 1000
    made = mechanism.noise_of
    monkeypatch.setattr(mechanism, "noise_of", lambda *given: made(*given) / break_noise)
    labels = torch.tensor([0, 0, 1, 1])
    images = torch.zeros(2, 4, 1, 1, 3)
    images[0, 0], images[1, 0] = torch.tensor([3.0, 0, 0]), torch.tensor([-3.0, 0, 0])
    gauss, seen = seeded(5), []
    for data in images:
        found = [release(watchers, data, labels, 2, budget, gauss) for _ in range(repeats)]
        seen.append(np.array([float(one.statistics[0].class_means[0, 0]) for one in found]))
    low, high = sorted(seen, key=lambda values: float(values.mean()))
    thresholds = np.quantile(np.concatenate(seen), np.linspace(0.02, 0.98, 49))
    return max(float((high > t).mean() - math.exp(budget.epsilon) * (low > t).mean()) for t in thresholds)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "break_noise", "told"), [(FlatWatchers, 1.0, False), (FlatWatchers, 2.0, True), (Unlimited, 1.0, True)]
)
def test_a_canary_in_a_thousand_releases_stays_on_the_curve(
    kind: type[FlatWatchers], break_noise: float, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) (Dong et al. 2022): opposite images are the worst pair."""
    watchers = flat_watchers(3, kind)
    found = advantage(watchers, monkeypatch, break_noise)
    mu = Budget(epsilon=2.0, delta=0.01).mu
    allowed = norm.cdf(mu / 2 - 2 / mu) - math.exp(2) * norm.cdf(-mu / 2 - 2 / mu)
    assert allowed == pytest.approx(0.01)
    error = 4 * math.sqrt(0.01 * 0.99 / 1000) * math.exp(2) / 2
    assert (found > allowed + error) == told


def test_noise_is_normal_and_never_the_same(watchers: LimitedWatchers) -> None:
    images, labels = coloured(10, 14)
    first, second = (release(watchers, images, labels, CLASSES, Budget(epsilon=1.0)).statistics[0] for _ in range(2))
    assert not torch.equal(first.class_means, second.class_means)
    drawn = system_gauss(4000)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.08)
    assert float(drawn.std()) == pytest.approx(1, abs=0.06)


def test_the_noise_of_the_moment_is_white_in_the_frobenius_norm() -> None:
    drawn = torch.stack([mechanism._symmetric(5, 2.0, seeded(seed)) for seed in range(3000)])
    assert torch.equal(drawn, drawn.mT)
    direction = torch.randn((5, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = direction + direction.T
    along = (drawn * direction / direction.norm()).sum((1, 2))
    assert float(along.std()) == pytest.approx(2.0, rel=0.05)


def test_noise_makes_the_deviations_neither_larger_nor_smaller(
    watchers: LimitedWatchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each draw and its opposite: noise on the moment cancels out, and what the means' noise adds does not."""
    monkeypatch.setattr(mechanism, "_denoised", lambda moment, deviation: moment)
    images, labels = coloured(200, 15)
    budget, repeats = Budget(epsilon=30.0), 40  # little noise: no variance comes near 0

    def variances(gauss: Gauss, budget: Budget) -> torch.Tensor:
        released = with_noise(watchers, seen, torch.bincount(labels), budget, gauss)
        found = released.watched  # appearances of one class are all alike
        parts = zip(found, watchers.of[:-1], strict=True)
        return torch.cat([(own.class_deviations.double() / watcher.limit).square().mean(0) for own, watcher in parts])

    def opposite(seed: int) -> Gauss:
        drawn = seeded(seed)
        return lambda count: -drawn(count)

    seen = totals(watchers, images, labels)
    silent = variances(seeded(0), Budget(epsilon=math.inf))
    pairs = [variances(draw, budget) for seed in range(repeats) for draw in (seeded(seed), opposite(seed))]
    of_means = (noise_of(budget, sensitivity_of(watchers.limit)) / 200) ** 2
    assert float((torch.stack(pairs).mean(0) - silent).mean()) == pytest.approx(0, abs=0.2 * of_means)


def test_a_noisy_moment_comes_nearer_to_the_true_one() -> None:
    """Three large eigenvalues and many small ones: what features have."""
    width, deviation = 200, 0.02
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(3)).double())
    values = torch.full((width,), 0.01, dtype=torch.float64)
    values[:3] = torch.tensor([3.0, 2.0, 1.0])
    true = (basis * values) @ basis.T
    noisy = true + mechanism._symmetric(width, deviation, seeded(4))
    found = mechanism._denoised(noisy, deviation)
    cut = torch.linalg.eigh(noisy)
    positive = (cut.eigenvectors * cut.eigenvalues.clamp_min(0)) @ cut.eigenvectors.T
    assert float((found - true).norm()) < 0.35 * float((positive - true).norm())
    assert float(found.trace()) == pytest.approx(float(noisy.trace()))
    assert float(torch.linalg.eigvalsh(found).min()) > 0
    torch.testing.assert_close(mechanism._denoised(true, 0.0), true)


@pytest.mark.parametrize("seed", range(20))
def test_a_trace_that_noise_hides_is_no_zero(seed: int) -> None:
    """With noise alone the trace is negative every second time; a spread of zero would make a discriminant infinite."""
    width, deviation = 24, 0.3
    found = mechanism._denoised(mechanism._symmetric(width, deviation, seeded(seed)), deviation)
    hidden = deviation * width**0.5
    assert float(found.trace()) >= 0.999 * hidden
    assert float(torch.linalg.eigvalsh(found).min()) > 0.3 * hidden / width


def test_a_release_is_read_as_it_was_written(watchers: LimitedWatchers, tmp_path: Path) -> None:
    images, labels = coloured(10, 14)
    found = release(watchers, images, labels, CLASSES, Budget(epsilon=1.0))
    found.save(tmp_path / "release")
    again: Release = read_release(tmp_path / "release", CPU)
    assert (again.counts, again.sensitivity, again.noise) == (found.counts, found.sensitivity, found.noise)
    generator = torch.Generator().manual_seed(2)
    for one, other in zip(found.statistics, again.statistics, strict=True):
        features = torch.randn(4, len(one.standard.mean), generator=generator)
        assert torch.equal(one.class_means, other.class_means)
        assert torch.equal(one.second_moment, other.second_moment)
        torch.testing.assert_close(one.standard(features), other.standard(features))


def test_deviations_come_from_the_moment_without_its_noise() -> None:
    """All values vary alike, and the noise on the moment's diagonal is half as large as their variances."""
    width, spread = 48, 0.1
    generator = torch.Generator().manual_seed(16)
    images = spread * torch.randn((4000, 3, 4, 4), generator=generator)
    watchers = flat_watchers(width)
    found = release(watchers, images, torch.arange(4000) % 2, 2, Budget(epsilon=1.0), seeded(1)).statistics[0]
    torch.testing.assert_close(found.class_deviations, torch.full((2, width), spread), rtol=0.25, atol=0)


def test_the_lengths_tell_how_much_each_class_varies() -> None:
    images = torch.randn((4000, 3, 4, 4), generator=torch.Generator().manual_seed(17))
    labels, spreads = torch.arange(4000) % 2, torch.tensor([0.03, 0.1])
    watchers = flat_watchers(48)
    images = spreads[labels][:, None, None, None] * images
    found = release(watchers, images, labels, 2, Budget(epsilon=10.0), seeded(1)).statistics[0]
    assert found.class_deviations.mean(1).tolist() == pytest.approx(spreads.tolist(), rel=0.1)


def test_noise_is_added_to_the_lengths() -> None:
    """Known noise on them alone: 1 of each class's squared length, in units of what the budget asks for."""
    count, spreads = 100, torch.tensor([0.03, 0.06])
    images = torch.randn((count, 3, 4, 4), generator=torch.Generator().manual_seed(18))
    images = images / images.flatten(1).norm(dim=1)[:, None, None, None]
    images = torch.stack([images, -images], dim=1).flatten(0, 1)  # so that class means are 0
    labels = torch.arange(2 * count) // count
    images = (math.sqrt(48) * spreads)[labels][:, None, None, None] * images
    watchers = flat_watchers(48)

    def only_lengths(size: int) -> torch.Tensor:
        return torch.full((size,), float(size == 2), dtype=torch.float64)

    found = release(watchers, images, labels, 2, Budget(epsilon=5.0), only_lengths)
    squares = found.statistics[0].class_deviations.double().square().sum(1)
    of_means = 48 * (found.noise / count) ** 2  # expected of the means' noise, which is silent here
    smaller, larger = 48 * spreads.double().square() + found.noise / (0.3 * count) + of_means
    assert float(squares[0] / squares[1]) == pytest.approx(float(smaller / larger), rel=1e-3)
