"""The diffusion loss and loop: closed forms, and a resumed run equal to an uninterrupted one bit for bit."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from dpd_train.captions import CaptionTable
from dpd_train.denoiser import DenoiserTraining, LatentData, train_denoiser
from dpd_train.denoising import decoder_loss, denoise, min_snr_weight
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
    loss = denoise(_Exact(target), latents, noise, timesteps, torch.zeros(4, 1, 1), schedule, 5.0).squared_error()
    assert loss.max() < 1e-8
    wrong = denoise(_Exact(-target), latents, noise, timesteps, torch.zeros(4, 1, 1), schedule, 5.0).squared_error()
    assert wrong.min() > 1e-6


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_predicted_clean_latents_are_those_of_diffusers(prediction_type: str) -> None:
    from dpd_runtime.schedule import schedule_from_config

    scheduler = DDIMScheduler.from_config(nano_scheduler().config, prediction_type=prediction_type)
    generator = torch.Generator().manual_seed(0)
    latents, noise, output = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(3))
    for timestep in (1, 200, 600):
        timesteps = torch.tensor([timestep])
        schedule = schedule_from_config(scheduler.config)
        said = denoise(_Exact(output), latents, noise, timesteps, torch.zeros(1, 1, 1), schedule, 5.0)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        scheduler.set_timesteps(1000)
        expected = scheduler.step(output, timestep, noisy).pred_original_sample
        torch.testing.assert_close(said.original, expected, rtol=1e-4, atol=1e-4)


def test_direction_error_is_blind_to_length() -> None:
    from dpd_runtime.schedule import schedule_from_config

    base_schedule = schedule_from_config(nano_scheduler().config)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([300, 700])
    exact = denoise(_Exact(latents), latents, noise, timesteps, torch.zeros(2, 1, 1), base_schedule, 5.0)
    for factor, expected in ((0.3, 0.0), (1.0, 0.0), (-2.0, 2.0)):
        answer = _Exact(factor * exact.target)
        said = denoise(answer, latents, noise, timesteps, torch.zeros(2, 1, 1), base_schedule, 5.0)
        torch.testing.assert_close(said.direction_error(), expected * said.weight, rtol=1e-5, atol=1e-6)


def test_decoder_loss_is_zero_for_the_clean_latents_alone(tmp_path: Path) -> None:
    from dpd_train.base import load_base

    vae = load_base(str(tiny_base(tmp_path))).vae
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        none, near, far = (float(decoder_loss(vae, latents + error, latents)) for error in (0.0, 0.05, 0.5))
    assert none == 0
    assert 0 < near < far
    answer = latents.clone().requires_grad_()
    decoder_loss(vae, answer + 0.1, latents).backward()
    assert answer.grad is not None
    assert answer.grad.abs().max() > 0


def test_a_validation_loss_that_rises_ends_the_training(tmp_path: Path) -> None:
    from dpd_train.base import load_base

    for rise, measured in ((-1.0, 1), (1e9, 3)):  # every loss stands more than −100 % above the best; none 1e9 times
        loaded = load_base(str(tiny_base(tmp_path / str(rise))))
        training = DenoiserTraining(steps=6, batch=2, warmup=1, validate_every=2, stop_rise=rise, bfloat16=False)
        state = tmp_path / f"{rise}.safetensors"
        _, _, history = train_denoiser(
            loaded.unet, loaded.text_encoder, _data(), _data(), loaded.schedule, training, state
        )
        assert len(history) == measured


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
    training = DenoiserTraining(
        steps=6,
        batch=3,
        warmup=2,
        validate_every=3,
        checkpoint_seconds=0.0,
        bfloat16=False,
        direction_weight=0.2,
        decoder_weight=0.1,
        decoder_from=0.3,
        consistency_weight=0.1,
    )
    if steps < 6:  # stop early as a kill would: the schedule of the whole run, but only some of its steps

        class Killed(Exception):
            pass

        def stop(step: int, _steps: int) -> None:
            if step == steps:
                raise Killed

        with pytest.raises(Killed):
            train_denoiser(
                loaded.unet,
                loaded.text_encoder,
                _data(),
                _data(),
                loaded.schedule,
                training,
                folder / state,
                stop,
                vae=loaded.vae,
                judge=_Judge(),
            )
        return {}
    data = _data()
    unet, _, _ = train_denoiser(
        loaded.unet,
        loaded.text_encoder,
        data,
        data,
        loaded.schedule,
        training,
        folder / state,
        vae=loaded.vae,
        judge=_Judge(),
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


class _Judge(torch.nn.Module):
    """Class 1 where the first channel is positive in the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        mean = 20 * latents[:, 0].mean(dim=(1, 2))
        return torch.stack([-mean, mean], dim=1)


def _channel_means(folder: Path, weight: float, dropout: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """ẑ0's first channel, mean for each class, after 30 steps on latents that know nothing of their class."""
    from dpd_train.base import load_base

    loaded = load_base(str(tiny_base(folder)))
    training = DenoiserTraining(
        steps=30,
        batch=8,
        warmup=1,
        peak_rate=3e-3,
        bfloat16=False,
        consistency_weight=weight,
        prompt_dropout=dropout,
        ema_lengths=(0.05,),
    )
    data = _data()
    state = folder / "state.safetensors"
    unet, text_encoder, _ = train_denoiser(
        loaded.unet, loaded.text_encoder, data, data, loaded.schedule, training, state, judge=_Judge()
    )
    generator = torch.Generator().manual_seed(9)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.no_grad():
        context = text_encoder(data.captions.template).last_hidden_state
        said = denoise(
            unet, torch.zeros(2, 4, 8, 8), noise.expand(2, -1, -1, -1), torch.tensor([400] * 2), context,
            loaded.schedule, 5.0,
        )  # fmt: skip
    return said.original[:, 0].mean(dim=(1, 2)), dict(unet.state_dict())


def test_consistency_moves_the_prediction_to_where_the_judge_sees_the_class(tmp_path: Path) -> None:
    for name in ("without", "with", "unnamed", "neither"):
        (tmp_path / name).mkdir()
    without, _ = _channel_means(tmp_path / "without", 0.0, 0.0)
    pulled, _ = _channel_means(tmp_path / "with", 10.0, 0.0)
    assert pulled[1] - pulled[0] > without[1] - without[0] + 0.05
    _, unnamed = _channel_means(tmp_path / "unnamed", 10.0, 1.0)  # empty prompts are not judged
    _, neither = _channel_means(tmp_path / "neither", 0.0, 1.0)
    assert all(torch.equal(value, unnamed[key]) for key, value in neither.items())


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
