"""What decides a run of `dpd train`, apart from the data. Every field is an option, or a name of --set."""

# ruff: noqa: RUF009 -- setting() is dataclasses.field()
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import Any, Literal, get_args

from dpd_runtime.errors import InputError
from dpd_runtime.sampler import PrototypeKind
from dpd_runtime.settings import choices, setting
from dpd_runtime.text import called, option
from dpd_train.encoders import names_encoder, offered_encoders
from dpd_train.reading import ImageOptions

Tune = Literal["full", "lora"]
JudgeOn = Literal["latents", "pixels"]
Precision = Literal["bf16", "fp16", "fp32"]
RateSchedule = Literal["decay", "constant"]
Preset = Literal["quick", "standard", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
DEVICES = ("auto", "cpu", "cuda", "mps")
WATCHER_STEPS = 600
AUTO, OWN, HUB = "auto", "own", "hf:"
PUBLISHED_IMAGES = 300
"""Training images of each class behind the statistics of a published model, which sees them at its own, larger size."""
PUBLISHED_PART = 1 / 3
"""Of the steps of each block, the last ones, in which published models watch: with them a step takes three times as
long, and codes that own networks have matched first teach both kinds more (docs/results.md)."""
EARLIER_VIEWS = 4  # of an image of an earlier block of codes that a published network looks at
PUBLISHED_VIEWS = 3000  # least number of views behind them; own networks, which are cheaper, have more
WATCHERS_HELP = (
    "Networks in whose features codes are matched: auto, which is own and at most two published networks of "
    "DPD_NETWORKS or the hub cache (dpd data fetch gets some); or a list with commas of own, hf:ID_OR_PATH for "
    "published image models, and encoders of other packages, such as swimdiff:FOLDER (from dpd swimdiff)."
)

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
    "watcher_steps": 1,
    "matching_steps": 1,
    "resolution": 1,
}


def recorded_split(config: Mapping[str, Any]) -> dict[str, Any]:
    """The option that says how images were held out where a record does not, as older versions knew one way alone."""
    return {} if "split" in config or config.get("val_per_class") is None else {"split": "names"}


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a record by their present names and with their former defaults.

    Older versions had --crop, --segmenter and --prune, and no networks watched but a run's own.
    """
    crop, segmenter, prune = (config.get(name) for name in ("crop", "segmenter", "prune"))
    found = f"{crop}:{str(segmenter).replace(',', '+')}" if segmenter else crop
    samples = ",".join(str(part) for part in (found, prune) if part)
    kept = {name: value for name, value in config.items() if name not in ("crop", "segmenter", "prune")}
    return {"watchers": OWN} | kept | ({"samples": samples} if samples else {})


def repeating_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `dpd train`, by field, that repeat a run with this config in its run.json.

    Defaults are among them, since the next version may change them. Values without effect are not, as `resolve` would
    refuse them, nor what is no option: anybody may have written a record.
    """
    config, known = renamed(config), {field.name for field in fields(TrainConfig)}
    used = TrainConfig(**{name: value for name, value in config.items() if name in known})
    return recorded_split(config) | {
        name: value
        for name, value in config.items()
        if name in known and (name not in NO_EFFECT or not NO_EFFECT[name][0](used))
    }


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ImageOptions):
    """Everything that decides a run, apart from the data."""

    base: str = setting("nano", "Model", "Base model: nano, a diffusers folder or a hub id.")
    resolution: int | None = setting(None, "Data", "Image side in pixels. Default: the base's own.")
    ipc: int = setting(50, "Prototypes", "Prototypes per class, at most.")
    steps: int = setting(1500, "Model", "Fine-tuning steps. 0 keeps the base as it is.")
    batch: int = setting(32, "Model", "Images per fine-tuning step, over all processes together.")
    micro_batch: int | None = setting(
        None,
        "Running",
        "Images that one process computes at once. Changes memory, not the result. Default: the whole batch.",
    )
    gradient_checkpointing: bool = setting(
        False,
        "Running",
        "Compute the UNet's activations twice instead of keeping them: less memory, a third more time, the same "
        "result.",
    )
    precision: Precision = setting("bf16", "Running", "Arithmetic of the fine-tuning. fp16 needs CUDA.")
    peak_rate: float = setting(4e-4, "Model", "Learning rate after the warm-up.")
    warmup: int | None = setting(None, "Model", "Warm-up steps. Default: a fifth of --steps, at most 100.", study=True)
    schedule: RateSchedule = setting(
        "decay",
        "Model",
        "Learning rate after the warm-up: constant, or decay, which lowers it to zero over the last 30 % of the steps.",
        study=True,
    )
    tune: Tune | None = setting(
        None,
        "Model",
        "What to train: all weights of the UNet, or low-rank adapters. Default: full below 100 M parameters, lora "
        "above.",
    )
    lora_rank: int = setting(4, "Model", "Rank of the adapters, and their scaling factor alpha.", study=True)
    tune_vae: bool | None = setting(
        None,
        "Model",
        "Train the VAE's decoder on the images; the encoder does not change. Default: if the teacher loses more than "
        "5 points on reconstructions.",
    )
    vae_steps: int = setting(800, "Model", "Training steps of --tune-vae.", study=True)
    perceptual_steps: int = setting(
        800,
        "Model",
        "Training steps of each of the three networks that measure the loss of --tune-vae where no published one does.",
        study=True,
    )
    lambda_cls: float = setting(0.0, "Model", "Weight of the classification consistency in the loss.")
    judge_on: JudgeOn = setting(
        "latents",
        "Model",
        "What the classifier of --lambda-cls sees: latents, the predicted ones, or pixels, the decoded ones: slower.",
        study=True,
    )
    teacher_steps: int = setting(1200, "Model", "Training steps of the teacher, at most.", study=True)
    latent_classifier_steps: int = setting(
        800, "Model", "Training steps of the latent classifier, at most.", study=True
    )
    prototypes: PrototypeKind | None = setting(
        None,
        "Prototypes",
        "Kind of prototypes; centroid and medoid stay private. Default: matched, or pooled where a class has fewer "
        "than 20 images or the VAE's decoder is too large for a CPU.",
    )
    prototype_noise: float = setting(
        0.0,
        "Privacy",
        "Standard deviation of Gaussian noise on each prototype, in standard deviations of a latent value.",
    )
    watchers: str = setting(
        AUTO,
        "Prototypes",
        WATCHERS_HELP,
    )
    watcher_steps: int = setting(
        WATCHER_STEPS,
        "Prototypes",
        "Training steps of the longest watchers; the others' are in proportion.",
        study=True,
    )
    matching_steps: int = setting(
        300, "Prototypes", "Optimisation steps for each ten matched codes of a class.", study=True
    )
    k_min: int = setting(10, "Privacy", "Images behind one prototype, at least.")
    captioner: str = setting(
        "attributes", "Data", "What describes the images for the prompts: attributes, clip:ID or vlm:ID."
    )
    samples: str | None = setting(
        None,
        "Data",
        "Which training images are used, and as what: tdds:0.7 leaves out the 70 % of each class that teach least; "
        "foreground cuts images larger than --resolution to their objects, and foreground:GROUNDING_DINO+SAM2 to those "
        "that two models find. Several, separated by commas, are taken in their order. Default: all, whole.",
        "NAME:ARGUMENT,...",
    )
    grad_compression: str | None = setting(
        None,
        "Several machines",
        "Compress gradients between processes: rs-dgc:50 sends 50 times fewer bytes. Default: none.",
    )
    keep_near_duplicates: bool = setting(False, "Data", "Also train on images that are near duplicates of others.")
    seed: int = setting(0, "Running", "Random seed.")

    def __post_init__(self) -> None:
        """Raises:
        InputError: a value out of range; the message names its option.
        """
        super().__post_init__()
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"{called(TrainConfig, name)} is {value}: it must be at least {least}")
        for name, known in choices(TrainConfig).items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InputError(f"{called(TrainConfig, name)} {value!r} is unknown: use {', '.join(known)}")
        if not 0 < self.peak_rate <= 1:
            raise InputError(f"--peak-rate is {self.peak_rate}: it must be above 0 and at most 1")
        if not math.isfinite(self.prototype_noise):
            raise InputError(f"--prototype-noise is {self.prototype_noise}: give a finite number")
        if self.prototype_noise and self.prototypes not in ("centroid", "pooled"):
            raise InputError(
                f"--prototype-noise has no effect on --prototypes {self.prototypes or 'matched'}: take means, centroid "
                "or pooled"
            )
        if self.watchers not in (AUTO, OWN) and self.prototypes not in (None, "matched"):
            raise InputError(
                f"--watchers {self.watchers} has no effect on --prototypes {self.prototypes}: leave it out"
            )
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise InputError(f"--micro-batch is {self.micro_batch}: it must be at most --batch, {self.batch}")
        if self.grad_compression is not None and self.precision == "fp16":
            raise InputError(
                "--grad-compression adds up what it does not send, which may overflow in fp16: use bf16 or fp32"
            )
        if self.seed >= 2**32:
            raise InputError(f"--seed is {self.seed}: it must be below 2**32")
        if self.reading.carries:
            self._check_of_bands()

    def _check_of_bands(self) -> None:
        """Refuse what knows red, green and blue alone, and what needs a denoiser of the images' latents."""
        usual = {field.name: field.default for field in fields(TrainConfig)}
        refused = [name for name in OF_RGB if getattr(self, name) not in (usual[name], OWN)]
        refused += ["tune_vae"] if self.tune_vae is False else []
        refused += ["prototypes"] if self.prototypes not in (None, "matched") else []
        if refused:
            value = getattr(self, refused[0])
            shown = option(refused[0]) if value is True else f"{option(refused[0])} {value}"
            raise InputError(
                f"{'--no-tune-vae' if value is False else shown} is for red, green and blue, and --bands {self.bands} "
                "carries other bands: leave it out, or give three --bands"
            )


OF_RGB = ("captioner", "watchers", "lambda_cls", "prototype_noise")
"""Options that cannot be used where images carry other bands than red, green and blue."""


def for_bands(config: TrainConfig) -> TrainConfig:
    """The config for images that carry other bands than RGB: a VAE of their own, matched codes, no denoiser."""
    return replace(config, steps=0, tune_vae=True, prototypes="matched")


def check_device(name: str) -> None:
    """Check the name of a device.

    Raises:
        InputError: an unknown name.
    """
    if name not in DEVICES and not re.fullmatch(r"cuda:\d{1,4}", name):
        raise InputError(f"--device {name!r} is unknown: use auto, cpu, cuda, cuda:N or mps")


def preset_text(name: str) -> str:
    """Read the TOML file of a preset as text.

    Raises:
        InputError: an unknown preset.
    """
    if name not in PRESETS:
        raise InputError(f"--preset {name!r} is unknown: use {', '.join(PRESETS)}")
    return (resources.files("dpd_train") / "data" / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def resolve(preset: str | None, given: Mapping[str, Any]) -> TrainConfig:
    """Combine the defaults, the preset's values and the given ones; later ones win.

    Args:
        given: values by field of TrainConfig; None means not given.

    Raises:
        InputError: an unknown preset, a value out of range, or a given value without effect on this config.
    """
    config = TrainConfig(**asked_for(preset, given))
    for name, (idle, reason) in NO_EFFECT.items():
        if given.get(name) is not None and idle(config):
            raise InputError(f"{called(TrainConfig, name)} has no effect {reason}: leave it out")
    return config


UNTUNED: tuple[Callable[["TrainConfig"], bool], str] = (
    lambda config: config.steps == 0 or config.reading.carries,
    "without fine-tuning (--steps 0, or other bands than RGB)",
)
OF_TUNING = ("batch", "micro_batch", "gradient_checkpointing", "precision", "peak_rate", "warmup", "schedule", "tune")
NO_EFFECT: dict[str, tuple[Callable[[TrainConfig], bool], str]] = dict.fromkeys(
    (*OF_TUNING, "lambda_cls", "grad_compression"), UNTUNED
) | {
    "steps": (
        lambda config: config.steps > 0 and config.reading.carries,
        "on other bands than RGB, which no denoiser knows",
    ),
    "judge_on": (lambda config: config.lambda_cls == 0, "without --lambda-cls"),
    "lora_rank": (lambda config: config.tune == "full", "with --tune full"),
    "vae_steps": (lambda config: config.tune_vae is False, "with --no-tune-vae"),
    "perceptual_steps": (
        lambda config: config.tune_vae is False or config.reading.carries,
        "with --no-tune-vae, or on other bands than RGB",
    ),
    **dict.fromkeys(
        ("watcher_steps", "matching_steps"),
        (lambda config: config.prototypes not in (None, "matched"), "unless --prototypes is matched"),
    ),
    "ipc": (lambda config: config.prototypes == "none", "with --prototypes none"),
    "k_min": (lambda config: config.prototypes == "none", "with --prototypes none"),
}
"""Options that can be idle, when they are, and why."""


def asked_for(preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Combine the preset's values and the given ones, without defaults.

    Raises:
        InputError: an unknown preset.
    """
    import tomllib  # here, as --help imports this module

    values = tomllib.loads(preset_text(preset)) if preset else {}
    known = {field.name for field in fields(TrainConfig)}
    if set(values) - known:
        raise ValueError(f"preset {preset}: no option {', '.join(sorted(set(values) - known))}")
    return values | {name: value for name, value in given.items() if value is not None}


def extra_watchers(text: str) -> tuple[str, ...]:
    """Read the further ones of `--watchers own,NAME:FOLDER,hf:ID_OR_PATH,...`, as they are written there.

    There are none in `auto`, in whose place a run takes what `networks_here.settled` finds.

    Raises:
        InputError: own is missing, a name is unknown, or one stands twice.
    """
    if text == AUTO:
        return ()
    names = [part.strip() for part in text.split(",")]
    further = tuple(name for name in names if (name.startswith(HUB) and name != HUB) or names_encoder(name))
    faults = [f"{name!r} is none of them; a path holds no comma" for name in names if name not in (OWN, *further)]
    faults += [f"{name!r} stands there twice" for name in names if names.count(name) > 1]
    if OWN not in names:
        faults.append("own is missing: networks that learned from other labels or none judge no class")
    if faults:
        known = " or ".join((*offered_encoders(), f"{HUB}ID_OR_PATH"))
        raise InputError(
            f"--watchers {text!r}: say auto, or own and, once each, {known}, as in own,hf:MODEL; {faults[0]}"
        )
    return further


def published_watchers(text: str) -> tuple[str, ...]:
    """The published models among the further ones of `--watchers`, by folder or id, without `hf:`."""
    return tuple(name.removeprefix(HUB) for name in extra_watchers(text) if name.startswith(HUB))


# -- `dpd pretrain`: train a nano base from scratch.


Training = Literal["perceptual", "autoencoder", "decoder", "denoiser"]
TRAININGS: tuple[Training, ...] = get_args(Training)
Stage = Training | Literal["save"]
STAGES: tuple[Stage, ...] = (*TRAININGS, "save")
