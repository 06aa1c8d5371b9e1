"""What decides a run of `dpd train`, apart from the data. Every field is an option of the command line."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dpd_runtime.errors import InputError
from dpd_runtime.sampling.prototype_kinds import PrototypeKind

Tune = Literal["full", "lora"]
JudgeOn = Literal["latents", "pixels"]
Precision = Literal["bf16", "fp16", "fp32"]
Crop = Literal["foreground"]
RateSchedule = Literal["decay", "constant"]
Preset = Literal["quick", "standard", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

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


def described(help: str, panel: str) -> dict[str, str]:
    """Metadata of a config's field, from which the command line makes an option.

    Args:
        help: the text of `--help`. The command line adds the accepted values of a Literal and the default, if there is
            one; a text says what None stands for.
        panel: heading in `--help`: Data, Model, Prototypes, Privacy, Running or Several machines.
    """
    return {"help": help, "panel": panel}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run, apart from the data."""

    base: str = field(default="nano", metadata=described("Base model: nano, a diffusers folder or a hub id.", "Model"))
    resolution: int | None = field(
        default=None, metadata=described("Image side in pixels. Default: the base's own.", "Data")
    )
    ipc: int = field(default=50, metadata=described("Prototypes per class, at most.", "Prototypes"))
    steps: int = field(default=500, metadata=described("Fine-tuning steps. 0 keeps the base as it is.", "Model"))
    batch: int = field(
        default=32, metadata=described("Images per fine-tuning step, over all processes together.", "Model")
    )
    micro_batch: int | None = field(
        default=None,
        metadata=described(
            "Images that one process computes at once. Changes memory, not the result. Default: the whole batch.",
            "Running",
        ),
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata=described(
            "Compute the UNet's activations twice instead of keeping them: less memory, a third more time, the same "
            "result.",
            "Running",
        ),
    )
    precision: Precision = field(
        default="bf16", metadata=described("Arithmetic of the fine-tuning. fp16 needs CUDA.", "Running")
    )
    peak_rate: float = field(default=1e-4, metadata=described("Learning rate after the warm-up.", "Model"))
    warmup: int | None = field(
        default=None, metadata=described("Warm-up steps. Default: a fifth of --steps, at most 100.", "Model")
    )
    schedule: RateSchedule = field(
        default="decay",
        metadata=described(
            "Learning rate after the warm-up: decay lowers it to zero over the last 30 % of the steps.", "Model"
        ),
    )
    tune: Tune | None = field(
        default=None,
        metadata=described(
            "What to train: all weights of the UNet, or low-rank adapters. Default: full below 100 M parameters, lora "
            "above.",
            "Model",
        ),
    )
    lora_rank: int = field(
        default=4, metadata=described("Rank of the adapters, and their scaling factor alpha.", "Model")
    )
    tune_vae: bool = field(
        default=False,
        metadata=described("First train the VAE's decoder on the images. The encoder does not change.", "Model"),
    )
    vae_steps: int = field(default=800, metadata=described("Training steps of --tune-vae.", "Model"))
    perceptual_steps: int = field(
        default=800,
        metadata=described(
            "Training steps of each of the three networks that measure the loss of --tune-vae.", "Model"
        ),
    )
    lambda_cls: float = field(
        default=0.0, metadata=described("Weight of the classification consistency in the loss.", "Model")
    )
    judge_on: JudgeOn = field(
        default="latents",
        metadata=described(
            "What the classifier of --lambda-cls sees: the predicted latents, or the slower decoded pixels.", "Model"
        ),
    )
    teacher_steps: int = field(default=1200, metadata=described("Training steps of the teacher, at most.", "Model"))
    latent_classifier_steps: int = field(
        default=800, metadata=described("Training steps of the judge, a classifier of latents, at most.", "Model")
    )
    prototypes: PrototypeKind = field(
        default="centroid",
        metadata=described(
            "Kind of prototypes. A medoid is the latent of a real image and stays private.", "Prototypes"
        ),
    )
    prototype_noise: float = field(
        default=0.0,
        metadata=described(
            "Standard deviation of Gaussian noise on each prototype, in standard deviations of a latent value.",
            "Privacy",
        ),
    )
    matching_steps: int = field(
        default=300, metadata=described("Optimisation steps for each ten matched codes of a class.", "Prototypes")
    )
    k_min: int = field(default=10, metadata=described("Images behind one prototype, at least.", "Privacy"))
    captioner: str = field(
        default="attributes",
        metadata=described("What describes the images for the prompts: attributes, clip:ID or vlm:ID.", "Data"),
    )
    bands: str | None = field(
        default=None,
        metadata=described(
            "Bands to use as red, green and blue, such as 4,3,2; the first is 1. Default: those of the file.", "Data"
        ),
    )
    stretch: str | None = field(
        default=None,
        metadata=described(
            "What becomes black and white: percentiles such as 2,98, or pixel values such as 0:3000.", "Data"
        ),
    )
    crop: Crop | None = field(
        default=None,
        metadata=described(
            "Cut images that are larger than --resolution to their objects. Default: shrink whole images.", "Data"
        ),
    )
    segmenter: str | None = field(
        default=None,
        metadata=described(
            "Models that find the objects for --crop: GROUNDING_DINO,SAM2. Default: a saliency map, no model.", "Data"
        ),
    )
    val_per_class: int | None = field(
        default=None,
        metadata=described("Validation images per class. Default: a tenth of the class, at least 1.", "Data"),
    )
    prune: str | None = field(
        default=None,
        metadata=described(
            "Leave out the images that teach least: tdds:0.7 leaves out 70 % of each class. Default: none.", "Data"
        ),
    )
    grad_compression: str | None = field(
        default=None,
        metadata=described(
            "Compress gradients between processes: rs-dgc:50 sends 50 times fewer bytes. Default: none.",
            "Several machines",
        ),
    )
    keep_near_duplicates: bool = field(
        default=False, metadata=described("Also train on images that are near duplicates of others.", "Data")
    )
    seed: int = field(default=0, metadata=described("Random seed.", "Running"))

    def __post_init__(self) -> None:
        """Raises:
        InputError: a value out of range, by the name of its option.
        """
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"{option(name)} is {value}: it must be at least {least}")
        for name, known in choices(TrainConfig).items():
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


@cache
def choices(config: type) -> dict[str, tuple[str, ...]]:
    """The accepted values of every field whose type is a Literal, an optional Literal or a tuple of them."""
    return {name: found for name, hint in get_type_hints(config).items() if (found := _literal(hint))}


def _literal(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((found for part in get_args(hint) if (found := _literal(part))), ())


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
