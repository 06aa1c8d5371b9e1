"""Where codes start: public images in the released colours of a class, and of them the most typical of it."""

import math
from collections.abc import Sequence

import torch

from dpd_runtime.annotations import Progress
from dpd_train.classifiers.network import Classifier
from dpd_train.compute.checkpoint import step_generator
from dpd_train.compute.device import to_device
from dpd_train.prototypes.herding import herded
from dpd_train.prototypes.matching import Statistics, seeing
from dpd_train.prototypes.private.candidates import Candidates, within
from dpd_train.prototypes.private.limited_watchers import CALL, LimitedWatcher, LimitedWatchers
from dpd_train.prototypes.private.release import Release

CANDIDATES = 2000  # of each class
TYPICAL = 10  # so many times as many as are needed: those that are surest of their class, which starts are herded from
RIDGE = 0.1  # share of the mean variance that is added to each


@torch.no_grad()
def chosen_starts(
    networks: Sequence[Classifier],
    released: Release,
    candidates: Candidates,
    ipc: int,
    seed: int,
    progress: Progress,
    *,
    device: torch.device,
) -> torch.Tensor:
    """Starts [classes, ipc, 3, H, W] in [-1, 1] for what was released.

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
    starts = []
    for label, mean in enumerate(torch.cat(means, dim=1)):
        drawn, appearances = candidates.draw(label, CANDIDATES, step_generator(seed, label))
        vectors = torch.cat([watchers.vectors(to_device(part, device)).cpu() for part in torch.split(drawn, CALL)])
        parts = zip(discriminants, watchers.of, watchers.parts(vectors), strict=True)
        opinions = [
            by_appearance(appearances),
            *(discriminant(part * watcher.limit) for discriminant, watcher, part in parts),
        ]
        sureness = torch.stack(opinions).mean(0).log_softmax(1)[:, label]
        typical = sureness.argsort(descending=True, stable=True)[: TYPICAL * ipc]
        chosen = herded(vectors[typical].numpy(), mean.numpy(), ipc)
        starts.append(drawn[typical[chosen]])
        progress(label + 1, len(released.counts))
    return torch.stack(starts)


class Discriminant:
    """Linear discriminant analysis (Fisher 1936) from released statistics: z [n, F] → scores [n, classes].

    directions: [F, classes] and offsets: [classes], float64.
    """

    def __init__(self, own: Statistics, released: Release) -> None:
        spread = within(own, released)
        ridge = RIDGE * spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
        means = own.class_means.double().cpu()
        self.directions = torch.linalg.solve(spread + ridge, means.T)
        self.offsets = (means * self.directions.T).sum(1) / 2

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = z @ self.directions - self.offsets
        return scores
