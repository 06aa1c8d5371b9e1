"""The guarantee of one release: the noise that it asks for, the bound on one image, and what is refused."""

import math

import numpy as np
import pytest
import torch

from dpd_private import budget as guarantee
from dpd_private.budget import LENGTHS, Budget, check_budget, moment_scale, noise_of, sensitivity_of, spent
from dpd_runtime.errors import DataError, InputError


@pytest.mark.parametrize(("epsilon", "ratio"), [(1, 3.73), (2, 1.99), (5, 0.89), (10, 0.50)])
def test_one_release_has_the_published_noise(epsilon: float, ratio: float) -> None:
    """σ / Δ of one release at δ = 1e-5 (Balle & Wang 2018)."""
    assert 1 / Budget(epsilon=epsilon).mu == pytest.approx(ratio, abs=0.006)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 10.0])
def test_an_independent_accountant_finds_the_budget_spent_and_no_more(epsilon: float) -> None:
    pytest.importorskip("dp_accounting")
    sensitivity = sensitivity_of(1.9)
    noise = noise_of(Budget(epsilon=epsilon), sensitivity)
    assert epsilon * (1 - 1e-4) <= spent(sensitivity, noise, 1e-5) <= epsilon
    assert spent(sensitivity, noise / 2, 1e-5) > 1.5 * epsilon


@pytest.mark.parametrize(("parts", "limit"), [(1, 1.0), (2, 1.2), (4, 1.8), (4, 2.0)])
def test_no_exchange_of_two_vectors_is_worse_than_the_bound_and_one_reaches_it(parts: int, limit: float) -> None:
    """Gradient ascent from many starts, over all pairs of vectors that the limits allow."""
    generator = torch.Generator().manual_seed(parts)
    free = torch.randn((2, 200, parts, 3), generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.05)
    for _ in range(300):
        short = free / free.norm(dim=3, keepdim=True).clamp_min(1)
        u, v = short / (short.norm(dim=(2, 3), keepdim=True) / limit).clamp_min(1)
        blocks = torch.einsum("npi,npj->npij", u, u) - torch.einsum("npi,npj->npij", v, v)
        lengths = LENGTHS * (u.square().sum(2) - v.square().sum(2))
        moments = (moment_scale(1, 1) * blocks).square().sum((1, 2, 3))
        change = ((u - v).square().sum((1, 2)) + lengths.square().sum(1) + moments).sqrt()
        optimizer.zero_grad()
        (-change.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    worst = float(change.detach().max())
    assert sensitivity_of(limit) * (1 - 1e-3) <= worst <= sensitivity_of(limit) * (1 + 1e-9)


def test_with_less_noise_on_lengths_and_moment_they_would_not_be_free() -> None:
    """With four times the scales, images that differ in length are told by their lengths and second moments."""
    lengths, scale = np.linspace(0, 1, 101), math.hypot(moment_scale(1, 1), LENGTHS)
    changes = [(1 + lengths) ** 2 + (times * scale * (1 - lengths**2)) ** 2 for times in (1, 4)]
    assert changes[0].max() <= sensitivity_of(1.0) ** 2 < changes[1].max()


def test_what_cannot_work_is_refused_and_what_can_is_not() -> None:
    """1,200 images at ε = 1 are enough with D = 128, 40 at ε = 10 are not."""
    check_budget(Budget(epsilon=1), {"a": 1200, "b": 1500})
    assert guarantee.suited_width(Budget(epsilon=1), 1200) == 256
    assert guarantee.suited_width(Budget(epsilon=10), 1200) == 1024
    assert guarantee.noise_on_mean(Budget(epsilon=1), 1200, 1024) == pytest.approx(0.199, abs=1e-3)
    with pytest.raises(
        DataError, match=r"class 'b' has 40 training images.*0\.28 .*sampling: 0\.16.* it needs 114 images"
    ):
        check_budget(Budget(epsilon=10), {"a": 1200, "b": 40})
    needed = guarantee.fewest_images(Budget(epsilon=10))
    check_budget(Budget(epsilon=10), {"a": needed})
    with pytest.raises(DataError):
        check_budget(Budget(epsilon=10), {"a": needed - 1})
    refused = [
        (0, 1e-5, "--epsilon 0: give"),
        (math.nan, 1e-5, "--epsilon nan"),
        (101, 1e-5, "--epsilon 101"),
        (1.23456, 1e-5, "--epsilon 1.23456: .* 4 decimal places"),
        (1, 1e-3, "--delta 0.001: .* below 1 / 1200"),
        (1, 0, "--delta 0"),
    ]
    for epsilon, delta, words in refused:
        with pytest.raises(InputError, match=words):
            check_budget(Budget(epsilon=epsilon, delta=delta), {"a": 1200})
