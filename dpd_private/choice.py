"""The images of a set with a guarantee: public ones in the released colours of a class, and of them those that a
release takes for it and whose mean is its own. What follows the release costs no privacy."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from dpd_private.budget import moment_scale
from dpd_private.limited_watchers import CALL, LimitedWatcher, LimitedWatchers
from dpd_private.release import Release, hidden
from dpd_runtime.annotations import Images, Progress
from dpd_runtime.sampling import to_uint8
from dpd_train.compute import step_generator, to_device
from dpd_train.matching import Statistics, seeing
from dpd_train.networks import Classifier
from dpd_train.prototypes import herded
from dpd_train.symmetry import repainted

CANDIDATES = 50  # for each image of the set
LEAST = 2000  # of each class
TYPICAL = 10  # so many times as many as are needed: those that are surest of their class, which are herded
RIDGE = 0.1  # share of the mean variance that is added to each


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


@torch.no_grad()
def chosen_images(
    networks: Sequence[Classifier],
    released: Release,
    candidates: Candidates,
    count: int,
    seed: int,
    progress: Progress,
    *,
    device: torch.device,
) -> Images:
    """Images [classes, count, H, W, 3] for what was released.

    Of the candidates whose log-probability of the class is highest, those are taken whose mean is nearest to its own.
    """
    pairs = zip(networks, released.watched, strict=True)
    watchers = LimitedWatchers(
        tuple(LimitedWatcher(seeing(network, logits=False), own.standard) for network, own in pairs), math.inf, device
    )
    means = [
        own.class_means.double().cpu() / watcher.limit
        for watcher, own in zip(watchers.of, released.watched, strict=True)
    ]
    discriminants, by_appearance = (
        [Discriminant(own, released) for own in released.watched],
        Discriminant(released.appearance, released),
    )
    number, chosen = max(LEAST, CANDIDATES * count), []
    for label, mean in enumerate(torch.cat(means, dim=1)):
        generator = step_generator(seed, label)
        pixels, vectors, sureness = [], [], []
        for first in range(0, number, CALL):
            drawn, appearances = candidates.draw(label, min(CALL, number - first), generator)
            seen = watchers.vectors(to_device(drawn, device)).cpu()
            parts = zip(discriminants, watchers.of, watchers.parts(seen), strict=True)
            opinions = [
                by_appearance(appearances),
                *(discriminant(part * watcher.limit) for discriminant, watcher, part in parts),
            ]
            pixels.append(to_uint8(drawn.numpy()))
            vectors.append(seen)
            sureness.append(torch.stack(opinions).mean(0).log_softmax(1)[:, label])
        typical = torch.cat(sureness).argsort(descending=True, stable=True)[: TYPICAL * count]
        rows = typical[herded(torch.cat(vectors)[typical].numpy(), mean.numpy(), count)]
        chosen.append(np.concatenate(pixels)[rows.numpy()])
        progress(label + 1, len(released.counts))
    return np.stack(chosen)


class Discriminant:
    """Linear discriminant analysis (Fisher 1936) from released statistics: z [n, F] → scores [n, classes].

    directions: [F, classes] and offsets: [classes], float64.
    """

    def __init__(self, own: Statistics, released: Release) -> None:
        spread, limit = within(own, released), own.standard.limit
        assert limit is not None  # `limited_watchers` gives every watcher one
        noise = released.noise / moment_scale(min(released.counts), len(released.counts))
        least = limit**2 * hidden(len(spread), noise) / len(spread)  # what was released by 0.2 may have less
        ridge = RIDGE * spread.diagonal().mean().clamp_min(least) * torch.eye(len(spread), dtype=spread.dtype)
        means = own.class_means.double().cpu()
        self.directions = torch.linalg.solve(spread + ridge, means.T)
        self.offsets = (means * self.directions.T).sum(1) / 2

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = z @ self.directions - self.offsets
        return scores
