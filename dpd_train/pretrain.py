"""`dpd pretrain`: train a nano base from scratch."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_runtime.files import dumps, write_atomically
from dpd_runtime.text import counted
from dpd_runtime.versions import package_versions
from dpd_train.attributes import VOCABULARY, describe_many
from dpd_train.base_files import RECORD_NAME, base_folder, check_base_bands
from dpd_train.bases import (
    LATENT_CHANNELS,
    Base,
    at_resolution,
    build_tokenizer,
    encode_cached,
    load_base,
    load_tokenizer,
    nano_scheduler,
    nano_text_encoder,
    nano_unet,
    nano_vae,
    save_base,
    weights_hash,
    with_attention,
)
from dpd_train.captions import CaptionTable, caption_table
from dpd_train.classifiers import ClassifierTraining, Labelled
from dpd_train.compute import Deadline, TimeUp, hardware, load_state, without_prefix
from dpd_train.config import HUB, STAGES, TRAININGS, Stage
from dpd_train.denoiser import DenoiserTraining, LatentData, train_denoiser
from dpd_train.model_files import find_model, licence_of, model_hash, public_name
from dpd_train.networks import ResNet
from dpd_train.pool import Pool, Sources, read_pool
from dpd_train.published import PublishedModel, open_published
from dpd_train.reading import By
from dpd_train.scene_set import Crops, SceneSet, to_float
from dpd_train.tracking import Track, tracked
from dpd_train.tuning import noise_levels
from dpd_train.vae import (
    DECODER,
    AutoencoderTraining,
    load_perceptual_networks,
    perceptual_training,
    reconstruction_metrics,
    train_autoencoder,
    train_perceptual_networks,
    with_bands,
)

# -- Everything that decides a base except the data; the defaults are those of the shipped base.


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides a base except the data."""

    resolution: int = 64
    val_per_class: int | tuple[int, ...] | None = None  # several numbers: one for each source
    split: By = "content"
    shares: tuple[float, ...] | None = None  # of the sources, see `Sources`
    crops: Crops | None = None  # of images larger than the resolution; None resizes them as a whole
    seed: int = 0
    start: str | None = None  # a base to start from; None starts from random weights
    latent_channels: int | None = None  # None: those of `start`, or else four
    attention_levels: int | None = None  # None: those of `start`, or else one; see `nano_unet`
    perceptual_network: str | None = None  # a published one, in the loss of the decoder alone; None: own ones
    perceptual: ClassifierTraining = field(default_factory=lambda: perceptual_training(800))
    autoencoder: AutoencoderTraining = field(
        default_factory=lambda: AutoencoderTraining(
            steps=3000,
            batch=12,
            peak_rate=4e-4,
            l1_weight=1.0,
            coarse_weight=6.0,
            coarse_sides=(2, 4),
            chroma_weight=3.0,
            gradient_weight=1.0,
            spectral_weight=2.0,
            perceptual_weight=1.0,
            statistics_weight=1.0,
            contrast_floor=0.04,
            scale_probability=0.1,
        )
    )
    decoder: AutoencoderTraining = DECODER  # beside a published network PUBLISHED_DECODER suits
    denoiser: DenoiserTraining = field(
        default_factory=lambda: DenoiserTraining(
            steps=8000, direction_weight=0.5, decoder_weight=0.1, min_snr_gamma=None
        )
    )

    def sources(self, data: tuple[str, ...]) -> Sources:
        """The sources `data` with the settings of this config."""
        return Sources(
            data=data,
            resolution=self.resolution,
            val_per_class=self.val_per_class,
            split=self.split,
            shares=self.shares,
            crops=self.crops,
            seed=self.seed,
        )


# -- `dpd pretrain`: train a nano base from scratch.
#
# Each stage resumes from its own state file and can run alone, so that denoiser and decoder can train at the same time.


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What every stage works with: data, folder of the state files, device, deadline and a tracker.

    beside: name, licence and sha256 of the published network in the decoder's loss.
    """

    pool: Pool
    config: PretrainConfig
    state: Path
    device: torch.device
    deadline: Deadline
    beside: dict[str, str | None] | None
    track: Track | None = None

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
    name = work.config.perceptual_network
    networks: Sequence[ResNet] | PublishedModel = (
        load_perceptual_networks(work.state, len(work.pool.train.classes))
        if name is None
        else open_published(name.removeprefix(HUB), work.device)
    )
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
        about={"beside": work.beside},
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
        track=work.track,
    )
    return replace(base, unet=trained_unet.eval(), text_encoder=trained_text.eval()), history


def _decoder_alone(work: _Work) -> bool:
    """Whether nothing but the decoder of the base that the run starts from was trained, or is to be.

    Latents, and so the denoiser, are those of that base then.
    """
    config, others = work.config, (work.joint, work.state / "denoiser.safetensors")
    asked = config.attention_levels is not None or config.denoiser != PretrainConfig().denoiser
    return config.start is not None and work.decoder.exists() and not asked and not any(map(Path.exists, others))


def _saved(work: _Work, progress: Progress) -> tuple[Base, list[dict[str, float]]]:
    """What the stage save writes without the stage denoiser: the denoiser is trained if it has to be."""
    if not _decoder_alone(work):
        return _denoiser_stage(work, progress)
    start = str(work.config.start)
    base = replace(load_base(start), vae=_stored_vae(work.config, work.decoder), tokenizer=_tokenizer(work))
    return base, recorded(start).get("denoiser", [])


def _check_decoder(work: _Work, stages: Sequence[Stage]) -> None:
    """Check that a decoder of the state was trained beside the network that the config names, as the record says so.

    Raises:
        InputError: it was not.
    """
    if not work.decoder.exists() or not {"decoder", "save"} & {*stages}:
        return
    known = load_state(work.decoder)[1].get("beside")
    if (known or {}).get("sha256") != (work.beside or {}).get("sha256"):
        way = f"give --perceptual-network {known['name']}" if known else "leave out --perceptual-network"
        beside = f"beside {known['name']}" if known else "beside networks of its own"
        raise InputError(f"{work.state}: its decoder was trained {beside}; {way}, or another --state")


def _record(work: _Work, stage: Stage, timing: dict[str, float]) -> None:
    """Add a line about this call to the record, if it trained the base."""
    if stage == "perceptual" or not timing["steps"]:
        return
    training = getattr(work.config, stage)
    line = (
        f"{stage}: {timing['steps']} of {counted(training.steps, 'step')} of {counted(training.batch, 'image')}, "
        f"peak rate {training.peak_rate:g}, {timing['seconds'] / 60:.0f} min on {hardware(work.device)}"
    )
    if stage == "decoder" and work.beside is not None:
        line += f", beside {work.beside['name']} (licence: {work.beside['licence'] or 'not named'})"
    add_piece(work.state, work.config.start, line)


def _metrics(work: _Work, base: Base, history: list[dict[str, float]]) -> dict[str, Any]:
    held, held_of = work.pixels[1], work.pool.held_of
    train, validation = (_latents(base.vae, scenes, work) for scenes in (work.pool.train, work.pool.held))
    several = held_of if len(held_of) > 1 else {}
    start, network, config = work.config.start, work.beside, asdict(work.config)
    config["start"] = None if start is None else Path(start).name
    config["perceptual_network"] = None if network is None else network["name"]
    more: dict[str, Any] = {} if network is None else {"perceptual_network": network}
    if _decoder_alone(work):
        config = {name: value for name, value in config.items() if name not in TRAININGS or name == "decoder"}
        config["stage"], more["base_pretraining"] = "decoder,save", recorded(str(start))
    return {
        "config": config,
        **more,
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


def _network(config: PretrainConfig) -> dict[str, str | None] | None:
    """Name, licence and hash of the published network, for state and record."""
    if config.perceptual_network is None:
        return None
    source = config.perceptual_network.removeprefix(HUB)
    folder, _ = find_model(source)
    return {"name": public_name(source), "licence": licence_of(folder), "sha256": model_hash(folder)}


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
    tracker: str | None = None,
) -> dict[str, Any]:
    """Train the given stages and, with "save", write the base folder.

    Args:
        data: a folder or list as in `read_scenes`, or several sources as in `Sources.data`.
        state: folder for resumable state, outside the project's checkout.
        max_minutes: stop at a checkpoint after this time; the same call continues from there.
        tracker: name of one that accelerate knows; it gets losses and learning rate of the denoiser.

    Returns:
        "timing" of each stage; "unfinished": {stage, step, steps} if time ran out; after the denoiser, the metrics that
        are also written to the base's pretrain.json.
    """
    deadline = Deadline(max_minutes)
    state.mkdir(parents=True, exist_ok=True)
    pool = read_pool(config.sources((str(data),) if isinstance(data, str | Path) else tuple(data)))
    start = None if config.start is None else load_base(config.start).vae
    check_same(state, pool.record, config.resolution, config.seed, start)
    told = {name: value for name, value in asdict(config).items() if isinstance(value, int | float | str)}
    own = asdict(config.denoiser).items()
    told |= {f"denoiser_{name}": value for name, value in own if isinstance(value, int | float | str)}
    with tracked(tracker, state / "tracker", told) as track:
        work = _Work(
            pool=pool,
            config=config,
            state=state,
            device=torch.device(device),
            deadline=deadline,
            beside=_network(config),
            track=track,
        )
        return _pretrained(work, out, stages, progress)


def _pretrained(work: _Work, out: Path, stages: Sequence[Stage], progress: Callable[[str], Progress]) -> dict[str, Any]:
    _check_decoder(work, stages)
    timing: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    stage: Stage = "perceptual"
    try:
        for stage, run in _RUNS.items():
            if stage not in stages and not (stage == "denoiser" and "save" in stages):
                continue
            timed = Timed(progress(_TITLES.get(stage, stage)))
            try:
                trained = run(work, timed) if stage in stages else _saved(work, timed)
            finally:
                timing[stage] = timed.summary()
                _record(work, stage, timing[stage])
            if trained is not None:
                metrics = _metrics(work, *trained)
                if "save" in stages:
                    save_base(trained[0], out, work.state / "tokenizer", torch.float16)
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


# -- The record of a base's training: what it is trained on, timing of a stage, and one line for each call.


class Timed:
    """Progress that also measures the steps of this call and steps per second, without the first step (warm-up)."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.begun = progress, time.monotonic()
        self.first: tuple[float, int] | None = None
        self.last = (self.begun, 0)

    def __call__(self, step: int, steps: int) -> None:
        self.last = (time.monotonic(), step)
        self.first = self.first or self.last
        self.progress(step, steps)

    def summary(self) -> dict[str, float]:
        """{"seconds": of the whole stage, "steps": done, "steps_per_second": once warm}."""
        seconds = round(time.monotonic() - self.begun, 2)
        if self.first is None:
            return {"seconds": seconds, "steps": 0, "steps_per_second": 0.0}
        warm, done = self.last[0] - self.first[0], self.last[1] - self.first[1]
        return {"seconds": seconds, "steps": done + 1, "steps_per_second": round(done / warm, 2) if warm else 0.0}


def pieces(state: Path, start: str | None) -> list[str]:
    """Lines about earlier calls, beginning with those of the base that the run started from.

    Args:
        state: folder of the state. start: that base, or None.
    """
    path = state / "pieces.json"
    if path.exists():
        done: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return done
    before = recorded(start) if start else {}
    return [*before.get("pieces", []), "from here on with the start of that base"] if before else []


def recorded(base: str) -> dict[str, Any]:
    """What the base's record says; of one without a record, nothing."""
    record = base_folder(base) / RECORD_NAME
    said: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    return said


def add_piece(state: Path, start: str | None, line: str) -> None:
    """Add a line about this call to the list in the state."""
    write_atomically(
        state / "pieces.json", json.dumps([*pieces(state, start), line], indent=1, allow_nan=False).encode()
    )


def check_same(state: Path, data: dict[str, object], resolution: int, seed: int, start: AutoencoderKL | None) -> None:
    """Note what a state is trained on, or check that it was the same: the base's record names these images.

    Args:
        data: `Pool.record`.
        start: VAE that the training begins at.

    Raises:
        InputError: a state of other images, at another size, of another seed or from another start.
    """
    path = state / "of.json"
    of_start = None if start is None else weights_hash(start)
    told = {"data": data, "resolution": resolution, "seed": seed, "start": of_start}
    if not path.exists():
        write_atomically(path, dumps(told))
    elif json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(told, allow_nan=False)):
        raise InputError(
            f"{state}: holds the training of a base on other images or bands, or with another --seed or --start; give "
            "another --state"
        )


# -- `dpd pretrain --bands`: the VAE of a base, trained on images of other bands; nothing else of the base changes.


def pretrain_bands(
    sources: Sources,
    start: str,
    out: Path,
    state: Path,
    training: AutoencoderTraining,
    progress: Progress = lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Train the VAE of the base `start` on all bands of the images and write the base to `out`.

    Args:
        sources: with a reading that carries their bands.
        state: folder for resumable state.
        max_minutes: stop at a checkpoint after this time; the same call continues from there.

    Returns:
        what is also written to the base's pretrain.json, and "timing"; or "timing" and "unfinished": {stage, step,
        steps} if time ran out.

    Raises:
        InputError, DataError: unusable images, a base for other bands, or a state of something else.
    """
    pool, device = read_pool(sources), torch.device(device)
    bands = pool.train.bands
    check_base_bands(start, bands)
    first = load_base(start)
    settings = {"autoencoder": asdict(training), "start": Path(start).name, "resolution": sources.resolution}
    settings |= {"seed": sources.seed}
    base = at_resolution(with_bands(first, len(bands)), sources.resolution)
    state.mkdir(parents=True, exist_ok=True)
    check_same(state, pool.record, sources.resolution, sources.seed, first.vae)
    images, held = (torch.from_numpy(scenes.images) for scenes in (pool.train, pool.held))
    timed = Timed(progress)
    more: dict[str, Any] = {"progress": timed, "device": device, "deadline": Deadline(max_minutes)}
    try:
        train_autoencoder(
            base.vae, images, held, training, state / "autoencoder.safetensors", weights=pool.weights, **more
        )
    except TimeUp as stop:
        unfinished = {"stage": "autoencoder", "step": stop.step, "steps": stop.steps}
        return {"timing": {"autoencoder": timed.summary()}, "unfinished": unfinished}
    finally:
        if done := timed.summary()["steps"]:
            add_piece(
                state, start, f"VAE of {counted(len(bands), 'band')}: {done} of {counted(training.steps, 'step')}"
            )
    record = {
        "config": settings,
        "pieces": pieces(state, start),
        "bands": [band.name for band in bands],
        "hardware": hardware(device),
        "versions": package_versions("torch", "diffusers", "transformers"),
        "data": pool.record,
        "autoencoder": reconstruction_metrics(base.vae, to_float(held)),
    }
    save_base(base, out, base_folder(start) / "tokenizer", torch.float16)
    (out / RECORD_NAME).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return record | {"timing": {"autoencoder": timed.summary()}}
