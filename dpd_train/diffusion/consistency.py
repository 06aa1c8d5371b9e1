"""Classification consistency: a trained classifier judges the predicted clean latents ẑ0 (METHOD §1.1).

L = … + λ · ᾱ_t · CE(f(ẑ0), c). With z_t fixed, ∂ẑ0/∂v̂ = −√(1−ᾱ_t) and ∂ẑ0/∂ε̂ = −√(1−ᾱ_t)/√ᾱ_t. The weight ᾱ_t keeps the
gradient finite for ε-prediction too, and makes it small at high noise, where ẑ0 is a guess.
"""

import copy

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from dpd_train.classifiers.network import ResNet


def alphas_of(snr: torch.Tensor) -> torch.Tensor:
    """ᾱ_t from SNR = ᾱ_t / (1 − ᾱ_t)."""
    return snr / (1 + snr)


def consistency_loss(original: torch.Tensor, snr: torch.Tensor, labels: torch.Tensor, judge: nn.Module) -> torch.Tensor:
    """ᾱ_t · CE(judge(ẑ0), c) of each sample [B], with a gradient for `original` only.

    Args:
        original: ẑ0 [B, C, h, w], scaled latents. snr: [B]. labels: [B] int64.
        judge: latents → logits, frozen and in evaluation mode: see `latent_judge` and `DecodedJudge`.

    Raises:
        ValueError: the judge is not frozen, or not in evaluation mode, where batch norm would mix the samples.
    """
    if judge.training or any(p.requires_grad for p in judge.parameters()):
        raise ValueError("the judge must be frozen and in evaluation mode: make it with latent_judge or DecodedJudge")
    losses = F.cross_entropy(judge(original), labels, reduction="none")
    return alphas_of(snr) * losses


def latent_judge(classifier: ResNet) -> ResNet:
    """A frozen copy of the run's latent classifier."""
    return copy.deepcopy(classifier).eval().requires_grad_(False)


class DecodedJudge(nn.Module):
    """The teacher on decoded ẑ0: scaled latents [B, C, h, w] → logits. Each call costs a pass of the VAE's decoder.

    Decoded values are not clamped to [-1, 1], because a clamp has no gradient where it acts.
    """

    def __init__(self, teacher: ResNet, vae: AutoencoderKL) -> None:
        super().__init__()
        self.teacher, self.vae = copy.deepcopy(teacher), copy.deepcopy(vae)
        self.scale = 1 / float(vae.config.scaling_factor)
        self.eval().requires_grad_(False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.teacher(self.vae.decode(self.scale * latents).sample)
        return logits
