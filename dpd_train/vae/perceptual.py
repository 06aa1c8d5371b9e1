"""Networks of the VAE's perceptual loss, trained on the same images for this purpose and never shipped."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from dpd_runtime.annotations import Progress
from dpd_train.classifiers.network import ResNet, ResNetConfig
from dpd_train.classifiers.pool import load_pool, train_pool
from dpd_train.classifiers.training import ClassifierTraining, Labelled
from dpd_train.compute.device import NEVER, Deadline

log = logging.getLogger(__name__)
PERCEPTUAL_SEED = 100  # teacher and latent classifier use other seeds: no network rates what it helped to train
NAME = "perceptual"


def perceptual_shapes(classes: int) -> tuple[ResNetConfig, ...]:
    """Three different shapes, so that a decoder cannot please one network by artefacts."""
    return (
        ResNetConfig(num_classes=classes, widths=(24, 48, 96), blocks=(1, 1, 1), stem_stride=1),
        ResNetConfig(num_classes=classes, widths=(32, 64, 96), blocks=(1, 1, 1), stem_stride=2),
        ResNetConfig(num_classes=classes, widths=(24, 48, 64, 96), blocks=(1, 1, 1, 1), stem_stride=2),
    )


def perceptual_training(steps: int) -> ClassifierTraining:
    """Settings with jittered colours, as the VAE has its own losses for colour."""
    return ClassifierTraining(steps=steps, colour_gain=0.03, seed=PERCEPTUAL_SEED)


def load_perceptual_networks(folder: Path, classes: int) -> list[ResNet]:
    """Read what `train_perceptual_networks` wrote to `folder`, frozen."""
    return load_pool(folder, NAME, perceptual_shapes(classes))


def train_perceptual_networks(
    folder: Path,
    data: Labelled,
    validation: Labelled,
    classes: int,
    training: ClassifierTraining,
    progress: Progress,
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    weights: torch.Tensor | None = None,
) -> None:
    """Train the networks as `train_pool` does, each with its own seed."""
    shapes = enumerate(perceptual_shapes(classes))
    plans = [(shape, replace(training, seed=training.seed + i)) for i, shape in shapes]
    accuracies = train_pool(
        folder, NAME, plans, data, validation, progress, device=device, deadline=deadline, weights=weights
    )
    if accuracies:
        log.info(
            "perceptual networks name %s of the validation images right", ", ".join(f"{a:.1%}" for a in accuracies)
        )
