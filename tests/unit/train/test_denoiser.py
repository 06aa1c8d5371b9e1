"""The diffusion loss and loop: closed forms, kills that change no bit, batches in parts that change nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.errors import InputError
from dpd_runtime.solvers import schedule_from_config
from dpd_train.bases import load_base, nano_scheduler
from dpd_train.captions import CaptionTable
from dpd_train.compute import load_state
from dpd_train.denoiser import (
    ConsistencyClassifier,
    DenoiserTraining,
    Uncertainty,
    decoder_loss,
    denoise,
    min_snr_weight,
    parts,
    train_denoiser,
    validation_loss,
)
from dpd_train.distributed import Team
from dpd_train.tuning import Adapted, add_adapters
from tests.tiny import latent_data, tiny_base


class _Exact(torch.nn.Module):
    """Knows the clean latents and answers with the true target."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self.target = target

    def forward(self, *_: object) -> object:
        return type("Output", (), {"sample": self.target})()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loss_is_zero_for_the_target_that_diffusers_defines(prediction_type: str) -> None:
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


def test_a_validation_loss_that_rises_ends_the_training_with_the_better_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two averages, measured every second step: the better one counts, and 2 % above the best ends the training."""
    answers = iter((1.0, 2.0, 0.6, 0.5, 0.7, 0.509, 0.52, 0.53, 0.1, 0.1))
    monkeypatch.setattr("dpd_train.denoiser.validation_loss", lambda *given: next(answers))
    loaded = load_base(str(tiny_base(tmp_path)))
    training = DenoiserTraining(
        steps=10, batch=2, warmup=1, validate_every=2, stop_rise=0.02, precision="fp32", ema_lengths=(0.05, 0.1)
    )
    *_, history = train_denoiser(
        loaded.unet, loaded.text_encoder, latent_data(), latent_data(), loaded.schedule, training, tmp_path / "state"
    )
    assert [entry["validation_loss"] for entry in history] == [1.0, 0.5, 0.509, 0.52]
    assert [entry["ema_length"] for entry in history] == [0.05, 0.1, 0.1, 0.05]


def test_min_snr_weights_the_error_of_the_clean_latents() -> None:
    """min(SNR, γ)·|ẑ0 − z0|² in every parametrisation: |Δε|² = SNR·|Δz0|², |Δv|² = (SNR + 1)·|Δz0|²."""
    alpha = torch.tensor([0.1, 0.5, 0.9, 0.99])
    sigma = (1 - alpha.square()).sqrt()
    snr = (alpha / sigma).square()
    for kind, scale in (("epsilon", snr), ("v_prediction", snr + 1)):
        torch.testing.assert_close(min_snr_weight(alpha, sigma, kind, 5.0) * scale, snr.clamp(max=5.0))


def test_without_min_snr_every_error_has_the_weight_one() -> None:
    schedule = schedule_from_config(nano_scheduler().config)
    generator = torch.Generator().manual_seed(0)
    latents, noise, output = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    said = denoise(_Exact(output), latents, noise, torch.tensor([10, 990]), torch.zeros(2, 1, 1), schedule, None)
    torch.testing.assert_close(said.squared_error(), (output - said.target).square().mean(dim=(1, 2, 3)))


def test_a_learned_uncertainty_becomes_the_logarithm_of_the_mean_error() -> None:
    """The minimum of e^−u E[L] + u lies at u = ln E[L], for each noise level by itself."""
    uncertainty = Uncertainty()
    snr = torch.tensor([1e-4, 1.0, 1e4])
    assert uncertainty(snr).eq(0).all()
    means = torch.tensor([0.7, 0.2, 0.05])
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(uncertainty.parameters(), lr=1e-3)
    for _ in range(1500):
        level = torch.randint(3, (64,), generator=generator)
        losses = means[level] * (0.5 + torch.rand(64, generator=generator))  # mean 1
        found = uncertainty(snr[level])
        optimizer.zero_grad()
        (losses * (-found).exp() + found).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(uncertainty(snr), means.log(), atol=0.1, rtol=0)


def test_validation_beside_a_learned_uncertainty_is_a_geometric_mean(tmp_path: Path) -> None:
    """A hundredth of the error at one level is seen there as much as at another, so it cannot hide behind weights."""
    base, data = load_base(str(tiny_base(tmp_path))), latent_data()
    base.unet.conv_out.weight.data.zero_()  # v = 0 everywhere: the errors are those of the target
    base.unet.conv_out.bias.data.zero_()
    modules = torch.nn.ModuleDict({"unet": base.unet, "text_encoder": base.text_encoder})
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(data.latents.shape, generator=generator)
    timesteps = torch.linspace(0, 999, len(noise)).long()[torch.randperm(len(noise), generator=generator)]
    target = base.scheduler.get_velocity(data.latents, noise, timesteps)
    errors = target.square().mean(dim=(1, 2, 3))
    found = validation_loss(modules, data, base.schedule, None)
    assert found == pytest.approx(float(errors.log().mean().exp()), rel=1e-5)
    assert found < float(errors.mean())


class _Killed(Exception):
    pass


def _train(
    base: Path, state: Path, kill_at: int | None = None, adapters: bool = False, **changes: Any
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Weights and log after 6 steps with every loss there is; or nothing, stopped after some steps as a kill would."""
    loaded = load_base(str(base))
    training = DenoiserTraining(
        steps=6,
        batch=7,
        warmup=2,
        validate_every=3,
        checkpoint_seconds=0.0,
        precision="fp32",
        direction_weight=0.2,
        decoder_weight=0.5,
        decoder_from=0.3,
        consistency_weight=0.1,
    )
    unet, text_encoder = loaded.unet, loaded.text_encoder
    if adapters:
        unet, text_encoder = Adapted(add_adapters(unet, 2, seed=0)), Adapted(text_encoder.requires_grad_(False))

    def progress(step: int, _steps: int) -> None:
        if step == kill_at:
            raise _Killed

    trained, _, history = train_denoiser(
        unet,
        text_encoder,
        latent_data(),
        latent_data(),
        loaded.schedule,
        replace(training, **changes),
        state,
        progress,
        vae=loaded.vae,
        classifier=CLASSIFIER,
    )
    return {name: value.clone() for name, value in trained.state_dict().items()}, history


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="full", marks=pytest.mark.full),
        pytest.param({"adapters": True}, id="adapters"),
        pytest.param({"precision": "fp16", "micro_batch": 3}, id="fp16 in parts", marks=pytest.mark.full),
        pytest.param({"min_snr_gamma": None}, id="learned uncertainty", marks=pytest.mark.full),
    ],
)
def test_training_killed_at_any_step_ends_with_the_same_bits(tmp_path: Path, how: dict[str, Any]) -> None:
    base = tiny_base(tmp_path)
    whole, history = _train(base, tmp_path / "whole.safetensors", **how)
    for step in (1, 2, 3, 4, 5):
        with pytest.raises(_Killed):
            _train(base, tmp_path / "cut.safetensors", kill_at=step, **how)
        assert load_state(tmp_path / "cut.safetensors")[1]["step"] == step
    resumed, log = _train(base, tmp_path / "cut.safetensors", **how)
    assert log == history
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    other, _ = _train(base, tmp_path / "other.safetensors", seed=1, **how)
    assert not all(torch.equal(value, other[name]) for name, value in whole.items())


def test_a_state_with_other_weights_of_the_levels_is_refused(tmp_path: Path) -> None:
    """Its validation losses are others, so the training would end as if it memorised."""
    base = tiny_base(tmp_path)
    with pytest.raises(_Killed):
        _train(base, tmp_path / "cut.safetensors", kill_at=3)
    with pytest.raises(InputError, match="other weights of the noise levels, by another version; finish it"):
        _train(base, tmp_path / "cut.safetensors", min_snr_gamma=None)


def _furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((value - b[name]).abs().max()) for name, value in a.items())


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="full", marks=pytest.mark.full),
        pytest.param({"adapters": True}, id="adapters"),
        pytest.param({"min_snr_gamma": None}, id="learned uncertainty", marks=pytest.mark.full),
    ],
)
def test_a_batch_in_parts_is_the_same_batch(tmp_path: Path, how: dict[str, Any]) -> None:
    base = tiny_base(tmp_path)
    whole, log = _train(base, tmp_path / "whole.safetensors", **how)
    for most in (1, 3):
        cut, found = _train(base, tmp_path / f"{most}.safetensors", micro_batch=most, **how)
        assert _furthest(whole, cut) < 1e-5
        for one, other in zip(log, found, strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    for change in ({"decoder_weight": 0.4}, {"consistency_weight": 0.0}):  # what the tolerance would show
        other, _ = _train(base, tmp_path / "other.safetensors", **how, **change)
        (tmp_path / "other.safetensors").unlink()
        assert _furthest(whole, other) > 1e-5


@given(st.integers(1, 64), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 70)))
def test_shares_and_parts_hold_every_row_once(batch: int, size: int, most: int | None) -> None:
    shares = [Team(rank, size).share(batch) for rank in range(size)]
    cut = [parts(share, most) for share in shares if share]
    rows = [row for slices in cut for part in slices for row in range(batch)[part]]
    assert rows == list(range(batch))
    for slices in cut:
        lengths = [part.stop - part.start for part in slices]
        assert max(lengths) <= (most or batch)
        assert max(lengths) - min(lengths) <= 1


def test_half_precision_keeps_its_scale_in_the_state(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    weights, _ = _train(base, tmp_path / "half.safetensors", precision="fp16")
    full, _ = _train(base, tmp_path / "full.safetensors")
    scaler = load_state(tmp_path / "half.safetensors")[1]["scaler"]
    assert (
        scaler["scale"] * 2.0 ** (6 - scaler["_growth_tracker"]) <= 65536
    )  # steps that went well, halvings that did not
    assert load_state(tmp_path / "full.safetensors")[1]["scaler"] == {}
    assert 0 < _furthest(weights, full) < 5e-3


def test_constant_rate_stays_after_the_warm_up(tmp_path: Path) -> None:
    base, seen = tiny_base(tmp_path), dict[float, list[float]]()
    for decay_from in (0.5, 1.0):
        loaded, rates = load_base(str(base)), seen.setdefault(decay_from, [])
        training = DenoiserTraining(
            steps=8, batch=2, peak_rate=1e-3, warmup=2, decay_from=decay_from, validate_every=1, ema_lengths=(0.1,)
        )
        train_denoiser(
            loaded.unet,
            loaded.text_encoder,
            latent_data(),
            latent_data(),
            loaded.schedule,
            training,
            tmp_path / f"{decay_from}.safetensors",
            track=lambda step, figures, rates=rates: rates.append(figures["rate"]),
        )
    assert seen[1.0] == pytest.approx([5e-4] + [1e-3] * 7)
    assert seen[0.5] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_a_tracker_is_given_the_figures_of_the_log(tmp_path: Path) -> None:
    loaded, seen = load_base(str(tiny_base(tmp_path))), dict[int, dict[str, float]]()
    training = DenoiserTraining(steps=24, batch=2, validate_every=12, warmup=1)
    _, _, history = train_denoiser(
        loaded.unet,
        loaded.text_encoder,
        latent_data(),
        latent_data(),
        loaded.schedule,
        training,
        tmp_path / "state.safetensors",
        track=seen.__setitem__,
    )
    assert list(seen) == [10, 12, 20, 24]
    assert set(seen[10]) == {"loss", "rate"}
    for entry in history:
        assert {name: seen[int(entry["step"])][name] for name in ("loss", "validation_loss")} == {
            name: entry[name] for name in ("loss", "validation_loss")
        }


class _Bright(torch.nn.Module):
    """Class 1 where the first channel is positive in the mean."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        mean = 4 * latents[:, 0].mean(dim=(1, 2))
        return torch.stack([-mean, mean], dim=1)


CLASSIFIER = ConsistencyClassifier(_Bright(), torch.full((2,), 100.0))  # a margin that nothing reaches


def _channel_means(folder: Path, weight: float, dropout: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """ẑ0's first channel, mean for each class, after 30 steps on latents that know nothing of their class."""
    loaded = load_base(str(tiny_base(folder)))
    training = DenoiserTraining(
        steps=30,
        batch=8,
        warmup=1,
        peak_rate=3e-3,
        precision="fp32",
        consistency_weight=weight,
        prompt_dropout=dropout,
        ema_lengths=(0.05,),
    )
    data = latent_data()
    state = folder / "state.safetensors"
    unet, text_encoder, _ = train_denoiser(
        loaded.unet,
        loaded.text_encoder,
        data,
        data,
        loaded.schedule,
        training,
        state,
        classifier=CLASSIFIER,
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
    data = latent_data()
    rows, turned = torch.tensor([0, 1, 2, 3]), torch.tensor([False, True, False, True])
    everything = data.captions.draw(rows, data.labels, turned, 1.0, torch.Generator().manual_seed(0))
    assert (everything == data.captions.empty).all()
    table = CaptionTable(data.captions.template + 1000, data.captions.described, data.captions.empty)
    ids = table.draw(rows, data.labels, turned, 0.0, torch.Generator().manual_seed(0))
    for i in range(4):
        described = table.described[int(turned[i]), rows[i]]
        assert torch.equal(ids[i], described) or torch.equal(ids[i], table.template[data.labels[rows[i]]])
