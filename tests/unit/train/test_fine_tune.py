"""Gradient checkpointing, and what `dpd train` refuses to fine-tune with."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from dpd_runtime.errors import InputError
from dpd_train.bases import load_base
from dpd_train.config import TrainConfig
from dpd_train.train import train
from dpd_train.tuning import denoiser_training, fine_tune
from tests.tiny import CONFIG, latent_data, tiny_base


def _tuned(folder: Path, config: TrainConfig) -> tuple[dict[str, torch.Tensor], int]:
    """The tuned UNet's weights, and how often one of its blocks ran in training."""
    base, calls = load_base(config.base), [0]
    block = base.unet.up_blocks[-1].resnets[-1]

    def count(_module: torch.nn.Module, _args: object) -> None:
        calls[0] += torch.is_grad_enabled()

    block.register_forward_pre_hook(count)
    data, folder = latent_data(), folder / str(config.gradient_checkpointing)
    tuned, _ = fine_tune(base, (data, data), config, folder / "state", folder / "adapter", lambda step, steps: None)
    assert not tuned.unet.is_gradient_checkpointing
    return dict(tuned.unet.state_dict()), calls[0]


@pytest.mark.full
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_activations_computed_twice_change_nothing_but_memory(tune: Literal["full", "lora"], tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), tune=tune, peak_rate=1e-3, precision="fp32", steps=5)
    kept, once = _tuned(tmp_path, config)
    computed, twice = _tuned(tmp_path, replace(config, gradient_checkpointing=True))
    assert (once, twice) == (5, 10)
    assert max(float((value - computed[name]).abs().max()) for name, value in kept.items()) < 1e-5
    before = load_base(config.base).unet.state_dict()
    assert max(float((value - before[name]).abs().max()) for name, value in kept.items()) > 1e-4


def test_half_precision_is_refused_on_a_cpu_before_anything_is_written(tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), precision="fp16")
    with pytest.raises(InputError, match=r"--precision fp16 needs CUDA: .* use bf16 or fp32"):
        train(tmp_path / "scenes", tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"micro_batch": 0}, "--micro-batch is 0: it must be at least 1"),
        ({"micro_batch": 9, "batch": 8}, "--micro-batch is 9: it must be at most --batch, 8"),
        ({"precision": "int8"}, "--precision 'int8' is unknown: use bf16, fp16, fp32"),
        ({"schedule": "cosine"}, "--set schedule 'cosine' is unknown: use decay, constant"),
    ],
)
def test_values_out_of_range_are_refused_by_their_option(given: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(TrainConfig(), **given)


def test_options_reach_the_loop() -> None:
    plain = denoiser_training(TrainConfig())
    assert (plain.micro_batch, plain.precision, plain.decay_from) == (None, "bf16", 0.7)
    other = denoiser_training(TrainConfig(micro_batch=4, precision="fp32", schedule="constant"))
    assert (other.micro_batch, other.precision, other.decay_from) == (4, "fp32", 1.0)
