"""`dpd pretrain`: a nano base from random weights, or a VAE for other bands."""

# ruff: noqa: RUF009 -- setting() is dataclasses.field()
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpd_cli.options import (
    Device,
    Json,
    MaxMinutes,
    Threads,
    Tracker,
    Values,
    begin_with_torch,
    options_of,
    require_torch,
    under,
)
from dpd_cli.terminal import print_json, stage_progress
from dpd_runtime.errors import InputError
from dpd_runtime.files import cache_folder, check_cache, check_writable
from dpd_runtime.settings import setting
from dpd_runtime.text import called
from dpd_train.config import HUB, STAGES, TRAININGS, check_device  # noqa: TID253 -- loads no PyTorch
from dpd_train.reading import PLAIN, By, parse_reading  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_train.pool import Sources
    from dpd_train.pretrain import PretrainConfig
    from dpd_train.vae import AutoencoderTraining


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How the images of DATA are used."""

    val_per_class: tuple[int, ...] | None = setting(
        None,
        "Data",
        "Validation images per class, never trained on; for several DATA one number, or one for each. Default: a tenth "
        "of the class, at least 1.",
        "N,...",
    )
    split: By | None = setting(
        None, "Data", "How they are chosen: by a hash of each file, or the last file names. Default: content."
    )
    shares: tuple[float, ...] | None = setting(
        None,
        "Data",
        "How often training uses each of DATA, such as 6,3,1. Default: in proportion to the square root of its number "
        "of images.",
        "SHARE,...",
    )
    crops: bool = setting(
        False, "Data", "Also train on square crops of images larger than --resolution, at several scales."
    )


@dataclass(frozen=True, kw_only=True)
class BandOptions:
    """How images of other bands than RGB are read."""

    bands: str | None = setting(
        None,
        "Data",
        "Train only a VAE, for these bands, by number from 1 or by name, or all. It begins at that of --start, or else "
        "of nano.",
    )
    stretch: str | None = setting(
        None, "Data", "What becomes black and white in each band. Default: the percentiles 2,98."
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Steps, batch and learning rate of each training."""

    autoencoder_steps: int | None = setting(
        None, "Model", "Steps of the joint VAE training. Default: 3000. With --bands: 800.", study=True
    )
    decoder_steps: int | None = setting(
        None,
        "Model",
        "Steps of the training of the decoder alone. Default: 3000. With --perceptual-network: 9000.",
        study=True,
    )
    denoiser_steps: int | None = setting(None, "Model", "Steps of the diffusion training. Default: 8000.", study=True)
    perceptual_network: str | None = setting(
        None,
        "Model",
        "Published network that compares the images of the stage decoder, as hf:ID_OR_PATH, in place of the perceptual "
        "networks. Real images through such a VAE teach published networks more.",
        "hf:ID_OR_PATH",
    )
    perceptual_steps: int | None = setting(None, "Model", "Steps of each perceptual network. Default: 800.", study=True)
    autoencoder_batch: int | None = setting(None, "Model", "Images per step of the joint VAE training.", study=True)
    decoder_batch: int | None = setting(None, "Model", "Images per step of the decoder alone.", study=True)
    denoiser_batch: int | None = setting(
        None, "Model", "Images per step of the diffusion training; 256 suits a GPU.", study=True
    )
    perceptual_batch: int | None = setting(None, "Model", "Images per step of a perceptual network.", study=True)
    autoencoder_rate: float | None = setting(None, "Model", "Peak learning rate of the joint VAE training.", study=True)
    decoder_rate: float | None = setting(None, "Model", "Peak learning rate of the decoder alone.", study=True)
    denoiser_rate: float | None = setting(None, "Model", "Peak learning rate of the diffusion training.", study=True)
    perceptual_rate: float | None = setting(None, "Model", "Peak learning rate of a perceptual network.", study=True)


Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Folders with one folder of images per class; drawn:N for N drawn scenes per class.",
    ),
]
Out = Annotated[Path, under("Output", "Folder of the base, in diffusers' layout.")]
Start = Annotated[str | None, under("Model", "Base to start from: nano or a folder. Default: none.")]
State = Annotated[Path | None, under("Running", "Folder of the state. Default: the user's cache.")]
Stage = Annotated[
    str,
    under("Running", "Stages, separated by commas.", metavar="perceptual|autoencoder|decoder|denoiser|save|all,..."),
]
Resolution = Annotated[int, under("Data", "Image side in pixels, a multiple of 16.")]
LatentChannels = Annotated[int | None, under("Model", "Latent channels, 4 or 8. Default: those of --start, or else 4.")]
AttentionLevels = Annotated[
    int | None,
    under(
        "Model",
        "Coarsest levels of the UNet with attention, 1 to 3; more than those of --start are added to it. "
        "Default: those of --start, or else 1.",
    ),
]
Seed = Annotated[int, under("Running", "Random seed.")]


@options_of(SourceOptions, BandOptions, TrainingOptions)
def pretrain_command(
    data: Data,
    out: Out,
    start: Start = None,
    state: State = None,
    stage: Stage = "all",
    resolution: Resolution = 64,
    latent_channels: LatentChannels = None,
    attention_levels: AttentionLevels = None,
    device: Device = "auto",
    max_minutes: MaxMinutes = None,
    threads: Threads = None,
    seed: Seed = 0,
    tracker: Tracker = None,
    json_output: Json = False,
    *,
    given: Values,
) -> None:
    """Train a nano base: VAE, text encoder and UNet from random weights.

    Run the same command again to continue where it stopped, on this device or another. Batches and rates that are not
    given are those that made the base in this package.

    Examples:
        dpd pretrain eurosat/train --val-per-class 100 --out base
        dpd pretrain eurosat/train drawn:110 --val-per-class 100,10 --out base
        dpd pretrain DATA --out base --stage denoiser,save --threads 1
        dpd pretrain DATA --out base --device cuda --set denoiser_batch=256
        dpd pretrain sentinel2/ --bands all --out base13
    """
    from dpd_train.tracking import check_tracker

    stages: Any = STAGES if stage == "all" else tuple(part.strip() for part in stage.split(","))
    _check_options(stages, resolution, latent_channels, max_minutes, given[TrainingOptions])
    check_device(device)
    if attention_levels not in (None, 1, 2, 3):
        raise InputError(f"--attention-levels is {attention_levels}: use 1, 2 or 3")
    check_tracker(tracker)
    shape = {"latent_channels": latent_channels, "attention_levels": attention_levels, "tracker": tracker}
    sources = sources_of(data, resolution, seed, given[SourceOptions], given[BandOptions])
    _check_reading(sources, shape | {"stage": None if stage == "all" else stage} | given[TrainingOptions])
    network = given[TrainingOptions]["perceptual_network"]
    if network is not None and not (network.startswith(HUB) and network != HUB):
        raise InputError(f"--perceptual-network {network}: give it as {HUB}ID_OR_PATH")
    if network is not None and not {"decoder", "save"} & {*stages}:
        raise InputError("--perceptual-network has no effect without the stages decoder and save: leave it out")
    require_torch()
    check_writable(out)
    _check_place(out)
    _check_data(sources, start)
    own = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]  # two bases may have one name
    folder = state or cache_folder("pretrain") / f"{out.resolve().name}-{own}"
    check_cache(folder, "choose another --state")
    from dpd_train.base_files import SHIPPED_BASE
    from dpd_train.pretrain import pretrain, pretrain_bands

    place = begin_with_torch(device, threads)
    if network is not None:
        _check_network(network)
    with stage_progress() as progress:
        if sources.reading.carries:
            training, stages = _of_bands(seed, given[TrainingOptions]), ("autoencoder", "save")
            bar, first = progress("VAE"), start or SHIPPED_BASE
            metrics = pretrain_bands(sources, first, out, folder, training, bar, device=place, max_minutes=max_minutes)
        else:
            config = _config(sources, start, latent_channels, attention_levels, given[TrainingOptions])
            running: dict[str, Any] = {"device": place, "max_minutes": max_minutes, "tracker": tracker}
            metrics = pretrain(data, out, folder, config, stages, progress, **running)
    _print(out, folder, stages, metrics, json_output)


def _check_options(
    stages: tuple[str, ...],
    resolution: int,
    latent_channels: int | None,
    max_minutes: float | None,
    given: dict[str, Any],
) -> None:
    """Check the values of options.

    Raises:
        InputError: an unknown stage, or a value out of range.
    """
    if unknown := [name for name in stages if name not in STAGES]:
        raise InputError(f"--stage {unknown[0]!r} is unknown: use {', '.join(STAGES)} or all")
    if resolution % 16 or resolution < 16:
        raise InputError(f"--resolution {resolution}: the nano base needs a multiple of 16")
    if latent_channels not in (None, 4, 8):
        raise InputError(f"--latent-channels is {latent_channels}: use 4 or 8")
    if max_minutes is not None and not max_minutes >= 0:
        raise InputError(f"--max-minutes is {max_minutes}: give 0 or more")
    for name, value in given.items():
        if isinstance(value, int | float) and not value > 0:
            raise InputError(f"{called(TrainingOptions, name)} is {value}: it must be positive")


def _check_place(out: Path) -> None:
    """Check that `out` is free, or a base, which the same command may write again.

    Raises:
        InputError: something else is there.
    """
    if out.exists() and not (out / "model_index.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is neither an empty folder nor a base; choose another --out")


def sources_of(
    data: list[str], resolution: int, seed: int, given: Mapping[str, Any], bands: Mapping[str, Any] | None = None
) -> "Sources":
    """Return the sources of DATA. One number of --val-per-class is for all sources.

    Args:
        given: values of `SourceOptions`. bands: of `BandOptions`; None reads the colours of each file.

    Raises:
        InputError: bands or a stretch that cannot be read.
    """
    from dpd_train.pool import Sources
    from dpd_train.scene_set import Crops

    held_out = given["val_per_class"]
    return Sources(
        data=tuple(data),
        resolution=resolution,
        val_per_class=held_out[0] if held_out and len(held_out) == 1 else held_out,
        split=given["split"] or "content",
        shares=given["shares"],
        crops=Crops() if given["crops"] else None,
        seed=seed,
        reading=PLAIN if bands is None else parse_reading(bands["bands"], bands["stretch"]),
    )


def _check_reading(sources: "Sources", of_rgb: dict[str, Any]) -> None:
    """Check the other options beside --bands, which trains only a VAE.

    Args:
        of_rgb: options of a base, None for those that were not given.

    Raises:
        InputError: an option that would be ignored.
    """
    if not sources.reading.carries:
        return
    given = ["crops"] if sources.crops is not None else []
    given += [name for name, value in of_rgb.items() if value is not None and not name.startswith("autoencoder_")]
    if given:
        raise InputError(
            f"{called(TrainingOptions, given[0])} has no effect with --bands, which trains only a VAE: leave it out"
        )


def _of_bands(seed: int, given: dict[str, Any]) -> "AutoencoderTraining":
    """Return the settings of a VAE for bands with the given steps, batch and rate."""
    from dpd_train.config import TrainConfig
    from dpd_train.vae import bands_training

    training: AutoencoderTraining = _changed(bands_training(TrainConfig(seed=seed)), "autoencoder", given)
    return training


def _changed(training: Any, name: str, given: dict[str, Any]) -> Any:
    """Return the settings of the training `name` with its options that were given."""
    fields = {"steps": "steps", "batch": "batch", "rate": "peak_rate"}
    asked = {field: given[f"{name}_{what}"] for what, field in fields.items()}
    return replace(training, **{field: value for field, value in asked.items() if value is not None})


def _check_data(sources: "Sources", start: str | None) -> None:
    """Check DATA and --start before PyTorch is imported."""
    from dpd_train.base_files import base_folder, check_base
    from dpd_train.pool import check_sources

    check_sources(sources)
    if start is not None:
        check_base(start, base_folder(start))


def _check_network(name: str) -> None:
    """Open a published network before anything is trained.

    Raises:
        InputError: it cannot be opened, or does not look at crops as networks of convolutions do.
    """
    from dpd_train.published import check_crops

    try:
        check_crops(name.removeprefix(HUB))
    except InputError as error:
        raise InputError(f"--perceptual-network: {error}") from error


SEEDS_APART = 1000  # trainings of one base have other seeds than each other, and than those of another --seed


def _config(
    sources: "Sources",
    start: str | None,
    latent_channels: int | None,
    attention_levels: int | None,
    given: dict[str, Any],
) -> "PretrainConfig":
    """Return the config with the given steps, batches and rates of each training, whose seeds follow that of all."""
    from dpd_train.pretrain import PretrainConfig
    from dpd_train.vae import PUBLISHED_DECODER

    config = PretrainConfig(
        resolution=sources.resolution,
        seed=sources.seed,
        start=start,
        latent_channels=latent_channels,
        attention_levels=attention_levels,
        val_per_class=sources.val_per_class,
        split=sources.split,
        shares=sources.shares,
        crops=sources.crops,
        perceptual_network=given["perceptual_network"],
    )
    if config.perceptual_network is not None:
        config = replace(config, decoder=PUBLISHED_DECODER)
    trainings = {name: _changed(getattr(config, name), name, given) for name in TRAININGS}
    moved = {name: replace(one, seed=one.seed + SEEDS_APART * sources.seed) for name, one in trainings.items()}
    return replace(config, **moved)


def _print(out: Path, folder: Path, stages: tuple[str, ...], metrics: dict[str, Any], json_output: bool) -> None:
    timing, unfinished = metrics.pop("timing"), metrics.pop("unfinished", None)
    if json_output:
        said = {"out": str(out), "stages": list(stages), "timing": timing, "metrics": metrics}
        print_json(said | ({"unfinished": unfinished} if unfinished else {}))
    elif unfinished:
        print(
            f"time is up    {unfinished['stage']} is at step {unfinished['step']} of {unfinished['steps']}; "
            f"state in {folder}\nnext          run the same command again to continue"
        )
    else:
        print(f"{', '.join(stages)} done; state in {folder}" + (f", base in {out}/" if "save" in stages else ""))
