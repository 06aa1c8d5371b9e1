"""Public images in the colours that were released of a class."""

import torch

from dpd_private.release import Release
from dpd_train.matching import Statistics
from dpd_train.symmetry import repainted


class Candidates:
    """Random public images, each with an appearance drawn from the normal distribution of a class.

    Args:
        images: public ones [n, 3, H, W] in [-1, 1].
    """

    def __init__(self, released: Release, images: torch.Tensor) -> None:
        own = released.appearance
        values, vectors = torch.linalg.eigh(within(own, released))
        self._images, self._root = images, vectors * values.clamp_min(0).sqrt()
        self._means = own.class_means.double().cpu()
        variances = own.class_deviations.double().cpu().square().sum(1)
        self._sizes = (variances / variances.mean()).sqrt()
        assert own.standard.projection is not None  # `limited_watchers` gives every watcher one
        self._back = torch.linalg.inv(own.standard.projection.double().cpu())
        self._scale, self._mean = (value.double().cpu() for value in (own.standard.scale, own.standard.mean))

    def draw(self, label: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [count, 3, H, W] float32 in [-1, 1], and the z of the appearances they were given, in float64."""
        rows = torch.randint(len(self._images), (count,), generator=generator)
        drawn = torch.randn(count, len(self._root), generator=generator).double() @ self._root.T
        z = self._means[label] + self._sizes[label] * drawn
        return repainted(self._images[rows], z @ self._back * self._scale + self._mean), z


def within(own: Statistics, released: Release) -> torch.Tensor:
    """Covariance [F, F] of z within classes, float64 on the CPU."""
    means, limit = own.class_means.double().cpu(), own.standard.limit
    assert limit is not None  # `limited_watchers` gives every watcher one
    of_noise = (limit * released.noise / torch.tensor(released.counts)).square().mean()
    between = means.T @ means / len(means) - of_noise * torch.eye(len(means.T))
    return own.second_moment.double().cpu() - between
