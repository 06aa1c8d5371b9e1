"""`dpd train`: a labelled scene set → a run directory (DESIGN §5)."""

import csv
import json
import logging
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save

from dpd_runtime.atomic import write_atomically
from dpd_runtime.bundle import check_class_name
from dpd_runtime.cache_folder import cache_folder
from dpd_runtime.contact_sheet import contact_sheet
from dpd_runtime.errors import BundleError, DataError, InputError
from dpd_runtime.manifest import BlockGuidance
from dpd_runtime.noise import NoiseStream
from dpd_runtime.sampling import sample
from dpd_runtime.solvers import SOLVERS
from dpd_train.attributes import describe_many
from dpd_train.autoencoder import reconstruction_metrics
from dpd_train.base import Base, decode_images, load_base, nano_folder, save_base, torch_denoise
from dpd_train.captions import caption_table
from dpd_train.classifiers import ResNet, ResNetConfig, predict
from dpd_train.denoiser import DenoiserTraining, LatentData, train_denoiser
from dpd_train.images import SceneSet, fingerprint, natural_side, read_scenes, to_float
from dpd_train.latents import encode_cached
from dpd_train.prompts import aggregate_prompts, embed, write_classes
from dpd_train.prototypes import ClassPrototypes, find_centroids
from dpd_train.train_classifier import ClassifierTraining, train_classifier

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
PrototypeKind = Literal["centroid", "none"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run but the data."""

    base: str = "nano"
    resolution: int | None = None
    ipc: int = 50
    steps: int = 500
    batch: int = 32
    peak_rate: float = 1e-4
    teacher_steps: int = 1200
    latent_classifier_steps: int = 800
    prototypes: PrototypeKind = "centroid"
    k_min: int = 10
    val_per_class: int | None = None
    seed: int = 0


def teacher_shape(classes: int) -> ResNetConfig:
    """0.44 M parameters, on pixels."""
    return ResNetConfig(num_classes=classes, widths=(32, 64, 128), blocks=(1, 2, 1), stem_stride=2)


def latent_classifier_shape(classes: int, channels: int) -> ResNetConfig:
    """0.25 M parameters, on clean latents."""
    return ResNetConfig(num_classes=classes, in_channels=channels, widths=(48, 96), blocks=(1, 1), stem_stride=1)


def save_classifier(model: ResNet, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", (json.dumps(asdict(model.config), indent=1) + "\n").encode())
    write_atomically(folder / "model.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))


def load_classifier(folder: Path) -> ResNet:
    """What `save_classifier` wrote, in evaluation mode."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content |= {name: tuple(content[name]) for name in ("widths", "blocks")}
    model = ResNet(ResNetConfig(**content))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def _accuracy(model: ResNet, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    return float((predict(model, inputs).argmax(1) == labels).float().mean())


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Float images [n, 3, H, W] through encoder and decoder, clamped to [-1, 1]."""
    parts = []
    for i in range(0, len(images), batch):
        latents = vae.encode(images[i : i + batch]).latent_dist.mode()
        parts.append(vae.decode(latents).sample)
    return torch.cat(parts).clamp(-1, 1)


def _classifier(
    folder: Path,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    validation: tuple[torch.Tensor, torch.Tensor],
    shape: ResNetConfig,
    training: ClassifierTraining,
    progress: Progress,
) -> ResNet:
    """Train and save, or read what an interrupted run had finished."""
    if not (folder / "model.safetensors").exists():
        trained = train_classifier(inputs, labels, validation, shape, training, progress)
        log.info("%s: validation accuracy %.4f at step %d", folder.name, trained.accuracy, trained.step)
        save_classifier(trained.model, folder)
    return load_classifier(folder)


def _read(data: Path, config: TrainConfig, base: Base) -> tuple[SceneSet, SceneSet]:
    """Training and validation part at the base's size.

    Raises:
        InputError: a --resolution which the base does not make, or images so large that shrinking must be asked for.
    """
    size = base.resolution
    if config.resolution not in (None, size):
        raise InputError(
            f"--resolution {config.resolution}: base {config.base!r} makes {size} px; leave it out or say {size}"
        )
    side = natural_side(data)
    if config.resolution is None and side >= 1.5 * size:
        raise InputError(
            f"the images are {side} px and base {config.base!r} makes {size} px: pass --resolution {size} to shrink "
            "them, or a base of that size (for 256 px a Stable Diffusion folder)"
        )
    train, held = (
        read_scenes(data, part=part, resolution=size, val_per_class=config.val_per_class) for part in ("train", "val")
    )
    for name in train.classes:
        try:
            check_class_name(name)
        except BundleError as error:
            raise DataError(f"{data}: class folder {name!r} cannot be a class of a bundle; rename it") from error
    shared = len(set(train.hashes) & set(held.hashes))
    if shared:
        log.warning(
            "%d validation images are training images too, byte for byte: validation figures are too high", shared
        )
    return train, held


def _rows_by_class(scenes: SceneSet) -> list[np.ndarray[Any, Any]]:
    """Rows of each class's different images: ten copies of one image hide nobody behind a mean."""
    _, first = np.unique(np.array(scenes.hashes), return_index=True)
    different = np.zeros(len(scenes.labels), bool)
    different[first] = True
    return [np.flatnonzero((scenes.labels == label) & different) for label in range(len(scenes.classes))]


def _prototypes(
    config: TrainConfig, rows: list[np.ndarray[Any, Any]], latents: np.ndarray[Any, Any]
) -> list[ClassPrototypes | None]:
    if config.prototypes == "none":
        return [None] * len(rows)
    return [find_centroids(latents[r], count=config.ipc, k_min=config.k_min, seed=config.seed) for r in rows]


@torch.no_grad()
def sample_sheet(base: Base, classes: tuple[str, ...], embeddings: torch.Tensor, seed: int) -> np.ndarray[Any, Any]:
    """A few images for each class from PyTorch: a look at the model without export. embeddings: [classes, L, D]."""
    make_steps, advance = SOLVERS["dpm++2m"]
    steps = make_steps(base.schedule, 15)
    shape = (base.unet.config.in_channels, base.unet.config.sample_size, base.unet.config.sample_size)

    denoise = torch_denoise(base)
    rows = []
    for name, embedding in zip(classes, embeddings.numpy(), strict=True):
        noise = np.stack([NoiseStream(seed, name, index, 0).normal(shape) for index in range(6)])
        context = np.repeat(embedding[None], len(noise), axis=0)
        kind = base.schedule.prediction_type
        latents = sample(denoise, noise, context, embedding, None, steps, advance, kind, BlockGuidance())
        rows.append((name, list(decode_images(base, latents))))
    return contact_sheet(rows)


def check_run_folder(out: Path, resume: bool) -> None:
    """A finished run is never overwritten; an unfinished one goes on.

    Raises:
        InputError: anything else stands at `out`.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out")
    if (out / "run.json").exists():
        raise InputError(f"{out} holds a finished run; choose another --out")
    if not any(out.iterdir()):
        return
    try:
        ours = {"config", "data"} <= set(json.loads((out / "checkpoints" / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{out} is not empty and holds no unfinished run; choose another --out")
    if not resume:
        raise InputError(f"{out} holds an unfinished run; pass --resume to go on with it, or choose another --out")


def train(
    data: Path,
    out: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    cache: Path | None = None,
    keep_checkpoints: bool = False,
    progress: Callable[[str], Progress] = lambda stage: lambda step, steps: None,
) -> dict[str, Any]:
    """Fine-tune `config.base` on the scenes under `data` and leave a run directory at `out`.

    Returns:
        the content of run.json.

    Raises:
        DataError, InputError: unusable data, base or output folder; nothing is left behind then.
    """
    started = time.monotonic()
    check_run_folder(out, resume)
    base = load_base(config.base)
    train_scenes, held = _read(data, config, base)
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (out / "private").mkdir(exist_ok=True, mode=0o700)
    _quarantine(out / "private" / "quarantine.csv", train_scenes, held)
    _match_config(checkpoints / "config.json", config, fingerprint(train_scenes))
    cache = cache or cache_folder("latents")
    pixels, held_pixels = (to_float(torch.from_numpy(s.images)) for s in (train_scenes, held))
    labels, held_labels = (torch.from_numpy(s.labels) for s in (train_scenes, held))

    latents = encode_cached(base.vae, train_scenes.images, train_scenes.hashes, cache, progress("encoding"))
    held_latents = encode_cached(base.vae, held.images, held.hashes, cache)
    count = len(train_scenes.classes)
    teacher = _classifier(
        out / "classifier",
        pixels,
        labels,
        (held_pixels, held_labels),
        teacher_shape(count),
        ClassifierTraining(steps=config.teacher_steps, seed=config.seed + 1),
        progress("teacher"),
    )
    judge = _classifier(
        out / "latent_classifier",
        latents,
        labels,
        (held_latents, held_labels),
        latent_classifier_shape(count, latents.shape[1]),
        ClassifierTraining(steps=config.latent_classifier_steps, seed=config.seed + 2),
        progress("latent classifier"),
    )
    rows = _rows_by_class(train_scenes)
    prototypes = _prototypes(config, rows, latents.numpy())
    phrases = describe_many(train_scenes.images)
    by_class = [[phrases[i] for i in members] for members in rows]
    table = aggregate_prompts(train_scenes.classes, by_class, prototypes, config.k_min)

    def latent_data(scenes: SceneSet, values: torch.Tensor, words: list[tuple[str, ...]]) -> LatentData:
        captions = caption_table(base.tokenizer, scenes.classes, scenes.labels.tolist(), words)
        return LatentData(values, torch.from_numpy(scenes.labels), captions)

    history: list[dict[str, float]] = []
    if config.steps:
        unet, text_encoder, history = train_denoiser(
            base.unet,
            base.text_encoder,
            latent_data(train_scenes, latents, phrases),
            latent_data(held, held_latents, describe_many(held.images)),
            base.schedule,
            DenoiserTraining(
                steps=config.steps,
                batch=config.batch,
                peak_rate=config.peak_rate,
                warmup=min(100, config.steps // 5 + 1),
                seed=config.seed,
                validate_every=max(1, config.steps // 5),
            ),
            checkpoints / "denoiser.safetensors",
            progress("fine-tuning"),
        )
        base = Base(base.vae, unet.eval(), text_encoder.eval(), base.tokenizer, base.scheduler)

    source = nano_folder() if config.base == "nano" else Path(config.base)
    save_base(base, out / "pipeline", source / "tokenizer")
    counts = [p.counts if p else () for p in prototypes]
    write_classes(out / "classes.json", train_scenes.classes, table, counts)
    centroids = {f"class.{i}": torch.from_numpy(p.latents) for i, p in enumerate(prototypes) if p is not None}
    write_atomically(out / "prototypes.safetensors", save(centroids))
    (out / "samples").mkdir(exist_ok=True)
    embeddings = embed(base.text_encoder, base.tokenizer, table.texts)
    first_rows = torch.tensor([rows[0] for rows in table.rows])
    sheet = sample_sheet(base, train_scenes.classes, embeddings[first_rows], config.seed)
    Image.fromarray(sheet).save(out / "samples" / "final.png")
    (out / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")

    every = max(1, len(held_pixels) // 500)
    some = held_pixels[::every]
    accuracy = _accuracy(teacher, held_pixels, held_labels)
    through_vae = _accuracy(teacher, reconstruct(base.vae, some), held_labels[::every])
    run = {
        "config": asdict(config) | {"resolution": base.resolution},
        "data": fingerprint(train_scenes) | {"val_per_class": config.val_per_class},
        "rejected": len(train_scenes.rejected) + len(held.rejected),
        "prototypes": {name: len(c) for name, c in zip(train_scenes.classes, counts, strict=True)},
        "metrics": {
            "teacher_oa": accuracy,
            "teacher_oa_on_the_same_images": _accuracy(teacher, some, held_labels[::every]),
            "teacher_oa_on_reconstructions": through_vae,
            "latent_classifier_oa": _accuracy(judge, held_latents, held_labels),
            "vae": reconstruction_metrics(base.vae, some),
            "denoiser": history,
        },
        "versions": {name: version(name) for name in ("dpd-distill", "torch", "diffusers", "transformers", "numpy")}
        | {"python": platform.python_version()},
        "seconds": round(time.monotonic() - started, 1),
    }
    write_atomically(out / "run.json", (json.dumps(run, indent=1) + "\n").encode())
    if not keep_checkpoints:
        shutil.rmtree(checkpoints)
    return run


def _quarantine(path: Path, *parts: SceneSet) -> None:
    """The images that could not be used, with reasons; under private/ because it names files."""
    rejected = [entry for scenes in parts for entry in scenes.rejected]
    if rejected:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "reason"])
            writer.writerows((entry.path, entry.reason) for entry in rejected)


def _match_config(path: Path, config: TrainConfig, data: dict[str, Any]) -> None:
    """A resumed run must be the same run.

    Raises:
        InputError: another config or other data.
    """
    content = json.loads(json.dumps({"config": asdict(config), "data": data}))
    if not path.exists():
        write_atomically(path, json.dumps(content).encode())
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != content:
        changed = [k for k in content["config"] if before["config"].get(k) != content["config"][k]] or ["the data"]
        raise InputError(
            f"--resume: the unfinished run had another {', '.join(changed)}; use the same, or another --out"
        )
