"""Power-function averages against the closed forms of EDM2 (Karras et al. 2024)."""

import pytest
import torch
from torch import nn

from dpd_train.denoiser import PowerAverage, power_exponent


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_exponents_are_those_of_the_paper(length: float, gamma: float) -> None:
    assert power_exponent(length) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3, 1.0])
def test_a_length_that_no_average_has_is_refused(length: float) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 0\.28"):
        power_exponent(length)


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2])
def test_memory_is_a_fixed_share_of_the_training(length: float) -> None:
    """Weights which are the step's number t and t²: their averages give the memory's mean and relative width."""
    moments = nn.ModuleDict({"linear": nn.Linear(1, 2, bias=False, dtype=torch.float64)})
    average = PowerAverage(moments, length)
    weight = moments["linear"].weight
    for step in range(3000):
        with torch.no_grad():
            weight.copy_(torch.tensor([[step + 1.0], [(step + 1.0) ** 2]]))
        average.update(moments, step)
    mean, square = average.modules["linear"].weight.flatten().tolist()
    gamma = power_exponent(length)
    assert mean / 3000 == pytest.approx((gamma + 1) / (gamma + 2), rel=2e-3)
    assert (square - mean**2) ** 0.5 / 3000 == pytest.approx(length, rel=2e-2)
