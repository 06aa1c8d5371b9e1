"""`dpd pretrain`: a nano base from scratch."""

from pathlib import Path
from typing import Annotated

import typer


def pretrain_command(
    data: Annotated[Path, typer.Argument(help="Class-per-folder tree of scenes.")],
    out: Annotated[Path, typer.Option(help="Folder of the base, in diffusers' layout.")],
    state: Annotated[Path | None, typer.Option(help="Resumable state; the user cache directory by default.")] = None,
    stage: Annotated[
        str, typer.Option(help="Comma-separated: perceptual, autoencoder, decoder, denoiser, save; or all.")
    ] = "all",
    autoencoder_steps: Annotated[int, typer.Option(help="Steps of the joint VAE training.")] = 3000,
    decoder_steps: Annotated[int, typer.Option(help="Steps of the decoder alone.")] = 2000,
    denoiser_steps: Annotated[int, typer.Option(help="Steps of the diffusion training.")] = 8000,
    perceptual_steps: Annotated[int, typer.Option(help="Steps of the perceptual network.")] = 600,
    resolution: Annotated[int, typer.Option(help="Image side in pixels, a multiple of 16.")] = 64,
    val_per_class: Annotated[int | None, typer.Option(help="Validation images per class, never trained on.")] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch threads; all cores by default.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train VAE, text encoder and UNet from random weights; the shipped base was made so.

    The same command again goes on where the last one stopped.

    Examples: dpd pretrain eurosat/train --val-per-class 100 --out base
    · dpd pretrain DATA --out base --stage denoiser,save --threads 1
    """
    import logging
    import os
    import sys
    from dataclasses import replace

    from dpd_cli.terminal import print_json, stage_progress
    from dpd_cli.torch_half import require_torch
    from dpd_runtime.errors import InputError

    require_torch()
    import torch

    from dpd_train.pretrain import STAGES, PretrainConfig, pretrain

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    stages = STAGES if stage == "all" else tuple(part.strip() for part in stage.split(","))
    for name in stages:
        if name not in STAGES:
            raise InputError(f"--stage {name!r} is unknown: use {', '.join(STAGES)} or all")
    if resolution % 16 or resolution < 16:
        raise InputError(f"--resolution {resolution}: the nano base needs a multiple of 16")
    if threads:
        torch.set_num_threads(threads)
    defaults = PretrainConfig()
    config = PretrainConfig(
        resolution=resolution,
        val_per_class=val_per_class,
        seed=seed,
        perceptual=replace(defaults.perceptual, steps=perceptual_steps),
        autoencoder=replace(defaults.autoencoder, steps=autoencoder_steps),
        decoder=replace(defaults.decoder, steps=decoder_steps),
        denoiser=replace(defaults.denoiser, steps=denoiser_steps),
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = state or cache / "dpd" / "pretrain" / out.resolve().name
    with stage_progress() as progress:
        metrics = pretrain(data, out, folder, config, stages, progress)  # type: ignore[arg-type]
    if json_output:
        print_json({"out": str(out), "stages": list(stages), "metrics": metrics})
    else:
        print(f"{', '.join(stages)} done; state in {folder}" + (f", base in {out}/" if "save" in stages else ""))
