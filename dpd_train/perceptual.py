"""Networks that judge what a VAE makes: trained on the same images, for nothing else, and never shipped."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dpd_train.classifiers import ResNet, ResNetConfig
from dpd_train.device import NEVER, Deadline, TimeUp
from dpd_train.judges import Labelled
from dpd_train.train_classifier import ClassifierTraining, train_classifier

log = logging.getLogger(__name__)
PERCEPTUAL_SEED = 100  # the judges' and the teacher's seeds are others: no network rates what it helped to make


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


def _weights(folder: Path, index: int) -> Path:
    return folder / f"perceptual{index}.safetensors"


def load_perceptual_networks(folder: Path, classes: int) -> list[ResNet]:
    """Those that `train_perceptual_networks` left in `folder`, frozen."""
    networks = []
    for i, shape in enumerate(perceptual_shapes(classes)):
        network = ResNet(shape)
        network.load_state_dict(load_file(_weights(folder, i)))
        networks.append(network.eval().requires_grad_(False).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return networks


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
) -> None:
    """Leave the weights of each network in `folder`; those which are there already are kept.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    shapes = perceptual_shapes(classes)
    for i, shape in enumerate(shapes):
        weights, unfinished = _weights(folder, i), folder / f"perceptual{i}.unfinished.safetensors"
        if weights.exists():
            continue
        try:
            trained = train_classifier(
                *data,
                validation,
                shape,
                replace(training, seed=training.seed + i),
                lambda step, steps, done=i: progress(done * steps + step, len(shapes) * steps),  # type: ignore[misc]
                device=device,
                deadline=deadline,
                state=unfinished,
            )
        except TimeUp as stop:
            raise TimeUp(i * stop.steps + stop.step, len(shapes) * stop.steps) from stop
        log.info("perceptual network %d: %.4f on validation", i, trained.accuracy)
        save_file({k: v.contiguous() for k, v in trained.model.state_dict().items()}, weights)
        unfinished.unlink(missing_ok=True)
