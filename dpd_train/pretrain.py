"""`dpd pretrain`: a nano base from scratch. Each stage resumes from its own state file and can run alone, so that the
denoiser trains beside the decoder once the encoder is frozen.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from dpd_train.attributes import VOCABULARY, describe_many
from dpd_train.autoencoder import AutoencoderTraining, reconstruction_metrics, train_autoencoder
from dpd_train.base import Base, save_base
from dpd_train.captions import CaptionTable, caption_table
from dpd_train.checkpoint import load_state, without_prefix
from dpd_train.classifiers import ResNet, ResNetConfig
from dpd_train.denoiser import DenoiserTraining, LatentData, train_denoiser
from dpd_train.images import SceneSet, fingerprint, read_scenes, to_float
from dpd_train.latents import encode_cached
from dpd_train.nano import nano_scheduler, nano_text_encoder, nano_unet, nano_vae
from dpd_train.tokenizer import build_tokenizer
from dpd_train.train_classifier import ClassifierTraining, train_classifier

log = logging.getLogger(__name__)
Stage = Literal["perceptual", "autoencoder", "decoder", "denoiser", "save"]
STAGES: tuple[Stage, ...] = ("perceptual", "autoencoder", "decoder", "denoiser", "save")
Progress = Callable[[int, int], None]

PERCEPTUAL_SEED = 100  # the judges' and the teacher's seeds are others: no network rates what it helped to make


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides a base but the data."""

    resolution: int = 64
    val_per_class: int | None = None
    seed: int = 0
    perceptual: ClassifierTraining = field(
        default_factory=lambda: ClassifierTraining(steps=600, colour_gain=0.1, seed=PERCEPTUAL_SEED)
    )
    autoencoder: AutoencoderTraining = field(default_factory=lambda: AutoencoderTraining(steps=3000))
    decoder: AutoencoderTraining = field(
        default_factory=lambda: AutoencoderTraining(
            steps=2000,
            peak_rate=4e-4,
            perceptual_weight=1.0,
            adversarial_weight=0.05,
            kl_weight=0.0,
            scale_probability=0.0,
            latent_noise=0.1,
            seed=1,
        )
    )
    denoiser: DenoiserTraining = field(default_factory=lambda: DenoiserTraining(steps=8000))


def _perceptual_shape(classes: int) -> ResNetConfig:
    return ResNetConfig(num_classes=classes, widths=(24, 48, 96), blocks=(1, 1, 1), stem_stride=1)


def _perceptual_stage(train: SceneSet, held: SceneSet, config: PretrainConfig, state: Path, progress: Progress) -> None:
    if (state / "perceptual.safetensors").exists():
        return
    trained = train_classifier(
        to_float(torch.from_numpy(train.images)),
        torch.from_numpy(train.labels),
        (to_float(torch.from_numpy(held.images)), torch.from_numpy(held.labels)),
        _perceptual_shape(len(train.classes)),
        config.perceptual,
        progress,
    )
    save_file({k: v.contiguous() for k, v in trained.model.state_dict().items()}, state / "perceptual.safetensors")


def _perceptual_networks(classes: int, state: Path) -> Sequence[ResNet]:
    network = ResNet(_perceptual_shape(classes))
    network.load_state_dict(load_file(state / "perceptual.safetensors"))
    return [network.eval().requires_grad_(False).to(memory_format=torch.channels_last)]  # type: ignore[call-overload]


def _stored_vae(config: PretrainConfig, *candidates: Path) -> AutoencoderKL:
    """The VAE of the first state file that exists."""
    vae = nano_vae(config.resolution)
    path = next(path for path in candidates if path.exists())
    tensors, _ = load_state(path)
    vae.load_state_dict(without_prefix("vae", tensors))
    return vae.eval()


def _captions(scenes: SceneSet, tokenizer_folder: Path) -> CaptionTable:
    tokenizer = build_tokenizer(VOCABULARY, tokenizer_folder)
    return caption_table(tokenizer, scenes.classes, scenes.labels.tolist(), describe_many(scenes.images))


def _scaling_factor(vae: AutoencoderKL, scenes: SceneSet, cache: Path) -> float:
    """1 / standard deviation of the latents, which gives unit variance (Rombach et al. 2022, appendix G)."""
    vae.register_to_config(scaling_factor=1.0)
    return float(1 / encode_cached(vae, scenes.images, scenes.hashes, cache).std())


def _latent_data(vae: AutoencoderKL, scenes: SceneSet, state: Path) -> LatentData:
    latents = encode_cached(vae, scenes.images, scenes.hashes, state / "latents")
    return LatentData(latents, torch.from_numpy(scenes.labels), _captions(scenes, state / "tokenizer"))


def pretrain(
    data: Path,
    out: Path,
    state: Path,
    config: PretrainConfig,
    stages: Sequence[Stage] = STAGES,
    progress: Callable[[str], Progress] = lambda stage: lambda step, steps: None,
) -> dict[str, object]:
    """Train the stages asked for and, with "save", write the base folder.

    Args:
        state: resumable state, outside the project's checkout.

    Returns:
        the metrics which also stand in the base's pretrain.json.
    """
    state.mkdir(parents=True, exist_ok=True)
    train = read_scenes(data, part="train", resolution=config.resolution, val_per_class=config.val_per_class)
    held = read_scenes(data, part="val", resolution=config.resolution, val_per_class=config.val_per_class)
    joint, decoder = state / "autoencoder.safetensors", state / "decoder.safetensors"
    pixels, held_pixels = torch.from_numpy(train.images), torch.from_numpy(held.images)
    if "perceptual" in stages:
        _perceptual_stage(train, held, config, state, progress("perceptual network"))
    if "autoencoder" in stages:
        networks = _perceptual_networks(len(train.classes), state)
        torch.manual_seed(config.seed)
        vae = nano_vae(config.resolution)
        bar = progress("autoencoder")
        train_autoencoder(vae, pixels, held_pixels, config.autoencoder, joint, networks, progress=bar)
    if "decoder" in stages:
        networks = _perceptual_networks(len(train.classes), state)
        vae = _stored_vae(config, joint)
        bar = progress("decoder")
        train_autoencoder(vae, pixels, held_pixels, config.decoder, decoder, networks, decoder_only=True, progress=bar)
    if not {"denoiser", "save"} & set(stages):
        return {}
    vae = _stored_vae(config, decoder, joint)
    vae.register_to_config(scaling_factor=_scaling_factor(vae, train, state / "latents"))
    tokenizer = build_tokenizer(VOCABULARY, state / "tokenizer")
    torch.manual_seed(config.seed)
    unet, text_encoder, scheduler = nano_unet(config.resolution), nano_text_encoder(tokenizer), nano_scheduler()
    base = Base(vae, unet, text_encoder, tokenizer, scheduler)
    trained_unet, trained_text, history = train_denoiser(
        unet,
        text_encoder,
        _latent_data(vae, train, state),
        _latent_data(vae, held, state),
        base.schedule,
        config.denoiser,
        state / "denoiser.safetensors",
        progress("denoiser"),
    )
    base = Base(vae, trained_unet.eval(), trained_text.eval(), tokenizer, scheduler)
    metrics: dict[str, object] = {
        "config": asdict(config),
        "data": fingerprint(train),
        "autoencoder": reconstruction_metrics(vae, to_float(held_pixels[:: max(1, len(held_pixels) // 500)])),
        "denoiser": history,
    }
    if "save" in stages:
        save_base(base, out, state / "tokenizer", torch.float16)
        (out / "pretrain.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return metrics
