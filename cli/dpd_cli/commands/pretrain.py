"""`dpd pretrain`: a nano base from scratch."""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Device, Json, MaxMinutes, Threads, require_torch, under
from dpd_cli.terminal import print_json, stage_progress
from dpd_runtime.errors import InputError


def pretrain_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with one folder of images per class.")],
    out: Annotated[Path, under("Output", "Folder of the base, in diffusers' layout.")],
    start: Annotated[str | None, under("Model", "Base to start from: nano or a folder. Default: none.")] = None,
    state: Annotated[Path | None, under("Running", "Folder of the state. Default: the user's cache.")] = None,
    stage: Annotated[
        str,
        under(
            "Running", "Stages, separated by commas.", metavar="perceptual|autoencoder|decoder|denoiser|save|all,..."
        ),
    ] = "all",
    autoencoder_steps: Annotated[int, under("Steps", "Steps of the joint VAE training.")] = 3000,
    decoder_steps: Annotated[int, under("Steps", "Steps of the training of the decoder alone.")] = 3000,
    denoiser_steps: Annotated[int, under("Steps", "Steps of the diffusion training.")] = 8000,
    perceptual_steps: Annotated[int, under("Steps", "Steps of each perceptual network.")] = 800,
    autoencoder_batch: Annotated[int | None, under("Batches", "Images per step of the joint VAE training.")] = None,
    decoder_batch: Annotated[int | None, under("Batches", "Images per step of the decoder alone.")] = None,
    denoiser_batch: Annotated[
        int | None, under("Batches", "Images per step of the diffusion training; 256 suits a GPU.")
    ] = None,
    perceptual_batch: Annotated[int | None, under("Batches", "Images per step of a perceptual network.")] = None,
    autoencoder_rate: Annotated[
        float | None, under("Learning rates", "Peak learning rate of the joint VAE training.")
    ] = None,
    decoder_rate: Annotated[float | None, under("Learning rates", "Peak learning rate of the decoder alone.")] = None,
    denoiser_rate: Annotated[
        float | None, under("Learning rates", "Peak learning rate of the diffusion training.")
    ] = None,
    perceptual_rate: Annotated[
        float | None, under("Learning rates", "Peak learning rate of a perceptual network.")
    ] = None,
    resolution: Annotated[int, under("Data", "Image side in pixels, a multiple of 16.")] = 64,
    val_per_class: Annotated[
        int | None,
        under("Data", "Validation images per class, never trained on. Default: a tenth of the class, at least 1."),
    ] = None,
    device: Device = "auto",
    max_minutes: MaxMinutes = None,
    threads: Threads = None,
    seed: Annotated[int, under("Running", "Random seed.")] = 0,
    json_output: Json = False,
) -> None:
    """Train a nano base: VAE, text encoder and UNet from random weights.

    The base in this package was made so. Run the same command again to continue where it stopped, on this device or
    another. Batches and rates that are not given are those of the base in this package.

    Examples:
        dpd pretrain eurosat/train --val-per-class 100 --out base
        dpd pretrain DATA --out base --stage denoiser,save --threads 1
        dpd pretrain DATA --out base --device cuda --denoiser-batch 256
    """
    import logging
    import sys
    from dataclasses import replace

    from dpd_runtime.files import cache_folder

    require_torch()
    import torch

    from dpd_train.compute.device import use_device
    from dpd_train.pretrain.config import PretrainConfig
    from dpd_train.pretrain.pretrain import STAGES, pretrain

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    stages = STAGES if stage == "all" else tuple(part.strip() for part in stage.split(","))
    for name in stages:
        if name not in STAGES:
            raise InputError(f"--stage {name!r} is unknown: use {', '.join(STAGES)} or all")
    if resolution % 16 or resolution < 16:
        raise InputError(f"--resolution {resolution}: the nano base needs a multiple of 16")
    if threads:
        torch.set_num_threads(threads)
    given = {
        "perceptual": {"steps": perceptual_steps, "batch": perceptual_batch, "peak_rate": perceptual_rate},
        "autoencoder": {"steps": autoencoder_steps, "batch": autoencoder_batch, "peak_rate": autoencoder_rate},
        "decoder": {"steps": decoder_steps, "batch": decoder_batch, "peak_rate": decoder_rate},
        "denoiser": {"steps": denoiser_steps, "batch": denoiser_batch, "peak_rate": denoiser_rate},
    }
    for name, values in given.items():
        for what, value in values.items():
            if value is not None and value <= 0:
                raise InputError(f"--{name}-{what.removeprefix('peak_')} is {value}: it must be positive")
    if max_minutes is not None and max_minutes < 0:
        raise InputError(f"--max-minutes is {max_minutes}: give 0 or more")
    place = use_device(device)
    defaults = PretrainConfig(resolution=resolution, val_per_class=val_per_class, seed=seed, start=start)
    config = replace(
        defaults,
        **{
            name: replace(getattr(defaults, name), **{k: v for k, v in values.items() if v is not None})
            for name, values in given.items()
        },
    )
    folder = state or cache_folder("pretrain") / out.resolve().name
    with stage_progress() as progress:
        metrics = pretrain(
            data,
            out,
            folder,
            config,
            stages,  # type: ignore[arg-type]
            progress,
            device=place,
            max_minutes=max_minutes,
        )
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
