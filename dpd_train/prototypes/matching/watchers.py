"""Watchers: the networks whose features codes are matched in. Several shapes, briefly to fully trained, not shipped."""

import logging
from pathlib import Path

import torch

from dpd_runtime.annotations import Progress
from dpd_train.classifiers.attention import AttentionConfig
from dpd_train.classifiers.network import Classifier, ResNetConfig, Shape
from dpd_train.classifiers.pool import Plan, load_pool, train_pool
from dpd_train.classifiers.training import ClassifierTraining, Labelled
from dpd_train.compute.device import NEVER, Deadline
from dpd_train.config import WATCHER_STEPS

log = logging.getLogger(__name__)
FIRST_SEED = 300  # classifiers, perceptual networks and students of run seed 0 use lower seeds
SEEDS = 1000  # watchers and views of each run have this many seeds to themselves
NAME = "watcher"
LENGTHS = (10, 40, 150, WATCHER_STEPS)
"""Steps of training. Early networks have features beyond those that tell classes apart; trained ones lose them."""
ATTENTION_LENGTHS = (40, 150, 600, 2000)


def residual_shapes(classes: int, bands: int = 3) -> list[ResNetConfig]:
    """Five residual shapes, each once for every one of LENGTHS."""
    shapes = [
        ResNetConfig(num_classes=classes, in_channels=bands, widths=widths, blocks=blocks, stem_stride=2)
        for widths, blocks in (
            ((16, 32, 64, 128), (1, 1, 1, 1)),
            ((32, 64, 128), (1, 1, 1)),
            ((24, 48, 96), (1, 2, 1)),
            ((16, 48, 96, 128), (1, 1, 2, 1)),
            ((48, 96, 96), (1, 1, 1)),
        )
    ]
    return [shape for shape in shapes for _ in LENGTHS]


def attention_shapes(classes: int, bands: int = 3) -> list[AttentionConfig]:
    """Two attention shapes, each once for every one of ATTENTION_LENGTHS. They see what convolutions do not."""
    shapes = [
        AttentionConfig(num_classes=classes, in_channels=bands, width=width, blocks=blocks, heads=heads)
        for width, blocks, heads in ((64, 3, 4), (96, 2, 3))
    ]
    return [shape for shape in shapes for _ in ATTENTION_LENGTHS]


def watcher_shapes(classes: int, bands: int = 3) -> list[Shape[Classifier]]:
    """All shapes, each as often as there are lengths of its training."""
    return [*residual_shapes(classes, bands), *attention_shapes(classes, bands)]


def with_logits(classes: int) -> list[bool]:
    """For each watcher whether its logits count: those of the longest training of each shape do."""
    numbers = [len(lengths) for lengths in (LENGTHS, ATTENTION_LENGTHS)]
    counts = len(residual_shapes(classes)), len(attention_shapes(classes))
    return [i % number == number - 1 for number, count in zip(numbers, counts, strict=True) for i in range(count)]


def watcher_seed(seed: int, number: int) -> int:
    """The seed of watcher `number` of a run with this seed: no two runs share a watcher."""
    return SEEDS * seed + FIRST_SEED + number


def view_seed(seed: int, number: int) -> int:
    """The seed of the views in which watcher `number` of a run sees the training images: no two runs share them."""
    return SEEDS * seed + number


def watcher_plans(classes: int, seed: int, longest: int = WATCHER_STEPS, bands: int = 3) -> list[Plan]:
    """Shape and training of each watcher of a run with this seed.

    Args:
        longest: steps in place of WATCHER_STEPS; all others are in proportion.
    """

    def scaled(steps: int) -> int:
        return max(1, round(steps * longest / WATCHER_STEPS))

    residual, attention = residual_shapes(classes, bands), attention_shapes(classes, bands)
    plans: list[Plan] = [
        (shape, ClassifierTraining(steps=scaled(LENGTHS[i % len(LENGTHS)]), seed=watcher_seed(seed, i)))
        for i, shape in enumerate(residual)
    ]
    for i, shape in enumerate(attention):
        steps = scaled(ATTENTION_LENGTHS[i % len(ATTENTION_LENGTHS)])
        training = ClassifierTraining(
            steps=steps,
            peak_rate=1e-3,
            warmup=min(100, steps // 4),
            weight_decay=0.05,
            seed=watcher_seed(seed, len(residual) + i),
        )
        plans.append((shape, training))
    return plans


def train_watchers(
    folder: Path,
    data: Labelled,
    validation: Labelled,
    classes: int,
    seed: int,
    progress: Progress,
    *,
    longest: int = WATCHER_STEPS,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> None:
    """Train the watchers of a run with this seed as `train_pool` does.

    Args:
        longest: as in `watcher_plans`.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    plans = watcher_plans(classes, seed, longest, data[0].shape[1])
    accuracies = train_pool(folder, NAME, plans, data, validation, progress, device=device, deadline=deadline)
    if accuracies:
        log.info(
            "%d watchers are trained: codes are matched in what they see. They name %.0f to %.0f %% of the validation "
            "images right, as some learn for a few steps only, on purpose",
            len(accuracies),
            100 * min(accuracies),
            100 * max(accuracies),
        )


def load_watchers(folder: Path, classes: int, bands: int = 3) -> list[Classifier]:
    """Read what `train_watchers` wrote to `folder`, frozen."""
    return load_pool(folder, NAME, watcher_shapes(classes, bands))
