"""The classification-consistency loss against closed forms and finite differences in float64, for ε and v."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from dpd_runtime.sampling.schedule import add_noise, predicted_original
from dpd_train.bases.base import load_base
from dpd_train.classifiers.network import ResNet, ResNetConfig
from dpd_train.diffusion.consistency import DecodedJudge, alphas_of, consistency_loss, latent_judge
from tests.tiny import SIDE, tiny_base

ALPHAS = torch.tensor([0.99, 0.5, 0.02], dtype=torch.float64)  # ᾱ_t from almost clean to almost noise
LABELS = torch.tensor([0, 2, 1])


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _classifier(channels: int = 4, seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    model = ResNet(ResNetConfig(num_classes=3, in_channels=channels, widths=(6, 8), blocks=(1, 1), stem_stride=1))
    model.train()(torch.randn(8, channels, 8, 8))  # batch norm gets statistics of its own
    return model


def _snr(alphas: torch.Tensor) -> torch.Tensor:
    return alphas / (1 - alphas)


class _Linear(torch.nn.Module):
    """Logits W · ẑ0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(_random(3, 4 * 4 * 4, seed=1), requires_grad=False)
        self.eval()

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.flatten(1) @ self.weight.T


def test_loss_and_gradient_of_a_linear_judge_are_the_closed_forms() -> None:
    """−ᾱ log softmax(Wẑ0)_c, and ᾱ Wᵀ(softmax(Wẑ0) − e_c)."""
    judge, original = _Linear(), _random(3, 4, 4, 4).requires_grad_()
    losses = consistency_loss(original, _snr(ALPHAS), LABELS, judge)
    chances = torch.softmax(judge(original), dim=1).detach()
    torch.testing.assert_close(losses, -ALPHAS * chances[torch.arange(3), LABELS].log())
    (gradient,) = torch.autograd.grad(losses.sum(), original)
    expected = ALPHAS[:, None] * (chances - torch.eye(3, dtype=torch.float64)[LABELS]) @ judge.weight
    torch.testing.assert_close(gradient.flatten(1), expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_gradient_equals_finite_differences_through_the_prediction(kind: Literal["epsilon", "v_prediction"]) -> None:
    """Network output → ẑ0 → frozen latent classifier → loss, in float64."""
    judge = latent_judge(_classifier()).double()
    clean, noise, output = (_random(3, 4, 8, 8, seed=seed) for seed in (1, 2, 3))
    alpha, sigma = (x.sqrt()[:, None, None, None] for x in (ALPHAS, 1 - ALPHAS))
    noisy = add_noise(clean, noise, alpha, sigma)  # type: ignore[arg-type]

    def loss(said: torch.Tensor) -> torch.Tensor:
        original = predicted_original(noisy, said, kind, alpha, sigma)  # type: ignore[arg-type]
        return consistency_loss(original, _snr(ALPHAS), LABELS, judge)

    (gradient,) = torch.autograd.grad(loss(output.requires_grad_()).sum(), output)
    output = output.detach()
    for seed in range(4):
        direction = _random(3, 4, 8, 8, seed=10 + seed)
        step = 1e-5
        measured = (loss(output + step * direction) - loss(output - step * direction)) / (2 * step)
        found = (gradient * direction).sum(dim=(1, 2, 3))
        torch.testing.assert_close(found, measured, rtol=1e-4, atol=1e-9)
        assert measured.abs().min() > 1e-6  # the control: there is something to compare


def test_weight_is_the_share_of_signal() -> None:
    torch.testing.assert_close(alphas_of(_snr(ALPHAS)), ALPHAS)
    original = _random(1, 4, 4, 4).expand(3, -1, -1, -1)
    losses = consistency_loss(original, _snr(ALPHAS), torch.tensor([1, 1, 1]), _Linear())
    torch.testing.assert_close(losses / losses[0], ALPHAS / ALPHAS[0])


def test_nothing_but_the_latents_gets_a_gradient() -> None:
    classifier = _classifier()
    judge = latent_judge(classifier)
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    original = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    consistency_loss(original, _snr(ALPHAS).float(), LABELS, judge).sum().backward()
    assert original.grad is not None
    assert original.grad.abs().max() > 0
    assert all(p.grad is None for p in (*judge.parameters(), *classifier.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in judge.state_dict().items())
    assert classifier.training  # the run's own classifier is left as it was
    with pytest.raises(ValueError, match="frozen"):
        consistency_loss(original, _snr(ALPHAS).float(), LABELS, classifier)


def test_decoded_judge_is_the_teacher_on_the_decoded_image(tmp_path: Path) -> None:
    vae = load_base(str(tiny_base(tmp_path))).vae
    teacher = _classifier(channels=3)
    judge = DecodedJudge(teacher, vae)
    latents = torch.randn(2, 4, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = teacher.eval()(vae.decode(latents / 0.7).sample)  # the tiny base's scaling factor
    torch.testing.assert_close(judge(latents), expected)
    losses = consistency_loss(latents, torch.ones(2), torch.tensor([0, 1]), judge)
    losses.sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0
    assert all(p.grad is None for p in judge.parameters())
