"""`dpd pretrain`: train a nano base from scratch.

Each stage resumes from its own state file and can run alone, so that denoiser and decoder can train at the same time.
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_runtime.machine.versions import package_versions
from dpd_runtime.text import counted
from dpd_train.bases.base import Base, load_base, save_base
from dpd_train.bases.folder import RECORD_NAME, base_folder
from dpd_train.bases.latents import encode_cached
from dpd_train.bases.nano import LATENT_CHANNELS, nano_scheduler, nano_text_encoder, nano_unet, nano_vae, with_attention
from dpd_train.bases.tokenizer import build_tokenizer, load_tokenizer
from dpd_train.captions.attributes import VOCABULARY, describe_many
from dpd_train.captions.captions import CaptionTable, caption_table
from dpd_train.classifiers.training import Labelled
from dpd_train.compute.checkpoint import load_state, without_prefix
from dpd_train.compute.device import Deadline, TimeUp, hardware
from dpd_train.diffusion.denoiser import LatentData, train_denoiser
from dpd_train.diffusion.noise_levels import noise_levels
from dpd_train.images import SceneSet, to_float
from dpd_train.pretrain import STAGES, Stage
from dpd_train.pretrain.config import PretrainConfig
from dpd_train.pretrain.pool import Pool, read_pool
from dpd_train.pretrain.record import Timed, add_piece, check_same, pieces
from dpd_train.vae.autoencoder import reconstruction_metrics, train_autoencoder
from dpd_train.vae.perceptual import load_perceptual_networks, train_perceptual_networks

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What every stage works with: data, folder of the state files, device and deadline."""

    pool: Pool
    config: PretrainConfig
    state: Path
    device: torch.device
    deadline: Deadline

    @property
    def joint(self) -> Path:
        return self.state / "autoencoder.safetensors"

    @property
    def decoder(self) -> Path:
        return self.state / "decoder.safetensors"

    @property
    def pixels(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.pool.train.images), torch.from_numpy(self.pool.held.images)


def _perceptual_stage(work: _Work, progress: Progress) -> None:
    pixels, held = (to_float(images) for images in work.pixels)
    train_perceptual_networks(
        work.state,
        (pixels, torch.from_numpy(work.pool.train.labels)),
        (held, torch.from_numpy(work.pool.held.labels)),
        len(work.pool.train.classes),
        work.config.perceptual,
        progress,
        device=work.device,
        deadline=work.deadline,
        weights=work.pool.weights,
    )


def _stored_vae(config: PretrainConfig, *candidates: Path) -> AutoencoderKL:
    """The VAE of the first state file that exists, or else the one of the base that the run starts from."""
    vae = _first_vae(config)
    for path in candidates:
        if path.exists():
            tensors, _ = load_state(path)
            vae.load_state_dict(without_prefix("vae", tensors))
            return vae.eval()
    if config.start is None:
        raise InputError(f"no trained VAE in {candidates[0].parent}: run the stage autoencoder first")
    return vae.eval()


def _first_vae(config: PretrainConfig) -> AutoencoderKL:
    if config.start is None:
        return nano_vae(config.resolution, config.latent_channels or LATENT_CHANNELS)
    vae = load_base(config.start).vae
    channels = int(vae.config.latent_channels)
    if config.latent_channels not in (None, channels):
        raise InputError(
            f"base {config.start!r} has {channels} latent channels, not {config.latent_channels}: "
            "leave out --latent-channels or --start"
        )
    vae.register_to_config(sample_size=config.resolution)
    return vae


def _tokenizer(work: _Work) -> CLIPTokenizer:
    """The tokenizer of the state, else of the base that the run starts from, else a new one.

    It is kept because learning it again may give other numbers: merges of equal count may change places.
    """
    folder = work.state / "tokenizer"
    if not (folder / "vocab.json").exists():
        if work.config.start is None:
            return build_tokenizer(VOCABULARY, folder)
        shutil.copytree(base_folder(work.config.start) / "tokenizer", folder)
    return load_tokenizer(folder)


def _captions(scenes: SceneSet, tokenizer: CLIPTokenizer) -> CaptionTable:
    return caption_table(tokenizer, scenes.classes, scenes.labels.tolist(), describe_many(scenes.images))


def _autoencoder_stage(work: _Work, progress: Progress) -> None:
    networks = load_perceptual_networks(work.state, len(work.pool.train.classes))
    torch.manual_seed(work.config.seed)
    train_autoencoder(
        _first_vae(work.config),
        *work.pixels,
        work.config.autoencoder,
        work.joint,
        networks,
        progress=progress,
        device=work.device,
        deadline=work.deadline,
        weights=work.pool.weights,
    )


def _decoder_stage(work: _Work, progress: Progress) -> None:
    networks = load_perceptual_networks(work.state, len(work.pool.train.classes))
    train_autoencoder(
        _stored_vae(work.config, work.joint),
        *work.pixels,
        work.config.decoder,
        work.decoder,
        networks,
        decoder_only=True,
        progress=progress,
        device=work.device,
        deadline=work.deadline,
        weights=work.pool.weights,
    )


def _scaled_vae(work: _Work) -> AutoencoderKL:
    """The trained VAE; scaling 1 / standard deviation of the latents gives unit variance (Rombach et al. 2022, G)."""
    vae = _stored_vae(work.config, work.decoder, work.joint)
    vae.register_to_config(scaling_factor=1.0)
    latents = encode_cached(
        vae, work.pool.train.images, work.pool.train.hashes, work.state / "latents", device=work.device
    )
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def _latents(vae: AutoencoderKL, scenes: SceneSet, work: _Work) -> Labelled:
    """Scaled latents and labels."""
    latents = encode_cached(vae, scenes.images, scenes.hashes, work.state / "latents", device=work.device)
    return latents, torch.from_numpy(scenes.labels)


def _latent_data(vae: AutoencoderKL, scenes: SceneSet, work: _Work, weights: torch.Tensor | None = None) -> LatentData:
    return LatentData(*_latents(vae, scenes, work), _captions(scenes, _tokenizer(work)), weights)


def _first_base(config: PretrainConfig, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> Base:
    """Random networks, or those of the base that the run starts from."""
    if config.start is None:
        unet = nano_unet(config.resolution, int(vae.config.latent_channels), config.attention_levels or 1)
        return Base(vae, unet, nano_text_encoder(tokenizer), tokenizer, nano_scheduler())
    first = load_base(config.start)
    known = first.text_encoder.config.vocab_size
    if known != len(tokenizer):
        raise InputError(f"base {config.start!r} knows {known} words, this version {len(tokenizer)}: start without it")
    if config.attention_levels is not None:
        try:
            first = replace(first, unet=with_attention(first.unet, config.attention_levels))
        except ValueError as error:
            raise InputError(f"--attention-levels {config.attention_levels}: base {config.start!r}: {error}") from error
    return replace(first, vae=vae, tokenizer=tokenizer)


def _denoiser_stage(work: _Work, progress: Progress) -> tuple[Base, list[dict[str, float]]]:
    vae = _scaled_vae(work)
    tokenizer = _tokenizer(work)
    torch.manual_seed(work.config.seed)
    base = _first_base(work.config, vae, tokenizer)
    trained_unet, trained_text, history = train_denoiser(
        base.unet,
        base.text_encoder,
        _latent_data(vae, work.pool.train, work, work.pool.weights),
        _latent_data(vae, work.pool.held, work),
        base.schedule,
        work.config.denoiser,
        work.state / "denoiser.safetensors",
        progress,
        vae=vae,
        device=work.device,
        deadline=work.deadline,
    )
    return replace(base, unet=trained_unet.eval(), text_encoder=trained_text.eval()), history


def _record(work: _Work, stage: Stage, timing: dict[str, float]) -> None:
    """Add a line about this call to the record, if it trained the base."""
    if stage == "perceptual" or not timing["steps"]:
        return
    training = getattr(work.config, stage)
    line = (
        f"{stage}: {timing['steps']} of {counted(training.steps, 'step')} of {counted(training.batch, 'image')}, "
        f"peak rate {training.peak_rate:g}, {timing['seconds'] / 60:.0f} min on {hardware(work.device)}"
    )
    add_piece(work.state, work.config.start, line)


def _metrics(work: _Work, base: Base, history: list[dict[str, float]]) -> dict[str, Any]:
    held, held_of = work.pixels[1], work.pool.held_of
    train, validation = (_latents(base.vae, scenes, work) for scenes in (work.pool.train, work.pool.held))
    several = held_of if len(held_of) > 1 else {}
    return {
        "config": asdict(work.config) | {"start": None if work.config.start is None else Path(work.config.start).name},
        "pieces": pieces(work.state, work.config.start),
        "hardware": hardware(work.device),
        "versions": package_versions("torch", "diffusers", "transformers"),
        "data": work.pool.record,
        "device": work.device.type,
        "autoencoder": _judged(base.vae, held),
        **{f"autoencoder of {name}": _judged(base.vae, held[rows]) for name, rows in several.items()},
        "denoiser": history,
        "noise_levels": noise_levels(base, train, validation, work.pool.train.classes, work.device),
    }


def _judged(vae: AutoencoderKL, held: torch.Tensor) -> dict[str, float]:
    """Metrics of the VAE on at most a thousand images, evenly spread over the given ones [n, H, W, 3] uint8."""
    return reconstruction_metrics(vae, to_float(held[:: max(1, len(held) // 500)]))


def pretrain(
    data: Path | Sequence[str],
    out: Path,
    state: Path,
    config: PretrainConfig,
    stages: Sequence[Stage] = STAGES,
    progress: Callable[[str], Progress] = lambda stage: lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Train the given stages and, with "save", write the base folder.

    Args:
        data: a folder or list as in `read_scenes`, or several sources as in `Sources.data`.
        state: folder for resumable state, outside the project's checkout.
        max_minutes: stop at a checkpoint after this time; the same call continues from there.

    Returns:
        "timing" of each stage; "unfinished": {stage, step, steps} if time ran out; after the denoiser, the metrics that
        are also written to the base's pretrain.json.
    """
    deadline, timing = Deadline(max_minutes), {}
    state.mkdir(parents=True, exist_ok=True)
    pool = read_pool(config.sources((str(data),) if isinstance(data, str | Path) else tuple(data)))
    start = None if config.start is None else load_base(config.start).vae
    check_same(state, pool.record, config.resolution, config.seed, start)
    work = _Work(pool=pool, config=config, state=state, device=torch.device(device), deadline=deadline)
    metrics: dict[str, Any] = {}
    stage: Stage = "perceptual"
    try:
        for stage, run in _RUNS.items():
            if stage not in stages and not (stage == "denoiser" and "save" in stages):
                continue
            timed = Timed(progress(_TITLES.get(stage, stage)))
            try:
                trained = run(work, timed)
            finally:
                timing[stage] = timed.summary()
                _record(work, stage, timing[stage])
            if trained is not None:
                metrics = _metrics(work, *trained)
                if "save" in stages:
                    save_base(trained[0], out, state / "tokenizer", torch.float16)
                    (out / RECORD_NAME).write_text(
                        json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8"
                    )
    except TimeUp as stop:
        log.info("%s: %s", stage, stop)
        return {"timing": timing, "unfinished": {"stage": stage, "step": stop.step, "steps": stop.steps}}
    return metrics | {"timing": timing}


_TITLES = {"perceptual": "perceptual network"}
_RUNS: dict[Stage, Callable[[_Work, Progress], tuple[Base, list[dict[str, float]]] | None]] = {
    "perceptual": _perceptual_stage,
    "autoencoder": _autoencoder_stage,
    "decoder": _decoder_stage,
    "denoiser": _denoiser_stage,
}
