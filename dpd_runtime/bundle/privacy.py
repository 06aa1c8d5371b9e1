"""What a bundle's manifest says about differential privacy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MOST_RELEASES = 10
MOST_EPSILON = 100.0
LEAST_NOISE, MOST_NOISE = 1e-3, 1e6
"""Of a noise multiplier. Beyond them a claim means nothing, and the arithmetic below overflows."""
ROUNDING = 1e-3  # relative, of epsilon and of the multipliers as they are written
ONE_IMAGE = "one image, replaced by another of its class"
"""The unit of what `dpd distill --dp` makes."""


@dataclass(frozen=True, kw_only=True)
class PrivacyClaim:
    """The differential privacy that a bundle's maker claims; nothing at a site can check it.

    Args:
        epsilon, delta: of everything in the bundle together.
        unit: what can be replaced by another of its kind; what the bundle shows then changes by no more than this.
        noise_multipliers: of each release, standard deviation of its Gaussian noise / its sensitivity.
    """

    epsilon: float
    delta: float
    unit: str
    mechanism: str
    noise_multipliers: Mapping[str, float]

    def describe(self) -> str:
        """One line for people."""
        multipliers = ", ".join(f"{name} {value:.4g}" for name, value in self.noise_multipliers.items())
        guarantee = f"({self.epsilon:.6g}, {self.delta:g})-differential privacy of {self.unit}"
        return f"{guarantee}; {self.mechanism}; noise multipliers: {multipliers}"

    def fault(self) -> str:
        """The field that cannot be and its value; empty if all can be."""
        if not 0 < self.epsilon <= MOST_EPSILON:
            return f"epsilon is {self.epsilon}, it must be above 0 and at most {MOST_EPSILON:g}"
        if not 0 < self.delta < 1:
            return f"delta is {self.delta}, it must be between 0 and 1"
        multipliers: object = self.noise_multipliers
        if not isinstance(multipliers, dict) or not 0 < len(multipliers) <= MOST_RELEASES:
            return f"noise_multipliers are not an object with 1 … {MOST_RELEASES} numbers"
        if not all(
            type(value) in (int, float) and LEAST_NOISE <= value <= MOST_NOISE for value in multipliers.values()
        ):
            return f"noise_multipliers are not numbers of {LEAST_NOISE:g} … {MOST_NOISE:g}"
        if self._delta_of_noise() > self.delta:
            return f"epsilon is {self.epsilon}, less than its noise multipliers give at delta {self.delta:g}"
        return ""

    def _delta_of_noise(self) -> float:
        """δ(ε) of Gaussian releases together: Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ), μ² = Σ 1 / m² (Dong et al. 2022).

        As `dpd_train.prototypes.delta_of`, but without SciPy, which a site does not have.
        """
        epsilon = self.epsilon * (1 + ROUNDING)
        shift = math.sqrt(sum(1 / value**2 for value in self.noise_multipliers.values()))
        return _phi(shift / 2 - epsilon / shift) - math.exp(epsilon) * _phi(-shift / 2 - epsilon / shift)


def _phi(x: float) -> float:
    """The normal distribution's share below x."""
    return math.erfc(-x / math.sqrt(2)) / 2
