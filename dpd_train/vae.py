"""The VAE: its training, tuning of the decoder, other bands, perceptual networks."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from dpd_runtime.annotations import Progress
from dpd_train.bases import Base
from dpd_train.classifiers import ClassifierTraining, Labelled, load_pool, train_pool
from dpd_train.compute import NEVER, Deadline, adamw, autocast, draw_rows, norms_in_float32, to_device
from dpd_train.config import TrainConfig
from dpd_train.loop import Task, train, trapezium
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.published import PublishedModel
from dpd_train.scene_set import to_float
from dpd_train.symmetry import ORDER, appearance, d4

# -- Training of the nano VAE: first encoder and decoder together, then the decoder alone on frozen latents.
#
# The denoiser can be trained as soon as the encoder is frozen, at the same time as the decoder.


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    """Weights of the reconstruction loss and the length of one part of the training."""

    steps: int
    batch: int = 24
    peak_rate: float = 8e-4
    l1_weight: float = 1.0
    coarse_weight: float = 0.0  # L1 after averaging over the squares of coarse_sides: colour, layout, lines
    coarse_sides: tuple[int, ...] = (4,)
    chroma_weight: float = 0.0  # the same of the colour differences alone, small in RGB, which tell classes apart
    gradient_weight: float = 0.5  # L1 of finite differences: edges, roads
    spectral_weight: float = 0.0  # amplitudes of small windows: texture, whatever its phase
    perceptual_weight: float = 0.5
    statistics_weight: float = 0.0  # window means and deviations of the perceptual networks' features
    statistics_maps: int | None = None  # how many of their maps, the finest first, have windows to compare; None: all
    appearance_weight: float = 0.0  # L1 of appearances: fine details have the image's contrasts and colours
    contrast_floor: float = 0.0  # above 0, pixel losses count in units of each image's own contrast plus this floor
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


def spectral_loss(reconstructed: torch.Tensor, images: torch.Tensor, window: int = 16) -> torch.Tensor:
    """L1 between Fourier amplitudes of non-overlapping windows: blur costs, a shifted texture does not."""
    amplitudes = []
    for x in (reconstructed, images):
        b, c, h, w = x.shape  # what is left over at the lower and right edge does not count
        side = min(window, h, w)
        x = x[..., : h // side * side, : w // side * side]
        tiles = x.reshape(b, c, h // side, side, w // side, side).transpose(3, 4)
        amplitudes.append(torch.fft.rfft2(tiles, norm="ortho").abs())
    return F.l1_loss(*amplitudes)


def chroma_loss(reconstructed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 of the differences of neighbouring bands of [B, N, H, W], N > 1, after 4×4 averaging."""
    return F.avg_pool2d(reconstructed - images, 4).diff(dim=1).abs().mean()


def perceptual_loss(reconstructed: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Squared distance of channel-normalised feature maps [B, C, h, w] (LPIPS, Zhang et al. 2018)."""
    distances = [
        (F.normalize(a, dim=1, eps=1e-3) - F.normalize(b, dim=1, eps=1e-3)).square().sum(1).mean()
        for a, b in zip(reconstructed, targets, strict=True)
    ]
    return torch.stack(distances).mean()


def _window_statistics(features: torch.Tensor, windows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [B, C, windows, windows] of square windows of a feature map [B, C, h, w]."""
    side = max(1, features.shape[-1] // windows)
    mean = F.avg_pool2d(features, side)
    return mean, (F.avg_pool2d(features.square(), side) - mean.square()).clamp_min(1e-6).sqrt()


def statistics_loss(
    reconstructed: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], windows: int = 4
) -> torch.Tensor:
    """L1 between window means and deviations of feature maps, in units of each channel's deviation in the batch.

    It compares textures wherever their details lie, as an adversarial loss does, but without an adversary.
    """
    losses = []
    for a, b in zip(reconstructed, targets, strict=True):
        unit = b.std(dim=(0, 2, 3), keepdim=True) + 1e-3
        pairs = zip(_window_statistics(a, windows), _window_statistics(b, windows), strict=True)
        losses += [((x - y) / unit).abs().mean() for x, y in pairs]
    return 2 * torch.stack(losses).mean()


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


def contrast_weights(images: torch.Tensor, floor: float) -> torch.Tensor:
    """[B, 1, 1, 1] with mean 1: one over the standard deviation of each image plus `floor`.

    Water and woods have a tenth of a town's contrast. Without this weight their texture, which tells them apart from
    fields, hardly enters an L1 loss.
    """
    weights = 1 / (images.std(dim=(1, 2, 3), keepdim=True) + floor)
    return weights / weights.mean()


def _pixel_losses(
    training: AutoencoderTraining, reconstructed: torch.Tensor, targets: torch.Tensor
) -> dict[str, torch.Tensor]:
    if training.contrast_floor:
        weights = contrast_weights(targets, training.contrast_floor)
        reconstructed, targets = weights * reconstructed, weights * targets  # every loss here is homogeneous
    parts = {
        "l1": training.l1_weight * F.l1_loss(reconstructed, targets),
        "gradient": training.gradient_weight * gradient_loss(reconstructed, targets),
    }
    if training.coarse_weight:
        error = reconstructed - targets
        coarse = torch.stack([F.avg_pool2d(error, side).abs().mean() for side in training.coarse_sides]).mean()
        parts["coarse"] = training.coarse_weight * coarse
    if training.chroma_weight:
        parts["chroma"] = training.chroma_weight * chroma_loss(reconstructed, targets)
    if training.spectral_weight:
        parts["spectral"] = training.spectral_weight * spectral_loss(reconstructed, targets)
    return parts


def train_autoencoder(
    vae: AutoencoderKL,
    images: torch.Tensor,
    validation: torch.Tensor,
    training: AutoencoderTraining,
    state: Path,
    perceptual: Sequence[ResNet] | PublishedModel = (),
    decoder_only: bool = False,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    weights: torch.Tensor | None = None,
    about: Mapping[str, Any] | None = None,
) -> AutoencoderKL:
    """Train `vae` on `images` [n, H, W, N] uint8, and resume from `state` if that file exists.

    Latents become nearly D4-equivariant: each batch is encoded, transformed in latent space, decoded and compared with
    the transformed images (EQ-VAE, 2502.09509). With `decoder_only` the encoder and quant_conv stay as they are.

    Args:
        perceptual: networks of the perceptual loss; each step uses a random one. Without any there is no such loss. A
            published model, which is on `device`, looks at crops.
        weights: of the images, see `draw_rows`. about: what else the state says, in values of JSON.

    Returns:
        `vae`, on the CPU.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    device, trained = torch.device(device), list(vae.parameters())
    if decoder_only:
        trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    vae = vae.to(device).to(memory_format=torch.channels_last)
    look = _look(perceptual, device)
    images, held = images.to(device), to_float(validation[:: max(1, len(validation) // 200)]).to(device)
    parts = dict[str, torch.Tensor]()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        parts.clear()
        parts.update(_losses(vae, look, images, weights, training, decoder_only, generator))
        return torch.stack([part.float() for part in parts.values()]).sum()

    def after(done: int) -> None:
        if done % 25 == 0:
            log.info("step %d %s", done, " ".join(f"{k} {float(v.detach()):.4f}" for k, v in parts.items()))

    def saved(done: int) -> None:
        vae.eval()
        log.info("step %d validation %s", done, reconstruction_metrics(vae, held))
        vae.train()

    task = Task(
        modules={"vae": vae},
        trained=trained,
        optimizer=adamw(trained, device, betas=(0.9, 0.99), weight_decay=0.01),
        rate=trapezium(training.steps, training.peak_rate),
        loss=loss,
        after=after,
        kept=lambda done: ({}, {"steps": training.steps, **(about or {})}),
        saved=saved,
    )
    hooks, seconds = norms_in_float32(vae), training.checkpoint_seconds
    try:
        train(
            task,
            training.steps,
            training.seed,
            progress,
            state=state,
            seconds=seconds,
            deadline=deadline,
        )
    finally:
        for hook in hooks:
            hook.remove()
    return vae.cpu().eval()


Look = Callable[[torch.Size, torch.Generator], Callable[[torch.Tensor], Sequence[torch.Tensor]]]
"""Draws how images of one shape are looked at in one step: images [n, 3, H, W] → maps [n, C, h, w]."""


def _look(perceptual: Sequence[ResNet] | PublishedModel, device: torch.device) -> Look | None:
    if isinstance(perceptual, PublishedModel):
        return perceptual.crops
    networks = [copy.deepcopy(network).to(device) for network in perceptual]
    if not networks:
        return None
    return lambda _, generator: networks[int(torch.randint(len(networks), (1,), generator=generator))].features


def _losses(
    vae: AutoencoderKL,
    look: Look | None,
    images: torch.Tensor,
    weights: torch.Tensor | None,
    training: AutoencoderTraining,
    decoder_only: bool,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """The parts of the loss of a random batch. images: all of them, uint8, on the device."""
    device = images.device
    rows = to_device(draw_rows(len(images), training.batch, weights, generator), device)
    batch = d4(to_float(images[rows]), int(torch.randint(ORDER, (1,), generator=generator)))
    batch = batch.contiguous(memory_format=torch.channels_last)
    element = int(torch.randint(ORDER, (1,), generator=generator))
    halved = float(torch.rand(1, generator=generator)) < training.scale_probability
    with autocast(device, enabled=training.bfloat16):
        with torch.set_grad_enabled(not decoder_only):
            posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        latents = posterior.mean + posterior.std * to_device(noise, device)
        if training.latent_noise:
            spread = training.latent_noise * float(torch.rand(1, generator=generator)) * latents.std().detach()
            noise = torch.randn(latents.shape, generator=generator)
            latents = latents + spread * to_device(noise, device)
        targets = d4(batch, element)
        latents = d4(latents, element)
        if halved:
            latents, targets = F.avg_pool2d(latents, 2), F.avg_pool2d(targets, 2)
        reconstructed = vae.decode(latents).sample
    reconstructed = reconstructed.float()
    parts = _pixel_losses(training, reconstructed, targets)
    if training.appearance_weight:  # of the images themselves, not in units of their contrast
        error = F.l1_loss(appearance(reconstructed), appearance(targets))
        parts["appearance"] = training.appearance_weight * error
    if not decoder_only:
        parts["kl"] = training.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
    if look is not None:
        see = look(targets.shape, generator)
        with autocast(device, enabled=training.bfloat16):
            with torch.no_grad():
                wanted = [features.float() for features in see(targets)]
            maps = [features.float() for features in see(reconstructed)]
        parts["perceptual"] = training.perceptual_weight * perceptual_loss(maps, wanted)
        if training.statistics_weight:
            fine = slice(training.statistics_maps)
            parts["statistics"] = training.statistics_weight * statistics_loss(maps[fine], wanted[fine])
    return parts


# -- Settings of the training of a VAE's decoder: those of the nano base.


DECODER = AutoencoderTraining(
    steps=3000,
    batch=12,
    peak_rate=4e-4,
    l1_weight=0.25,
    coarse_weight=6.0,
    chroma_weight=4.0,
    gradient_weight=0.0,
    spectral_weight=4.0,
    perceptual_weight=1.0,
    statistics_weight=1.5,
    contrast_floor=0.04,
    kl_weight=0.0,
    scale_probability=0.0,
    latent_noise=0.05,
    seed=1,
)
"""The settings of a decoder beside networks that are trained on the same images."""
PUBLISHED_DECODER = replace(
    DECODER, steps=9000, batch=8, peak_rate=5e-4, spectral_weight=0.0, statistics_weight=0.3, statistics_maps=3
)
"""Beside a published network. It sees fine details itself, so that spectra are not compared; its coarse maps have too
few places for windows (recipes/published_networks, pilot d)."""


def decoder_training(config: TrainConfig, *, published: bool) -> AutoencoderTraining:
    """The settings of `--tune-vae`: those of a base's decoder with a lower learning rate.

    published: whether a published network compares the images.
    """
    usual = PUBLISHED_DECODER if published else DECODER
    return replace(usual, steps=config.vae_steps, peak_rate=2e-4, seed=config.seed + 1)


# -- The VAE for images of any bands: the base's own, with a first and a last convolution for them, trained on the
# images.
#
# Its latents are new ones, which the base's denoiser does not know: from such a VAE only stored codes can be decoded.


def bands_training(config: TrainConfig) -> AutoencoderTraining:
    """The settings of a run and of `dpd pretrain --bands`: nearly L1 alone, as a site wants physical values back.

    Spectral and perceptual losses, as of the VAE of RGB, gained nothing (docs/guides/bands.md) and need networks first.
    """
    return AutoencoderTraining(
        steps=config.vae_steps,
        batch=12,
        peak_rate=8e-4,
        gradient_weight=0.1,
        perceptual_weight=0.0,
        scale_probability=0.0,
        seed=config.seed + 1,
    )


@torch.no_grad()
def with_bands(base: Base, count: int) -> Base:
    """The base with a VAE for images of `count` bands: its own, if it has so many (`dpd pretrain --bands`).

    Else one that is not trained yet: each band is seen and made like grey.
    """
    if int(base.vae.config.in_channels) == count:
        return base
    vae = copy.deepcopy(base.vae)
    first, last = vae.encoder.conv_in, vae.decoder.conv_out
    grey_in, grey_out = first.weight.sum(1, keepdim=True) / count, last.weight.mean(0, keepdim=True)
    vae.encoder.conv_in = _shaped_like(first, count, first.out_channels, grey_in.expand(-1, count, -1, -1), first.bias)
    bias = last.bias.mean().expand(count)
    vae.decoder.conv_out = _shaped_like(last, last.in_channels, count, grey_out.expand(count, -1, -1, -1), bias)
    vae.register_to_config(in_channels=count, out_channels=count)
    return replace(base, vae=vae)


def _shaped_like(conv: nn.Conv2d, inputs: int, outputs: int, weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, conv.kernel_size, conv.stride, conv.padding)  # type: ignore[arg-type]
    made.weight.copy_(weight)
    made.bias.copy_(bias)  # type: ignore[union-attr]
    return made.train(conv.training)


# -- Networks of the VAE's perceptual loss, trained on the same images for this purpose and never shipped.


PERCEPTUAL_SEED = 100  # teacher and latent classifier use other seeds: no network rates what it helped to train
NAME = "perceptual"


def perceptual_shapes(classes: int) -> tuple[ResNetConfig, ...]:
    """Three different shapes, so that a decoder cannot please one network by artefacts."""
    return (
        ResNetConfig(num_classes=classes, widths=(24, 48, 96), blocks=(1, 1, 1), stem_stride=1),
        ResNetConfig(num_classes=classes, widths=(32, 64, 96), blocks=(1, 1, 1), stem_stride=2),
        ResNetConfig(num_classes=classes, widths=(24, 48, 64, 96), blocks=(1, 1, 1, 1), stem_stride=2),
    )


def perceptual_training(steps: int) -> ClassifierTraining:
    """Settings with jittered colours, as the VAE has its own losses for colour."""
    return ClassifierTraining(steps=steps, colour_gain=0.03, seed=PERCEPTUAL_SEED)


def load_perceptual_networks(folder: Path, classes: int) -> list[ResNet]:
    """Read what `train_perceptual_networks` wrote to `folder`, frozen."""
    return load_pool(folder, NAME, perceptual_shapes(classes))


def train_perceptual_networks(
    folder: Path,
    data: Labelled,
    validation: Labelled,
    classes: int,
    training: ClassifierTraining,
    progress: Progress,
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    weights: torch.Tensor | None = None,
) -> None:
    """Train the networks as `train_pool` does, each with its own seed."""
    shapes = enumerate(perceptual_shapes(classes))
    plans = [(shape, replace(training, seed=training.seed + i)) for i, shape in shapes]
    accuracies = train_pool(
        folder, NAME, plans, data, validation, progress, device=device, deadline=deadline, weights=weights
    )
    if accuracies:
        log.info(
            "perceptual networks name %s of the validation images right", ", ".join(f"{a:.1%}" for a in accuracies)
        )
