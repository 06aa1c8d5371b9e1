"""The diffusion loss and loop: closed forms, and a resumed run equal to an uninterrupted one bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from dpd_train.captions import CaptionTable
from dpd_train.denoiser import DenoiserTraining, LatentData, denoising_loss, min_snr_weight, train_denoiser
from dpd_train.nano import nano_scheduler
from tests.tiny import tiny_base


class _Exact(torch.nn.Module):
    """Knows the clean latents and answers with the true target."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self.target = target

    def forward(self, *_: object) -> object:
        return type("Output", (), {"sample": self.target})()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loss_is_zero_for_the_target_that_diffusers_defines(prediction_type: str) -> None:
    from dpd_runtime.schedule import schedule_from_config

    scheduler = DDIMScheduler.from_config(nano_scheduler().config, prediction_type=prediction_type)
    schedule = schedule_from_config(scheduler.config)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(4, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([1, 200, 600, 990])
    target = noise if prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    loss = denoising_loss(_Exact(target), latents, noise, timesteps, torch.zeros(4, 1, 1), schedule, 5.0)
    assert loss.max() < 1e-8
    wrong = denoising_loss(_Exact(-target), latents, noise, timesteps, torch.zeros(4, 1, 1), schedule, 5.0)
    assert wrong.min() > 1e-6


def test_min_snr_weights_the_error_of_the_clean_latents() -> None:
    """min(SNR, γ)·|ẑ0 − z0|² in every parametrisation: |Δε|² = SNR·|Δz0|², |Δv|² = (SNR + 1)·|Δz0|²."""
    alpha = torch.tensor([0.1, 0.5, 0.9, 0.99])
    sigma = (1 - alpha.square()).sqrt()
    snr = (alpha / sigma).square()
    for kind, scale in (("epsilon", snr), ("v_prediction", snr + 1)):
        torch.testing.assert_close(min_snr_weight(alpha, sigma, kind, 5.0) * scale, snr.clamp(max=5.0))


def _data() -> LatentData:
    generator = torch.Generator().manual_seed(3)
    captions = CaptionTable(
        template=torch.randint(100, (2, 32), generator=generator),
        described=torch.randint(100, (2, 6, 32), generator=generator),
        empty=torch.zeros(32, dtype=torch.int64),
    )
    return LatentData(torch.randn(6, 4, 8, 8, generator=generator), torch.tensor([0, 1] * 3), captions)


def _train(folder: Path, base: Path, steps: int, state: str) -> dict[str, torch.Tensor]:
    from dpd_train.base import load_base

    loaded = load_base(str(base))
    training = DenoiserTraining(steps=6, batch=3, warmup=2, validate_every=3, checkpoint_seconds=0.0, bfloat16=False)
    if steps < 6:  # stop early as a kill would: the schedule of the whole run, but only some of its steps

        class Killed(Exception):
            pass

        def stop(step: int, _steps: int) -> None:
            if step == steps:
                raise Killed

        with pytest.raises(Killed):
            train_denoiser(
                loaded.unet, loaded.text_encoder, _data(), _data(), loaded.schedule, training, folder / state, stop
            )
        return {}
    unet, _, _ = train_denoiser(
        loaded.unet, loaded.text_encoder, _data(), _data(), loaded.schedule, replace(training), folder / state
    )
    return dict(unet.state_dict())


def test_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    whole = _train(tmp_path, base, 6, "whole.safetensors")
    _train(tmp_path, base, 4, "cut.safetensors")
    resumed = _train(tmp_path, base, 6, "cut.safetensors")
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_captions_are_dropped_and_turned_as_asked() -> None:
    data = _data()
    rows, turned = torch.tensor([0, 1, 2, 3]), torch.tensor([False, True, False, True])
    everything = data.captions.draw(rows, data.labels, turned, 1.0, torch.Generator().manual_seed(0))
    assert (everything == data.captions.empty).all()
    table = CaptionTable(data.captions.template + 1000, data.captions.described, data.captions.empty)
    ids = table.draw(rows, data.labels, turned, 0.0, torch.Generator().manual_seed(0))
    for i in range(4):
        described = table.described[int(turned[i]), rows[i]]
        assert torch.equal(ids[i], described) or torch.equal(ids[i], table.template[data.labels[rows[i]]])
