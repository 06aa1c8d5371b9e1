"""The release: noisy sums and one noisy second moment, the only use of the private images."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from dpd_private.budget import LENGTHS, Budget, moment_scale, noise_of, sensitivity_of
from dpd_private.limited_watchers import CALL, LimitedWatchers
from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_train.compute import load_state, save_state
from dpd_train.matching import Standard, Statistics

OF_STANDARD = ("mean", "scale", "projection")
OF_CLASSES = ("class_means", "class_deviations", "second_moment")
ANOTHER = "begin again with another --out: that is a second release of the same images and adds to epsilon"
LEAST_SPREAD = 0.05  # a class's variance, as a share of all classes' mean one: noise could make it negative
Gauss = Callable[[int], torch.Tensor]
"""n → [n] float64 independent standard normal numbers that nobody can repeat."""


@dataclass(frozen=True)
class Release:
    """What was released: noisy statistics for each watcher, and how much noise there is for how much change.

    Args:
        counts: private images of each class, which are public.
        sensitivity: L2 norm of what one image can change.
        noise: standard deviation of the noise on each value.
    """

    statistics: tuple[Statistics, ...]
    counts: tuple[int, ...]
    sensitivity: float
    noise: float

    @property
    def watched(self) -> tuple[Statistics, ...]:
        """Of the watchers."""
        return self.statistics[:-1]

    @property
    def appearance(self) -> Statistics:
        """Of the appearance, which is the last watcher."""
        return self.statistics[-1]

    def save(self, path: Path) -> None:
        """Write it to one file, which is complete or not there."""
        tensors: dict[str, torch.Tensor] = {}
        for number, own in enumerate(self.statistics):
            tensors |= {f"{number}.{name}": getattr(own.standard, name) for name in OF_STANDARD}
            tensors |= {f"{number}.{name}": getattr(own, name) for name in OF_CLASSES}
        limits = [own.standard.limit for own in self.statistics]
        meta = {"counts": self.counts, "limits": limits, "sensitivity": self.sensitivity, "noise": self.noise}
        save_state(path, {name: value.cpu() for name, value in tensors.items()}, meta)


def read_release(path: Path, device: torch.device) -> Release:
    """Read what `Release.save` wrote.

    Raises:
        InputError: it is damaged.
    """
    try:
        tensors, meta = load_state(path)
        statistics = []
        for number, limit in enumerate(meta["limits"]):
            own = {name: tensors[f"{number}.{name}"].to(device) for name in (*OF_STANDARD, *OF_CLASSES)}
            standard = Standard(**{name: own[name] for name in OF_STANDARD}, limit=limit)
            statistics.append(Statistics(standard, **{name: own[name] for name in OF_CLASSES}))
        return Release(tuple(statistics), tuple(meta["counts"]), meta["sensitivity"], meta["noise"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); {ANOTHER}") from error


def system_gauss(count: int) -> torch.Tensor:
    """Normal numbers from the system's cryptographic generator."""
    source = random.SystemRandom()
    return torch.tensor([source.gauss(0.0, 1.0) for _ in range(count)], dtype=torch.float64)


@dataclass(frozen=True)
class Totals:
    """Sums over the private images, without noise.

    Args:
        sums: [classes, D], of each image's mean u over its views.
        lengths: [classes, watchers], of the parts' squared lengths.
        moments: [F, F] for each watcher, over all views.
    """

    sums: torch.Tensor
    lengths: torch.Tensor
    moments: list[torch.Tensor]


@torch.no_grad()
def release(
    watchers: LimitedWatchers,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    budget: Budget,
    gauss: Gauss = system_gauss,
    progress: Progress = lambda done, total: None,
) -> Release:
    """Release each class's sum of u and of each part's squared length, and for each watcher its part's second moment.

    The covariance within classes is the second moment without the means' part and without its noise. Deviations are
    those of all classes together, larger or smaller in a class as its lengths say.

    Args:
        labels: [n]; every class has images.
    """
    counts = torch.bincount(labels, minlength=classes)
    return with_noise(watchers, totals_of(watchers, images, labels, counts, progress), counts, budget, gauss)


@torch.no_grad()
def with_noise(
    watchers: LimitedWatchers, totals: Totals, counts: torch.Tensor, budget: Budget, gauss: Gauss = system_gauss
) -> Release:
    """The release of these totals. Each call draws noise anew, and so is one more release.

    Args:
        counts: [classes], images of each class.
    """
    classes, sensitivity = len(counts), sensitivity_of(watchers.limit)
    noise = noise_of(budget, sensitivity)
    noise_of_moment = noise / moment_scale(int(counts.min()), classes)
    means = (totals.sums + noise * gauss(totals.sums.numel()).view(totals.sums.shape)) / counts[:, None]
    added = noise / LENGTHS * gauss(totals.lengths.numel()).view(totals.lengths.shape)
    lengths = (totals.lengths + added) / counts[:, None]
    of_noise = (noise / counts).square()  # noise on a value of a mean adds so much to its square
    statistics = []
    for watcher, own, squares, moment in zip(
        watchers.of, watchers.parts(means), lengths.T, totals.moments, strict=True
    ):
        between = own.T @ own / classes - of_noise.mean() * torch.eye(len(moment))
        within = _denoised(moment + _symmetric(len(moment), noise_of_moment, gauss) - between, noise_of_moment)
        shares = _shares(squares - own.square().sum(1) + own.shape[1] * of_noise)
        deviations = (within.diagonal() * shares[:, None]).sqrt()
        values = watcher.limit * own, watcher.limit * deviations, watcher.limit**2 * (within + between)
        statistics.append(Statistics(watcher.standard, *(value.float().to(watchers.device) for value in values)))
    return Release(tuple(statistics), tuple(counts.tolist()), sensitivity, noise)


def _shares(spreads: torch.Tensor) -> torch.Tensor:
    """Variances [classes] in units of their mean. Noise may make them negative: none is less than LEAST_SPREAD."""
    shares = (spreads / spreads.mean().clamp_min(1e-12)).clamp(LEAST_SPREAD, len(spreads))
    return shares / shares.mean()


def totals_of(
    watchers: LimitedWatchers, images: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, progress: Progress
) -> Totals:
    """Add up what a release adds noise to.

    Args:
        counts: [classes], images of each class.
    """
    weights, classes = (1.0 / (len(counts) * counts.double()))[labels], len(counts)
    totals = None
    for first in range(0, len(images), CALL):
        rows = slice(first, first + CALL)
        views = watchers.views(images[rows])
        parts = watchers.parts(views)
        if totals is None:
            moments = [torch.zeros(part.shape[2], part.shape[2], dtype=torch.float64) for part in parts]
            sums, lengths = torch.zeros(classes, views.shape[2]).double(), torch.zeros(classes, len(parts)).double()
            totals = Totals(sums, lengths, moments)
        totals.sums.index_add_(0, labels[rows], views.mean(0))
        squares = torch.stack([part.square().sum(2).mean(0) for part in parts], dim=1)
        totals.lengths.index_add_(0, labels[rows], squares)
        for moment, part in zip(totals.moments, parts, strict=True):
            moment += torch.einsum("vni,vnj->ij", part * weights[rows, None], part) / len(views)
        progress(min(first + CALL, len(images)), len(images))
    assert totals is not None  # every class has images
    return totals


def _symmetric(width: int, deviation: float, gauss: Gauss) -> torch.Tensor:
    """Symmetric noise [width, width] that is white in the Frobenius norm: an entry off the diagonal stands twice."""
    rows, columns = torch.triu_indices(width, width)
    drawn = deviation * gauss(len(rows))
    drawn[rows != columns] /= math.sqrt(2)
    half = torch.zeros(width, width, dtype=torch.float64)
    half[rows, columns] = drawn
    return half + half.triu(1).T


def hidden(width: int, deviation: float) -> float:
    """The trace of a covariance [width, width] that such noise hides: one standard deviation of the noise's own."""
    return deviation * math.sqrt(width)


def _denoised(covariance: torch.Tensor, deviation: float) -> torch.Tensor:
    """A covariance [F, F] without what such noise does to its eigenvalues. What follows the noise costs no privacy.

    Eigenvalues of noise alone reach ±2s, s = deviation √(F / 2). A larger one, λ, comes from θ = (λ + √(λ² − 4s²)) / 2
    (Benaych-Georges & Nadakuditi 2011). All others get one value, which keeps the trace: it is measured well, and
    negative values cut to 0 would make it half as large again. Where noise hides what the clear ones leave of it, that
    counts as `hidden`: a spread of zero would make whatever divides by it as large as numbers go.
    """
    values, vectors = torch.linalg.eigh(covariance)
    square = 2 * len(covariance) * deviation**2  # 4s²
    clear = values > math.sqrt(square)
    kept = torch.where(clear, (values + (values.square() - square).clamp_min(0).sqrt()) / 2, 0.0)
    left = (covariance.trace() - kept.sum()).clamp_min(hidden(len(covariance), deviation))
    rest = left / (~clear).sum().clamp_min(1)
    denoised: torch.Tensor = (vectors * torch.where(clear, kept, rest)) @ vectors.T
    return denoised
