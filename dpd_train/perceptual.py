"""Networks that judge what a VAE makes: trained on the same images, for nothing else, and never shipped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from dpd_train.classifiers import ResNet, ResNetConfig
from dpd_train.device import NEVER, Deadline
from dpd_train.judges import Labelled
from dpd_train.network_pool import load_pool, train_pool
from dpd_train.train_classifier import ClassifierTraining

PERCEPTUAL_SEED = 100  # the judges' and the teacher's seeds are others: no network rates what it helped to make
NAME = "perceptual"


def perceptual_shapes(classes: int) -> tuple[ResNetConfig, ...]:
    """Three networks that see differently: a decoder that pleases all of them has no room for tricks."""
    return (
        ResNetConfig(num_classes=classes, widths=(24, 48, 96), blocks=(1, 1, 1), stem_stride=1),
        ResNetConfig(num_classes=classes, widths=(32, 64, 96), blocks=(1, 1, 1), stem_stride=2),
        ResNetConfig(num_classes=classes, widths=(24, 48, 64, 96), blocks=(1, 1, 1, 1), stem_stride=2),
    )


def perceptual_training(steps: int) -> ClassifierTraining:
    """Colour is jittered: the VAE's own losses look after colour."""
    return ClassifierTraining(steps=steps, colour_gain=0.03, seed=PERCEPTUAL_SEED)


def load_perceptual_networks(folder: Path, classes: int) -> list[ResNet]:
    """Those that `train_perceptual_networks` left in `folder`, frozen."""
    return load_pool(folder, NAME, perceptual_shapes(classes))


def train_perceptual_networks(
    folder: Path,
    data: Labelled,
    validation: Labelled,
    classes: int,
    training: ClassifierTraining,
    progress: Callable[[int, int], None],
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    weights: torch.Tensor | None = None,
) -> None:
    """As `train_pool`; each network has a seed of its own."""
    shapes = perceptual_shapes(classes)
    plans = [(shape, replace(training, seed=training.seed + i)) for i, shape in enumerate(shapes)]
    train_pool(folder, NAME, plans, data, validation, progress, device=device, deadline=deadline, weights=weights)
