"""Training the nano VAE: a joint part, then the decoder alone on frozen latents.

The denoiser can start as soon as the encoder is frozen, so that both trainings run side by side.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from dpd_train.checkpoint import (
    load_state,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    save_state,
    step_generator,
    without_prefix,
)
from dpd_train.classifiers import ResNet, learning_rate, set_learning_rate
from dpd_train.images import to_float
from dpd_train.precision import norms_in_float32
from dpd_train.symmetry import ORDER, d4

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    """Weights of the reconstruction loss and the length of one part of the training."""

    steps: int
    batch: int = 24
    peak_rate: float = 8e-4
    gradient_weight: float = 0.5  # L1 of finite differences: edges, roads
    perceptual_weight: float = 0.5
    adversarial_weight: float = 0.0
    adversarial_start: int = 500
    kl_weight: float = 3e-4  # mean over latent elements
    scale_probability: float = 0.2  # decode half-size latents against half-size images (2502.14831)
    latent_noise: float = 0.0  # standard deviation, in units of the latents' own
    seed: int = 0
    checkpoint_seconds: float = 180.0
    bfloat16: bool = True


def image_gradients(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finite differences of [B, C, H, W] along both axes."""
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


def gradient_loss(reconstructed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    pairs = zip(image_gradients(reconstructed), image_gradients(images), strict=True)
    return torch.stack([F.l1_loss(a, b) for a, b in pairs]).sum()


def perceptual_loss(
    networks: Sequence[ResNet], reconstructed: torch.Tensor, images: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Squared distance of channel-normalised feature maps (LPIPS, Zhang et al. 2018) under one random network."""
    network = networks[int(torch.randint(len(networks), (1,), generator=generator))]
    with torch.no_grad():
        targets = network.features(images)
    distances = [
        (F.normalize(a, dim=1, eps=1e-3) - F.normalize(b, dim=1, eps=1e-3)).square().sum(1).mean()
        for a, b in zip(network.features(reconstructed), targets, strict=True)
    ]
    return torch.stack(distances).mean()


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches; spectral norm bounds its slope (Miyato et al. 2018)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            norm(nn.Conv2d(3, width, 3, 1, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width, width * 2, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width * 2, width * 4, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width * 4, 1, 3, 1, 1)),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(images)
        return scores


def high_frequency_ratio(reconstructed: torch.Tensor, images: torch.Tensor) -> float:
    """Energy of the finite differences, reconstruction ÷ original: below 1 means blur."""
    energy = [sum(float(g.square().mean()) for g in image_gradients(x)) for x in (reconstructed, images)]
    return energy[0] / energy[1]


@torch.no_grad()
def reconstruction_metrics(vae: AutoencoderKL, images: torch.Tensor, batch: int = 50) -> dict[str, float]:
    """PSNR in dB (of images in [-1, 1]), high-frequency ratio, and mean/std of the posterior means."""
    means, outputs = [], []
    for i in range(0, len(images), batch):
        mean = vae.encode(images[i : i + batch]).latent_dist.mode()
        means.append(mean)
        outputs.append(vae.decode(mean).sample.clamp(-1, 1))
    latents, reconstructed = torch.cat(means), torch.cat(outputs)
    mse = (reconstructed - images).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return {
        "psnr": float((10 * torch.log10(4 / mse)).mean()),
        "high_frequency_ratio": high_frequency_ratio(reconstructed, images),
        "latent_mean": float(latents.mean()),
        "latent_std": float(latents.std()),
    }


def train_autoencoder(
    vae: AutoencoderKL,
    images: torch.Tensor,
    validation: torch.Tensor,
    training: AutoencoderTraining,
    state: Path,
    perceptual: Sequence[ResNet] = (),
    decoder_only: bool = False,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> AutoencoderKL:
    """Train `vae` on `images` [n, H, W, 3] uint8; the run resumes from `state` where that file exists.

    Latents become nearly D4-equivariant: each batch is encoded, transformed in latent space, decoded and compared with
    the transformed images (EQ-VAE, 2502.09509). With `decoder_only` the encoder and quant_conv stay as they are.

    Args:
        perceptual: networks of the perceptual loss, one of them drawn in each step; none leaves that loss out.
    """
    if decoder_only:
        trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    else:
        trained = list(vae.parameters())
    vae = vae.to(memory_format=torch.channels_last)
    torch.manual_seed(training.seed)
    discriminator = PatchDiscriminator().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=0.01)
    critic_optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.99), weight_decay=0.0)
    start = 0
    if state.exists():
        tensors, meta = load_state(state)
        vae.load_state_dict(without_prefix("vae", tensors))
        discriminator.load_state_dict(without_prefix("discriminator", tensors))
        restore_optimizer(optimizer, without_prefix("optimizer", tensors))
        restore_optimizer(critic_optimizer, without_prefix("critic_optimizer", tensors))
        start = meta["step"]
        log.info("resumed at step %d", start)

    def save(step: int) -> None:
        tensors = prefixed("vae", vae.state_dict()) | prefixed("discriminator", discriminator.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(optimizer))
        tensors |= prefixed("critic_optimizer", optimizer_tensors(critic_optimizer))
        save_state(state, tensors, {"step": step})

    hooks = norms_in_float32(vae)
    saved_at = time.monotonic()
    for step in range(start, training.steps):
        generator = step_generator(training.seed, step)
        rows = torch.randint(len(images), (training.batch,), generator=generator)
        batch = d4(to_float(images[rows]), int(torch.randint(ORDER, (1,), generator=generator)))
        batch = batch.contiguous(memory_format=torch.channels_last)
        element = int(torch.randint(ORDER, (1,), generator=generator))
        halved = float(torch.rand(1, generator=generator)) < training.scale_probability
        set_learning_rate(optimizer, learning_rate(step, training.steps, training.peak_rate))
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            with torch.set_grad_enabled(not decoder_only):
                posterior = vae.encode(batch).latent_dist
            latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
            if training.latent_noise:
                spread = training.latent_noise * float(torch.rand(1, generator=generator)) * latents.std().detach()
                latents = latents + spread * torch.randn(latents.shape, generator=generator)
            targets = d4(batch, element)
            latents = d4(latents, element)
            if halved:
                latents, targets = F.avg_pool2d(latents, 2), F.avg_pool2d(targets, 2)
            reconstructed = vae.decode(latents).sample
        reconstructed = reconstructed.float()
        parts = {
            "l1": F.l1_loss(reconstructed, targets),
            "gradient": training.gradient_weight * gradient_loss(reconstructed, targets),
        }
        if not decoder_only:
            parts["kl"] = training.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            if perceptual:
                loss = perceptual_loss(perceptual, reconstructed, targets, generator)
                parts["perceptual"] = training.perceptual_weight * loss
            adversarial = training.adversarial_weight > 0 and step >= training.adversarial_start and not halved
            if adversarial:
                discriminator.requires_grad_(False)
                parts["adversarial"] = -training.adversarial_weight * discriminator(reconstructed).float().mean()
        total = torch.stack([part.float() for part in parts.values()]).sum()
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if training.adversarial_weight > 0 and not halved and step >= training.adversarial_start - 200:
            discriminator.requires_grad_(True)
            with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
                real, fake = discriminator(targets).float(), discriminator(reconstructed.detach()).float()
            critic_loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()  # hinge
            critic_optimizer.zero_grad()
            critic_loss.backward()  # type: ignore[no-untyped-call]
            critic_optimizer.step()
            parts["critic"] = critic_loss
        if (step + 1) % 25 == 0:
            log.info("step %d %s", step + 1, " ".join(f"{k} {float(v.detach()):.4f}" for k, v in parts.items()))
        if time.monotonic() - saved_at > training.checkpoint_seconds or step + 1 == training.steps:
            vae.eval()
            log.info("step %d validation %s", step + 1, reconstruction_metrics(vae, to_float(validation[:200])))
            vae.train()
            save(step + 1)
            saved_at = time.monotonic()
        progress(step + 1, training.steps)
    for hook in hooks:
        hook.remove()
    return vae.eval()
