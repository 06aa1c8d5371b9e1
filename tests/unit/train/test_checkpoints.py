"""A classifier's training that is killed continues from its last checkpoint to the same weights, bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpd_train import classifiers, loop
from dpd_train.classifiers import ClassifierTraining, train_classifier, trained_classifier
from dpd_train.compute import step_generator
from dpd_train.networks import ResNetConfig

SHAPE = ResNetConfig(num_classes=2, widths=(8, 16), blocks=(1, 1), dropout=0.5)
TRAINING = ClassifierTraining(steps=12, batch=4, validate_every=5, seed=3)
KILLED_AT = 7


class Killed(Exception):
    """Stands for the end of the process."""


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 2
    return torch.randn(20, 3, 8, 8, generator=generator) + labels[:, None, None, None], labels


@pytest.mark.parametrize("name", ["classifier", "latent_classifier"])
def test_a_killed_training_continues_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole = train_classifier(*_data(), _data(), SHAPE, TRAINING).model.state_dict()
    state, steps = tmp_path / "checkpoints" / f"{name}.safetensors", []

    def killed(step: int, total: int) -> None:
        if step == KILLED_AT:
            raise Killed

    with pytest.raises(Killed):
        trained_classifier(tmp_path / name, _data(), _data(), SHAPE, TRAINING, killed, state=state)
    assert state.is_file()
    torch.manual_seed(99)  # what the next process has drawn before
    found = trained_classifier(
        tmp_path / name, _data(), _data(), SHAPE, TRAINING, lambda step, total: steps.append(step), state=state
    )
    assert steps == list(range(KILLED_AT + 1, TRAINING.steps + 1)), "it began again"
    assert all(torch.equal(value, whole[key]) for key, value in found.state_dict().items())
    assert not state.exists()


def test_the_weights_of_the_best_validation_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies 0.3, 0.9, 0.9, 0.5 at steps 3, 6, 9, 12: of equal ones the later counts."""
    right, at = iter((6, 18, 18, 10)), []
    _, labels = _data()

    def answers(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        at.append({name: value.clone() for name, value in model.state_dict().items()})
        named = torch.where(torch.arange(20) < next(right), labels, 1 - labels)
        return torch.nn.functional.one_hot(named).float()

    monkeypatch.setattr(classifiers, "predict", answers)
    found = train_classifier(*_data(), _data(), SHAPE, replace(TRAINING, validate_every=3))
    assert (found.step, found.accuracy) == (9, pytest.approx(0.9))
    assert all(torch.equal(value, at[2][name]) for name, value in found.model.state_dict().items())
    assert not torch.equal(at[2]["head.weight"], at[3]["head.weight"])


@pytest.mark.parametrize("smoothing", [None, 0.4])
def test_labels_are_smoothed(smoothing: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the last layer's bias is that of softmax minus smoothed labels."""
    training = ClassifierTraining(steps=1, batch=8, bfloat16=False, warmup=0)
    training = training if smoothing is None else replace(training, label_smoothing=smoothing)
    share = 0.1 if smoothing is None else smoothing
    seen, calls = list[torch.Tensor](), list[torch.Tensor]()

    def clipped(parameters: list[torch.Tensor], norm: float) -> None:
        seen.extend(p.grad.clone() for p in parameters if p.grad is not None and p.shape == (2,))

    def watched(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        calls.append(batch)
        return batch

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    inputs, labels = _data()
    shape = replace(SHAPE, dropout=0.0)
    train_classifier(inputs, labels, _data(), shape, training, noise=watched)
    torch.manual_seed(training.seed)
    rows = torch.randint(20, (8,), generator=step_generator(training.seed, 0))
    with torch.no_grad():
        probabilities = shape.build().train()(calls[0]).softmax(1)
    wanted = (1 - share) * torch.nn.functional.one_hot(labels[rows], 2) + share / 2
    torch.testing.assert_close(seen[-1], (probabilities - wanted).mean(0), atol=1e-5, rtol=0)


def test_without_the_random_state_the_weights_would_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    with pytest.raises(AssertionError):
        test_a_killed_training_continues_bit_for_bit("classifier", tmp_path, pytest.MonkeyPatch())
