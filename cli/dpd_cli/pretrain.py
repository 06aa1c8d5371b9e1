"""`dpd pretrain`: a nano base from scratch."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer

Number = TypeVar("Number", int, float)


def pretrain_command(
    data: Annotated[
        list[str], typer.Argument(help="Class-per-folder trees of scenes; drawn:N for N drawn scenes of each class.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the base, in diffusers' layout.")],
    start: Annotated[str | None, typer.Option(help="Base to go on from: nano or a folder (default: none)")] = None,
    state: Annotated[Path | None, typer.Option(help="Resumable state; the user cache directory by default.")] = None,
    stage: Annotated[
        str, typer.Option(help="Comma-separated: perceptual, autoencoder, decoder, denoiser, save; or all.")
    ] = "all",
    autoencoder_steps: Annotated[int, typer.Option(help="Steps of the joint VAE training.")] = 3000,
    decoder_steps: Annotated[int, typer.Option(help="Steps of the decoder alone.")] = 3000,
    denoiser_steps: Annotated[int, typer.Option(help="Steps of the diffusion training.")] = 8000,
    perceptual_steps: Annotated[int, typer.Option(help="Steps of each perceptual network.")] = 800,
    autoencoder_batch: Annotated[int | None, typer.Option(help="Images in a step of the joint VAE training.")] = None,
    decoder_batch: Annotated[int | None, typer.Option(help="Images in a step of the decoder alone.")] = None,
    denoiser_batch: Annotated[int | None, typer.Option(help="Images in a step; a GPU wants 256.")] = None,
    perceptual_batch: Annotated[int | None, typer.Option(help="Images in a step of the perceptual network.")] = None,
    autoencoder_rate: Annotated[float | None, typer.Option(help="Peak learning rate of the joint training.")] = None,
    decoder_rate: Annotated[float | None, typer.Option(help="Peak learning rate of the decoder alone.")] = None,
    denoiser_rate: Annotated[float | None, typer.Option(help="Peak learning rate of the diffusion training.")] = None,
    perceptual_rate: Annotated[float | None, typer.Option(help="Peak learning rate of the perceptual network.")] = None,
    resolution: Annotated[int, typer.Option(help="Image side in pixels, a multiple of 16.")] = 64,
    val_per_class: Annotated[
        str | None, typer.Option(help="Validation images per class, never trained on: N, or N,N,… for each of DATA.")
    ] = None,
    shares: Annotated[
        str | None, typer.Option(help="What each of DATA gets of the draws, as 6,3,1 (default: roots of their sizes)")
    ] = None,
    crops: Annotated[
        bool, typer.Option("--crops", help="Of larger images take square crops too, of several sizes.")
    ] = False,
    latent_channels: Annotated[
        int | None, typer.Option(help="4 or 8, of a base from random weights (default: 4)")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: CUDA where it works.")] = "auto",
    max_minutes: Annotated[float | None, typer.Option(help="Stop at a checkpoint after so many minutes.")] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch threads; all cores by default.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train VAE, text encoder and UNet from random weights; the shipped base was made so.

    The same command again goes on where the last one stopped, on this device or another. Batches and rates that are
    not given are those of the shipped base.

    Examples: dpd pretrain eurosat/train --val-per-class 100 --out base
    · dpd pretrain DATA --out base --stage denoiser,save --threads 1
    · dpd pretrain eurosat/train ucmerced/train drawn:110 --val-per-class 100,10,10 --shares 6,3,1 --crops --out base
    · dpd pretrain DATA --out base --device cuda --denoiser-batch 256 --denoiser-rate 1e-3 --max-minutes 9
    """
    import logging
    import sys
    from dataclasses import replace

    from dpd_cli.terminal import print_json, stage_progress
    from dpd_cli.torch_half import require_torch
    from dpd_runtime.cache_folder import cache_folder
    from dpd_runtime.errors import InputError

    require_torch()
    import torch

    from dpd_train.device import use_device
    from dpd_train.multi_scale import Crops
    from dpd_train.pretrain import STAGES, pretrain
    from dpd_train.pretrain_config import PretrainConfig

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    stages = STAGES if stage == "all" else tuple(part.strip() for part in stage.split(","))
    for name in stages:
        if name not in STAGES:
            raise InputError(f"--stage {name!r} is unknown: use {', '.join(STAGES)} or all")
    if resolution % 16 or resolution < 16:
        raise InputError(f"--resolution {resolution}: the nano base needs a multiple of 16")
    if latent_channels not in (None, 4, 8):
        raise InputError(f"--latent-channels is {latent_channels}: use 4 or 8")
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
    held_out = _numbers("val-per-class", val_per_class, int)
    defaults = PretrainConfig(
        resolution=resolution,
        val_per_class=held_out[0] if held_out and len(held_out) == 1 else held_out,
        shares=_numbers("shares", shares, float),
        crops=Crops() if crops else None,
        seed=seed,
        start=start,
        latent_channels=latent_channels,
    )
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
            f"time is up    {unfinished['stage']} stands at step {unfinished['step']} of {unfinished['steps']}; "
            f"state in {folder}\nnext          the same command again goes on from there"
        )
    else:
        print(f"{', '.join(stages)} done; state in {folder}" + (f", base in {out}/" if "save" in stages else ""))


def _numbers(option: str, text: str | None, kind: type[Number]) -> tuple[Number, ...] | None:
    """ "6,3,1" → (6, 3, 1)."""
    from dpd_runtime.errors import InputError

    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"--{option} {text!r}: give {what} with commas between them") from None
