"""What decides a run of `dpd train`, but the data: every field is an option of the command line."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any, Literal

from dpd_runtime.errors import InputError
from dpd_runtime.sampling.prototype_kinds import PrototypeKind

Tune = Literal["full", "lora"]
JudgeOn = Literal["latents", "pixels"]
Precision = Literal["bf16", "fp16", "fp32"]
Crop = Literal["foreground"]
RateSchedule = Literal["decay", "constant"]

LEAST = {
    "ipc": 1,
    "steps": 0,
    "batch": 1,
    "micro_batch": 1,
    "k_min": 2,
    "teacher_steps": 1,
    "latent_classifier_steps": 1,
    "seed": 0,
    "warmup": 0,
    "lora_rank": 1,
    "vae_steps": 1,
    "perceptual_steps": 1,
    "lambda_cls": 0,
    "prototype_noise": 0,
    "matching_steps": 1,
    "val_per_class": 0,
    "resolution": 1,
}
CHOICES = {
    "schedule": ("decay", "constant"),
    "precision": ("bf16", "fp16", "fp32"),
    "tune": ("full", "lora"),
    "judge_on": ("latents", "pixels"),
    "crop": ("foreground",),
    "prototypes": ("centroid", "pooled", "matched", "medoid", "none"),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run but the data.

    Args:
        resolution: None is the base's own.
        batch: images of one step, of all processes together.
        micro_batch: at most so many of them at once in a process; None is all. It changes memory, not the result.
        gradient_checkpointing: compute the UNet's activations twice instead of keeping them. Likewise.
        precision: of the fine-tuning's autocast.
        peak_rate: learning rate after the warm-up.
        warmup: steps; None is a fifth of the run, 100 at most.
        schedule: whether the rate falls to zero over the last 30 % of the steps.
        tune: None takes full for a UNet below 100 M parameters and lora above.
        lora_rank: r, which is α too (METHOD §1).
        tune_vae, vae_steps: train the VAE's decoder on the user's images first; the encoder, and so the latents, stay.
        perceptual_steps: of each of the three networks that tell tune_vae what a decoder loses.
        lambda_cls: weight λ of the classification consistency.
        judge_on: what its classifier sees: the predicted clean latents, or those decoded, which costs a decoder's pass.
        prototype_noise: standard deviation of Gaussian noise on each value of a mean; 0 is none.
        matching_steps: of each ten `matched` prototypes a class.
        bands, stretch: how pixels are read, as `dpd_train.images.parse_reading` takes them.
        crop: what is cut out of images larger than the model's (`dpd_train.foreground`); None shrinks them whole.
        segmenter: DINO,SAM2: models that find what to cut out; None is the spectral residual.
        val_per_class: None is max(1, n // 10).
        prune: tdds:SHARE leaves out that share of each class's training images (`classifiers.tdds`); None is none.
        grad_compression: rs-dgc:RATIO sends so many times fewer bytes of gradients between processes; None sends all.
        keep_near_duplicates: train on images that are near duplicates of others, too.
    """

    base: str = "nano"
    resolution: int | None = None
    ipc: int = 50
    steps: int = 500
    batch: int = 32
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    precision: Precision = "bf16"
    peak_rate: float = 1e-4
    warmup: int | None = None
    schedule: RateSchedule = "decay"
    tune: Tune | None = None
    lora_rank: int = 4
    tune_vae: bool = False
    vae_steps: int = 800
    perceptual_steps: int = 800
    lambda_cls: float = 0.0
    judge_on: JudgeOn = "latents"
    teacher_steps: int = 1200
    latent_classifier_steps: int = 800
    prototypes: PrototypeKind = "centroid"
    prototype_noise: float = 0.0
    matching_steps: int = 300
    k_min: int = 10
    captioner: str = "attributes"
    bands: str | None = None
    stretch: str | None = None
    crop: Crop | None = None
    segmenter: str | None = None
    val_per_class: int | None = None
    prune: str | None = None
    grad_compression: str | None = None
    keep_near_duplicates: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises:
        InputError: a value out of range, by the name of its option.
        """
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"{option(name)} is {value}: it must be at least {least}")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InputError(f"{option(name)} {value!r} is unknown: use {', '.join(known)}")
        if not 0 < self.peak_rate <= 1:
            raise InputError(f"--peak-rate is {self.peak_rate}: it must be above 0 and at most 1")
        if not math.isfinite(self.prototype_noise):
            raise InputError(f"--prototype-noise is {self.prototype_noise}: give a finite number")
        if self.prototype_noise and self.prototypes not in ("centroid", "pooled"):
            raise InputError(
                f"--prototype-noise has no effect on --prototypes {self.prototypes}: take means, centroid or pooled"
            )
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise InputError(f"--micro-batch is {self.micro_batch}: it must be at most --batch, {self.batch}")
        if self.segmenter is not None and self.crop is None:
            raise InputError(f"--segmenter {self.segmenter} has no effect without --crop foreground: leave it out")
        if self.prune is not None:
            pruned_share(self.prune)
        if self.grad_compression is not None:
            compression_ratio(self.grad_compression)
            if self.precision == "fp16":
                raise InputError(
                    "--grad-compression keeps what it does not send, which fp16 may overflow: use bf16 or fp32"
                )
        if self.seed >= 2**32:
            raise InputError(f"--seed is {self.seed}: it must be below 2**32")


def figure_of(method: str, text: str) -> float:
    """Of `method:FIGURE`; nan for anything else, which no bound lets pass."""
    name, _, figure = text.partition(":")
    try:
        return float(figure) if name == method else math.nan
    except ValueError:
        return math.nan


def pruned_share(text: str) -> float:
    """The share of each class's images that `tdds:SHARE` leaves out.

    Raises:
        InputError: another method, or a share outside 0 ... 1.
    """
    value = figure_of("tdds", text)
    if not 0 < value < 1:
        raise InputError(f"--prune {text!r}: say tdds and the share to leave out, above 0 and below 1, as in tdds:0.7")
    return value


def compression_ratio(text: str) -> float:
    """Of `rs-dgc:RATIO`.

    Raises:
        InputError: another method, or a ratio outside 12 … 200: at 12 nearly all go, and beyond 200 most of the
            bytes would say where the others lie.
    """
    value = figure_of("rs-dgc", text)
    if not 12 <= value <= 200:
        raise InputError(
            f"--grad-compression {text!r}: say rs-dgc and how many times fewer bytes to send, 12 to 200, "
            "as in rs-dgc:50"
        )
    return value


def option(field: str) -> str:
    """How the command line spells a field."""
    return "--" + field.replace("_", "-")


PRESETS = ("quick", "standard", "paper")


def preset_text(name: str) -> str:
    """The TOML file, comments and all.

    Raises:
        InputError: an unknown preset.
    """
    if name not in PRESETS:
        raise InputError(f"--preset {name!r} is unknown: use {', '.join(PRESETS)}")
    return (resources.files("dpd_train") / "data" / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def resolve(preset: str | None, given: Mapping[str, Any]) -> TrainConfig:
    """Defaults, over them the preset's values, over them what the user gave.

    Args:
        given: by field of TrainConfig; None is not given.

    Raises:
        InputError: an unknown preset, a value out of range.
    """
    values = tomllib.loads(preset_text(preset)) if preset else {}
    known = {field.name for field in fields(TrainConfig)}
    if set(values) - known:
        raise ValueError(f"preset {preset}: no option {', '.join(sorted(set(values) - known))}")
    return TrainConfig(**(values | {name: value for name, value in given.items() if value is not None}))
