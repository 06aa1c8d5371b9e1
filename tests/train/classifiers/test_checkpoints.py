"""A classifier's training that is killed continues from its last checkpoint to the same weights, bit for bit."""

from pathlib import Path

import pytest
import torch

from dpd_train.classifiers import training as classifiers
from dpd_train.classifiers.network import ResNetConfig
from dpd_train.classifiers.training import ClassifierTraining, train_classifier, trained_classifier

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
    monkeypatch.setattr(classifiers, "CHECKPOINT_SECONDS", 0.0)
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


def test_without_the_random_state_the_weights_would_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    with pytest.raises(AssertionError):
        test_a_killed_training_continues_bit_for_bit("classifier", tmp_path, pytest.MonkeyPatch())
