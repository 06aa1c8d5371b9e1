"""Watchers: the networks whose features codes are matched in. Several shapes, briefly to fully trained, not shipped."""

from pathlib import Path

import torch

from dpd_runtime.annotations import Progress
from dpd_train.classifiers.network import ResNet, ResNetConfig
from dpd_train.classifiers.pool import Plan, load_pool, train_pool
from dpd_train.classifiers.training import ClassifierTraining, Labelled
from dpd_train.compute.device import NEVER, Deadline

WATCHER_SEED = 300  # teacher, judges, perceptual networks and students use other seeds
NAME = "watcher"
LENGTHS = (10, 40, 150, 600)
"""Steps of training. Early networks have features beyond those that tell classes apart; trained ones lose them."""


def watcher_shapes(classes: int) -> list[ResNetConfig]:
    """Five shapes, each once for every one of LENGTHS."""
    shapes = [
        ResNetConfig(num_classes=classes, widths=widths, blocks=blocks, stem_stride=2)
        for widths, blocks in (
            ((16, 32, 64, 128), (1, 1, 1, 1)),
            ((32, 64, 128), (1, 1, 1)),
            ((24, 48, 96), (1, 2, 1)),
            ((16, 48, 96, 128), (1, 1, 2, 1)),
            ((48, 96, 96), (1, 1, 1)),
        )
    ]
    return [shape for shape in shapes for _ in LENGTHS]


def is_trained(index: int) -> bool:
    """Whether the watcher of this number is trained well enough to judge classes."""
    return index % len(LENGTHS) == len(LENGTHS) - 1


def train_watchers(
    folder: Path,
    data: Labelled,
    validation: Labelled,
    classes: int,
    progress: Progress,
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> None:
    """Train the watchers as `train_pool` does.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    plans: list[Plan] = [
        (shape, ClassifierTraining(steps=LENGTHS[i % len(LENGTHS)], seed=WATCHER_SEED + i))
        for i, shape in enumerate(watcher_shapes(classes))
    ]
    train_pool(folder, NAME, plans, data, validation, progress, device=device, deadline=deadline)


def load_watchers(folder: Path, classes: int) -> list[ResNet]:
    """Read what `train_watchers` wrote to `folder`, frozen."""
    return load_pool(folder, NAME, watcher_shapes(classes))
