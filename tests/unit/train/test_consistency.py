"""The classification-consistency loss against closed forms and finite differences in float64, for ε and v."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from dpd_runtime.solvers import add_noise, predicted_original
from dpd_train.bases import load_base
from dpd_train.denoiser import (
    CLEAR,
    FLOOR_IMAGES,
    NOISIEST,
    ConsistencyClassifier,
    DecodedTeacher,
    consistency_loss,
    margins,
    real_floors,
    with_noise,
)
from dpd_train.networks import ResNet, ResNetConfig
from tests.tiny import SIDE, tiny_base

ALPHAS = torch.tensor([0.99, 0.5, 0.02], dtype=torch.float64)  # ᾱ_t from almost clean to almost noise; one is clear
LABELS = torch.tensor([0, 2, 1])


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _classifier(channels: int = 4, seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    model = ResNet(ResNetConfig(num_classes=3, in_channels=channels, widths=(8, 12), blocks=(1, 1), stem_stride=1))
    model.train()(torch.randn(8, channels, 8, 8))  # batch norm gets statistics of its own
    return model


def _snr(alphas: torch.Tensor) -> torch.Tensor:
    return alphas / (1 - alphas)


class _Linear(torch.nn.Module):
    """Logits W · ẑ0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(_random(3, 4 * 4 * 4, seed=1), requires_grad=False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.flatten(1) @ self.weight.T


def _consistency(network: torch.nn.Module, floor: float = 100.0) -> ConsistencyClassifier:
    """A floor of 100 is above any margin here, so that every clear sample has a loss."""
    return ConsistencyClassifier(network, torch.full((3,), floor, dtype=next(network.parameters()).dtype))


def test_loss_and_gradient_of_a_linear_judge_are_the_closed_forms() -> None:
    """m_c − (w_c − w_best) · ẑ0 of the clear sample, and the difference of two rows of W; nothing of the others."""
    consistency, original = _consistency(_Linear()), _random(3, 4, 4, 4).requires_grad_()
    losses = consistency_loss(original, _snr(ALPHAS), LABELS, consistency)
    weight, logits = consistency.network.weight, consistency(original).detach()
    best = int(logits[0, 1:].argmax()) + 1
    assert losses[0].item() == pytest.approx(100 - (logits[0, 0] - logits[0, best]).item())
    (gradient,) = torch.autograd.grad(losses.sum(), original)
    torch.testing.assert_close(gradient[0].flatten(), weight[best] - weight[0])
    assert losses[1:].tolist() == [0, 0]
    assert gradient[1:].abs().max() == 0


def test_an_image_as_clear_as_real_ones_is_not_pushed() -> None:
    original, snr = _random(1, 4, 4, 4).requires_grad_(), torch.tensor([9.0], dtype=torch.float64)
    margin = margins(_Linear()(original), LABELS[:1]).item()
    short = consistency_loss(original, snr, LABELS[:1], _consistency(_Linear(), margin + 0.5))
    assert short.item() == pytest.approx(0.5)
    enough = consistency_loss(original, snr, LABELS[:1], _consistency(_Linear(), margin - 0.5))
    (gradient,) = torch.autograd.grad(enough.sum(), original)
    assert (enough.item(), gradient.abs().max()) == (0, 0)


def test_four_fifths_of_the_real_images_of_each_class_reach_its_floor() -> None:
    count = 3 * FLOOR_IMAGES
    latents, labels = _random(2 * count, 4, 4, 4, seed=3), torch.arange(2 * count) % 3
    floors = real_floors(_Linear(), latents, labels, 3)
    reached = margins(_Linear()(latents), labels)[:count] >= floors[labels[:count]]
    assert [reached[labels[:count] == label].sum().item() for label in range(3)] == [FLOOR_IMAGES * 4 // 5] * 3
    assert torch.equal(floors, real_floors(_Linear(), latents[:count], labels[:count], 3))  # the first ones are enough


def test_noise_is_as_strong_as_where_the_judge_is_asked() -> None:
    """z_t / √ᾱ_t = z + σ ε with σ = √(1/ᾱ_t − 1): 1 at ᾱ_t = CLEAR. Uniform strengths have a mean square of ⅓."""
    assert (1 / CLEAR - 1) ** 0.5 == NOISIEST
    clean = torch.zeros(4000, 4, 2, 2)
    noisy = with_noise(clean, torch.Generator().manual_seed(0))
    assert noisy.square().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert noisy.square().mean(dim=(1, 2, 3)).sqrt().quantile(0.02) < 0.05, "some are almost clean"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_gradient_equals_finite_differences_through_the_prediction(kind: Literal["epsilon", "v_prediction"]) -> None:
    """Network output → ẑ0 → frozen latent classifier → loss, in float64."""
    consistency = _consistency(_classifier().double())
    alphas = torch.tensor([0.99, 0.8, 0.55], dtype=torch.float64)
    clean, noise, output = (_random(3, 4, 8, 8, seed=seed) for seed in (1, 2, 3))
    alpha, sigma = (x.sqrt()[:, None, None, None] for x in (alphas, 1 - alphas))
    noisy = add_noise(clean, noise, alpha, sigma)  # type: ignore[arg-type]

    def loss(said: torch.Tensor) -> torch.Tensor:
        original = predicted_original(noisy, said, kind, alpha, sigma)  # type: ignore[arg-type]
        return consistency_loss(original, _snr(alphas), LABELS, consistency)

    (gradient,) = torch.autograd.grad(loss(output.requires_grad_()).sum(), output)
    output = output.detach()
    for seed in range(4):
        direction = _random(3, 4, 8, 8, seed=10 + seed)
        step = 1e-5
        measured = (loss(output + step * direction) - loss(output - step * direction)) / (2 * step)
        found = (gradient * direction).sum(dim=(1, 2, 3))
        torch.testing.assert_close(found, measured, rtol=1e-4, atol=1e-9)
        assert measured.abs().min() > 1e-6  # the control: there is something to compare


def test_nothing_but_the_latents_gets_a_gradient() -> None:
    classifier = _classifier()
    consistency = _consistency(classifier)
    before = {name: value.clone() for name, value in consistency.state_dict().items()}
    original = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    consistency_loss(original, _snr(ALPHAS).float(), LABELS, consistency).sum().backward()
    assert original.grad is not None
    assert original.grad.abs().max() > 0
    assert all(p.grad is None for p in (*consistency.parameters(), *classifier.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in consistency.state_dict().items())
    assert classifier.training  # the run's own classifier is left as it was
    with pytest.raises(ValueError, match="training mode"):
        consistency_loss(original, _snr(ALPHAS).float(), LABELS, consistency.train())


def test_a_judge_on_pixels_is_the_teacher_on_the_decoded_image(tmp_path: Path) -> None:
    vae = load_base(str(tiny_base(tmp_path))).vae
    teacher = _classifier(channels=3)
    consistency = _consistency(DecodedTeacher(teacher, vae))
    latents = torch.randn(2, 4, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = teacher.eval()(vae.decode(latents / 0.7).sample)  # the tiny base's scaling factor
    torch.testing.assert_close(consistency(latents), expected)
    losses = consistency_loss(latents, torch.full((2,), 3.0), torch.tensor([0, 1]), consistency)
    losses.sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0
    assert all(p.grad is None for p in consistency.parameters())
