"""Class statistics that are released once with differential privacy (METHOD §11).

The private images enter through one vector for each image and watcher: features of public watchers, standardised by
public images, projected and clipped. Their class sums and one second moment are released by the Gaussian mechanism.
Codes are matched to what was released and to nothing else. Data sets are neighbours if they differ in one image of one
class: the label stays, so that the numbers of images are public.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from dpd_train.classifiers.network import ResNet
from dpd_train.compute.device import to_device
from dpd_train.images.symmetry import ORDER, d4
from dpd_train.prototypes.matching.statistics import Statistics, embed, measure
from dpd_train.prototypes.noise import HALVINGS, delta_of

CALL = 250
UNCLIPPED = 0.9  # share of the public images' views that the limit leaves as they are
Gauss = Callable[[int], torch.Tensor]
"""n → [n] float64 independent standard normal numbers that nobody can repeat."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The guarantee (ε, δ) for one image. share_of_means: of μ² = 1 / σ² that the class sums get."""

    epsilon: float
    delta: float = 1e-5
    share_of_means: float = 0.8

    @property
    def shift(self) -> float:
        """μ: the largest sensitivity / standard deviation that gives (ε, δ) (Balle & Wang 2018), by bisection."""
        low, high = 0.0, 1.0
        while delta_of(self.epsilon, high) < self.delta:
            high *= 2
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if delta_of(self.epsilon, middle) <= self.delta else (low, middle)
        return low


@dataclass(frozen=True)
class Eye:
    """A watcher as public images decide it.

    Args:
        network: that has never seen the private images.
        statistics: of the public images; its mean, scale and projection are used.
        limit: R, the norm that an image's vector is clipped to.
    """

    network: ResNet
    statistics: Statistics
    limit: float


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the noise on each value of the class sums, and on the second moment (in its isometry)."""

    sums: float
    moment: float


def noise_of(budget: Budget, limits: Sequence[float], fewest: int, classes: int) -> Noise:
    """The noise that the budget asks for.

    One image changes the class sums of all watchers together by at most 2 √Σ R_w². It changes their second moments, in
    which an image of the smallest class weighs 1 / (classes · fewest), by that weight times √2 √Σ R_w⁴ in the Frobenius
    norm: u uᵀ and v vᵀ are positive, so that ‖uuᵀ − vvᵀ‖² ≤ R⁴ + R⁴. Gaussian mechanisms compose exactly: μ² adds up.

    Args:
        limits: R_w, the norm that each watcher's vector is clipped to.
        fewest: images in the smallest class.
    """
    sums = 2 * math.sqrt(sum(limit**2 for limit in limits))
    moment = math.sqrt(2 * sum(limit**4 for limit in limits)) / (classes * fewest)
    share = budget.share_of_means
    return Noise(sums / (budget.shift * math.sqrt(share)), moment / (budget.shift * math.sqrt(1 - share)))


def system_gauss(count: int) -> torch.Tensor:
    """Normal numbers from the system's cryptographic generator."""
    source = random.SystemRandom()
    return torch.tensor([source.gauss(0.0, 1.0) for _ in range(count)], dtype=torch.float64)


@torch.no_grad()
def public_eye(network: ResNet, images: torch.Tensor, labels: torch.Tensor, classes: int, width: int, seed: int) -> Eye:
    """What public images [n, 3, H, W] decide: mean, scale, a random projection to `width` values, and the limit.

    The projection has orthonormal columns; a network with fewer features than `width` keeps all of them.
    """
    found = measure(network, images, labels, classes, seed, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    count = len(found.mean)
    projection, _ = torch.linalg.qr(torch.randn((count, min(width, count)), generator=generator, dtype=torch.float64))
    eye = Eye(network, replace(found, projection=projection.float()), math.inf)
    norms = torch.cat([u.norm(dim=1) for u in _views(eye, images)])
    return replace(eye, limit=float(norms.quantile(UNCLIPPED)))


def _views(eye: Eye, images: torch.Tensor) -> list[torch.Tensor]:
    """Clipped vectors u [n, F] of all images, for each of the eight views of the square."""
    device = eye.statistics.mean.device
    found = []
    for element in range(ORDER):
        parts = []
        for part in torch.split(images, CALL):
            view = d4(to_device(part, device), element).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                maps = eye.network.features(view)
            z = eye.statistics.standardised(embed(maps))
            parts.append(z * (eye.limit / z.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1))
        found.append(torch.cat(parts))
    return found


@torch.no_grad()
def release(
    eyes: Sequence[Eye],
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    budget: Budget,
    gauss: Gauss = system_gauss,
) -> list[Statistics]:
    """The only use of the private images [n, 3, H, W] with labels [n]: noisy statistics for each watcher.

    Deviations are known for all classes together: the second moment's diagonal minus the means' squares.
    """
    counts = torch.bincount(labels, minlength=classes)
    noise = noise_of(budget, [eye.limit for eye in eyes], int(counts.min()), classes)
    return [_noisy(eye.statistics, *_sums(_views(eye, images), labels, counts), counts, noise, gauss) for eye in eyes]


def _sums(views: list[torch.Tensor], labels: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class sums [classes, F] of each image's mean over its views, and the second moment [F, F] over all views."""
    classes = len(counts)
    weights = (1.0 / (classes * counts.double()))[labels]
    of_image = torch.stack(views).double()
    sums = torch.zeros(classes, of_image.shape[2], dtype=torch.float64).index_add_(0, labels, of_image.mean(0))
    moment = torch.stack([(z * weights[:, None]).T @ z for z in of_image]).mean(0)
    return sums, moment


def _noisy(
    public: Statistics, sums: torch.Tensor, moment: torch.Tensor, counts: torch.Tensor, noise: Noise, gauss: Gauss
) -> Statistics:
    width = sums.shape[1]
    means = (sums + noise.sums * gauss(sums.numel()).view(sums.shape)) / counts[:, None]
    rows, columns = torch.triu_indices(width, width)
    drawn = noise.moment * gauss(len(rows))
    drawn[rows != columns] /= math.sqrt(2)  # an entry stands twice in the matrix: this is white in the Frobenius norm
    added = torch.zeros_like(moment)
    added[rows, columns] = drawn
    moment = moment + added + added.triu(1).T
    values, vectors = torch.linalg.eigh(moment)
    moment = (vectors * values.clamp_min(0)) @ vectors.T  # a second moment is positive; what follows is free
    pooled = (moment.diagonal() - means.square().mean(0)).clamp_min(0)
    return replace(
        public,
        class_means=means.float(),
        class_deviations=pooled.sqrt().float()[None],
        second_moment=moment.float(),
    )
