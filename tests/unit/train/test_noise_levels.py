"""Errors of ẑ0 on latents whose distribution is known: the Gaussian's error has a closed form there."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from dpd_runtime.solvers import Schedule
from dpd_train.bases import load_base
from dpd_train.tuning import LEVELS, class_gaussians, levels_of, noise_levels, original_errors, summary
from tests.tiny import tiny_base

SHAPE = (2, 4, 4)
VARIANCES, MEANS = (1.0, 0.25), (0.5, -1.5)
COSINE = Schedule(tuple(math.cos(math.pi / 2 * t / 1001) ** 2 for t in range(1, 1001)), "v_prediction")


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of two classes whose numbers are independent: N(m, v), so that symmetries change nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(2).repeat_interleave(count)
    mean, variance = (torch.tensor(values)[labels][:, None, None, None] for values in (MEANS, VARIANCES))
    return mean + variance.sqrt() * torch.randn((2 * count, *SHAPE), generator=generator), labels


def posterior_variance(timestep: int, variance: float) -> float:
    """Var(z0 | z_t) = v σ² / (α² v + σ²) of a number with variance v."""
    alpha, sigma = COSINE.alpha_sigma(timestep)
    return variance * sigma**2 / (alpha**2 * variance + sigma**2)


def test_the_gaussian_has_the_error_of_the_closed_form() -> None:
    fitted = class_gaussians(*drawn(4000, seed=0), classes=2)
    latents, labels = drawn(2000, seed=2)
    timesteps = levels_of(COSINE)
    errors = original_errors(fitted.predict(labels, COSINE), latents, COSINE, timesteps)
    assert errors.shape == (len(LEVELS), 4000)
    for row, timestep in zip(errors, timesteps, strict=True):
        for label, variance in enumerate(VARIANCES):
            assert row[labels == label].mean() == pytest.approx(posterior_variance(timestep, variance), rel=0.02)


def test_the_mean_has_the_variance_as_its_error_at_every_level() -> None:
    fitted = class_gaussians(*drawn(4000, seed=0), classes=2)
    latents, labels = drawn(2000, seed=2)
    errors = original_errors(fitted.predict_mean(labels), latents, COSINE, (500, 999))
    for label, variance in enumerate(VARIANCES):
        own = errors[:, labels == label].mean(dim=1)
        torch.testing.assert_close(own, torch.full((2,), variance), rtol=0.02, atol=0)
    assert summary(errors, (500, 999)).keys() == {"500", "999"}
    assert summary(errors, (500, 999))["999"] == pytest.approx(float(errors[1].mean()), abs=1e-5)


def test_covariances_between_places_are_used() -> None:
    """Of constant latents, the Gaussian knows that all numbers are one, and averages the noise away."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((500, 1, 1, 1), generator=generator).expand(-1, *SHAPE).contiguous()
    labels = torch.zeros(500, dtype=torch.int64)
    fitted = class_gaussians(latents, labels, classes=1)
    alpha, sigma = COSINE.alpha_sigma(700)
    numbers = math.prod(SHAPE)
    expected = sigma**2 / (alpha**2 * numbers + sigma**2)  # as of one number, seen through a noise of σ² / numbers
    found = original_errors(fitted.predict(labels, COSINE), latents, COSINE, (700,)).mean()
    assert found == pytest.approx(expected, rel=0.15)


def test_symmetries_of_a_latent_belong_to_its_class() -> None:
    """A class of one latent has the covariance of its eight views, so its mean looks the same in all of them."""
    one = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(0))
    mean = class_gaussians(one, torch.zeros(1, dtype=torch.int64), classes=1).means[0].view(SHAPE)
    torch.testing.assert_close(mean, mean.flip(-1))
    torch.testing.assert_close(mean, mean.transpose(-1, -2))


def test_predictions_are_compared_on_the_same_noise() -> None:
    latents, _ = drawn(150, seed=0)
    seen: list[torch.Tensor] = []

    def keep(noisy: torch.Tensor, timestep: int, rows: torch.Tensor) -> torch.Tensor:
        seen.append(noisy)
        return latents[rows]

    for _ in range(2):
        assert original_errors(keep, latents, COSINE, (800,)).eq(0).all()
    half = len(seen) // 2
    assert torch.equal(torch.cat(seen[:half]), torch.cat(seen[half:]))


def test_a_base_stands_beside_its_classes_gaussians(tmp_path: Path) -> None:
    """The error of a base is that of its pipeline's own UNet, prompt and scheduler, computed by diffusers."""
    folder = tiny_base(tmp_path)
    base, pipeline = load_base(str(folder)), StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    torch.manual_seed(5)
    latents = torch.randn(6, base.vae.config.latent_channels, 8, 8)
    labels, classes = torch.tensor([0, 0, 0, 1, 1, 1]), ("Forest", "River")
    found = noise_levels(base, (latents, labels), (latents, labels), classes, torch.device("cpu"))
    assert found.keys() == {"denoiser", "class Gaussian", "class mean"}
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    prompts, _ = pipeline.encode_prompt([f"a satellite image of {classes[i].lower()}" for i in labels], "cpu", 1, False)
    with torch.no_grad():
        noisy = pipeline.scheduler.add_noise(latents, noise, torch.full((6,), 600))
        output = pipeline.unet(noisy, 600, prompts).sample
    pipeline.scheduler.set_timesteps(10)
    original = pipeline.scheduler.step(output, 600, noisy).pred_original_sample
    assert found["denoiser"]["600"] == pytest.approx(float((original - latents).square().mean()), rel=1e-3)


def test_a_large_base_is_measured_on_few_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, labels = load_base(str(tiny_base(tmp_path))), torch.arange(2).repeat(30)
    latents = torch.randn((60, base.vae.config.latent_channels, 8, 8), generator=torch.Generator().manual_seed(0))
    calls: list[int] = []
    base.unet.register_forward_hook(lambda _, inputs, output: calls.append(len(inputs[0])))
    for limit, count in ((100_000_000, 60), (1, 20)):
        monkeypatch.setattr("dpd_train.bases.LARGE", limit)
        calls.clear()
        noise_levels(base, (latents, labels), (latents, labels), ("Forest", "River"), torch.device("cpu"))
        assert sum(calls) == len(LEVELS) * count


def test_levels_follow_the_length_of_the_schedule() -> None:
    short = Schedule(COSINE.alphas_cumprod[::10], "v_prediction")
    assert levels_of(COSINE) == LEVELS
    assert levels_of(short)[-1] == 99
    assert levels_of(short)[0] == 50
