"""Several small classifiers of one data set, trained one after another and stored in a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from dpd_runtime.files import write_atomically
from dpd_train.classifiers.network import Classifier, Network, Shape, weights_to_bytes
from dpd_train.classifiers.training import ClassifierTraining, Labelled, train_classifier
from dpd_train.compute.device import NEVER, Deadline, TimeUp

Plan = tuple[Shape[Classifier], ClassifierTraining]


def _weights(folder: Path, name: str, index: int) -> Path:
    return folder / f"{name}{index}.safetensors"


def load_pool(folder: Path, name: str, shapes: Sequence[Shape[Network]]) -> list[Network]:
    """Read what `train_pool` wrote to `folder`, frozen and in evaluation mode."""
    networks = []
    for i, shape in enumerate(shapes):
        network = shape.build()
        network.load_state_dict(load_file(_weights(folder, name, i)))
        networks.append(network.eval().requires_grad_(False).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return networks


def train_pool(
    folder: Path,
    name: str,
    plans: Sequence[Plan],
    data: Labelled,
    validation: Labelled,
    progress: Callable[[int, int], None],
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    weights: torch.Tensor | None = None,
) -> list[float]:
    """Train the networks and write their weights to `folder`, named `name` and number. Finished ones are skipped.

    weights: of the training images, see `draw_rows`.

    Returns:
        accuracy on the validation part of each network that was trained now.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    total, accuracies = sum(training.steps for _, training in plans), list[float]()
    for i, (shape, training) in enumerate(plans):
        kept, unfinished = _weights(folder, name, i), folder / f"{name}{i}.unfinished.safetensors"
        done = sum(before.steps for _, before in plans[:i])
        if kept.exists():
            continue
        try:
            trained = train_classifier(
                *data,
                validation,
                shape,
                training,
                lambda step, steps, done=done: progress(done + step, total),  # type: ignore[misc]
                device=device,
                deadline=deadline,
                state=unfinished,
                weights=weights,
            )
        except TimeUp as stop:
            raise TimeUp(done + stop.step, total) from stop
        accuracies.append(trained.accuracy)
        write_atomically(kept, weights_to_bytes(trained.model))
        unfinished.unlink(missing_ok=True)
    return accuracies
