"""The run's two classifiers, the teacher on pixels and the judge on latents: shapes, files, training that resumes."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from dpd_runtime.annotations import Progress
from dpd_runtime.files import write_atomically
from dpd_train.classifiers.network import ResNet, ResNetConfig, predict
from dpd_train.classifiers.training import ClassifierTraining, train_classifier
from dpd_train.compute.device import NEVER, Deadline

log = logging.getLogger(__name__)
Labelled = tuple[torch.Tensor, torch.Tensor]
"""Inputs [n, C, H, W] float32 and labels [n] int64."""


def teacher_shape(classes: int) -> ResNetConfig:
    """0.44 M parameters, on pixels."""
    return ResNetConfig(num_classes=classes, widths=(32, 64, 128), blocks=(1, 2, 1), stem_stride=2)


def latent_classifier_shape(classes: int, channels: int) -> ResNetConfig:
    """0.25 M parameters, on clean latents."""
    return ResNetConfig(num_classes=classes, in_channels=channels, widths=(48, 96), blocks=(1, 1), stem_stride=1)


def save_classifier(model: ResNet, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", (json.dumps(asdict(model.config), indent=1) + "\n").encode())
    write_atomically(folder / "model.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))


def load_classifier(folder: Path) -> ResNet:
    """What `save_classifier` wrote, in evaluation mode."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content |= {name: tuple(content[name]) for name in ("widths", "blocks")}
    model = ResNet(ResNetConfig(**content))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def accuracy(model: ResNet, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of `inputs` that it puts into their class."""
    return float((predict(model, inputs).argmax(1) == labels).float().mean())


def trained_classifier(
    folder: Path,
    data: Labelled,
    validation: Labelled,
    shape: ResNetConfig,
    training: ClassifierTraining,
    progress: Progress,
    *,
    state: Path,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> ResNet:
    """Train and save into `folder`, or read what an earlier session finished.

    Args:
        state: where a training that the deadline stops is kept.

    Raises:
        TimeUp: the deadline passed.
    """
    if not (folder / "model.safetensors").exists():
        trained = train_classifier(
            *data, validation, shape, training, progress, device=device, deadline=deadline, state=state
        )
        log.info("%s: validation accuracy %.4f at step %d", folder.name, trained.accuracy, trained.step)
        save_classifier(trained.model, folder)
        state.unlink(missing_ok=True)
    return load_classifier(folder)
