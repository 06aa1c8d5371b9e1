"""`dpd swimdiff`: an encoder trained without labels. Loads no PyTorch before everything is checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from dpd_cli.commands.pretrain import SourceOptions, sources_of
from dpd_cli.options import (
    Device,
    Json,
    MaxMinutes,
    Threads,
    Values,
    begin_with_torch,
    options_of,
    require_torch,
    under,
)
from dpd_cli.terminal import print_json, stage_progress
from dpd_neighbours.swimdiff.config import SwimDiff
from dpd_runtime.errors import InputError
from dpd_runtime.files import cache_folder, check_cache, check_writable
from dpd_runtime.settings import setting
from dpd_runtime.text import counted
from dpd_train.config import check_device


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Options of the training. None is the default of `SwimDiff`."""

    lambda_contrast: float | None = setting(None, "Model", "Weight of the contrast in the loss. Default: 1.")
    lambda_diffusion: float | None = setting(None, "Model", "Weight of the diffusion part of the loss. Default: 1.")
    steps: int | None = setting(None, "Model", "Steps of the training. Default: 5000.")
    batch: int | None = setting(None, "Model", "Images per step. Default: 128.")
    rate: float | None = setting(None, "Model", "Peak learning rate. Default: 0.002.")


FIELDS = {
    "lambda_contrast": "contrast_weight",
    "lambda_diffusion": "diffusion_weight",
    "steps": "steps",
    "batch": "batch",
    "rate": "peak_rate",
}
"""Option → field of `SwimDiff`."""

Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Folders with one folder of images per class, or one folder of images; drawn:N for N drawn scenes per "
        "class.",
    ),
]
Out = Annotated[Path, under("Output", "Folder of the encoder.")]
State = Annotated[Path | None, under("Running", "Folder of the unfinished training. Default: the user's cache.")]
Resolution = Annotated[int, under("Data", "Image side in pixels, a multiple of 16.")]
Seed = Annotated[int, under("Running", "Random seed.")]


@options_of(SourceOptions, EncoderOptions)
def swimdiff_command(
    data: Data,
    out: Out,
    state: State = None,
    resolution: Resolution = 64,
    device: Device = "auto",
    max_minutes: MaxMinutes = None,
    threads: Threads = None,
    seed: Seed = 0,
    json_output: Json = False,
    *,
    given: Values,
) -> None:
    """Train an encoder on images without labels: SwiMDiff.

    It becomes an extractor, a watcher or the start of a student of other commands, as swimdiff:FOLDER. Run the same
    command again to continue where it stopped, on this device or another.

    Examples:
        dpd swimdiff eurosat/train --out encoder
        dpd swimdiff photographs/ --resolution 128 --crops --out encoder
        dpd select DATA --method herding --ipc 10 --extractor swimdiff:encoder
        dpd train DATA --watchers own,swimdiff:encoder
    """
    from dpd_neighbours.swimdiff.folder import check_new  # here, as these import what help does not need
    from dpd_neighbours.swimdiff.unlabelled import check_images

    if resolution % 16 or resolution < 16:
        raise InputError(f"--resolution {resolution}: the encoder needs a multiple of 16")
    if max_minutes is not None and not max_minutes >= 0:
        raise InputError(f"--max-minutes is {max_minutes}: give 0 or more")
    check_device(device)
    training = _training(given[EncoderOptions], seed)
    sources = sources_of(data, resolution, seed, given[SourceOptions])
    require_torch()
    check_writable(out)
    check_new(out)
    check_images(sources)
    folder = state or cache_folder("pretrain") / out.resolve().name
    check_cache(folder, "choose another --state")
    from dpd_neighbours.swimdiff.features import pretrain_features

    place = begin_with_torch(device, threads)
    with stage_progress() as progress:
        bar = progress("encoder without labels")
        made = pretrain_features(sources, out, folder, training, bar, device=place, max_minutes=max_minutes)
    _print(out, folder, made, json_output)


def _training(given: Mapping[str, Any], seed: int) -> SwimDiff:
    """The settings with the options that were given.

    Raises:
        InputError: a value out of range.
    """
    if given["rate"] == 0:  # which SwimDiff allows, as a control
        raise InputError("--rate is 0: it would train nothing; give a number above 0, such as 0.002")
    return SwimDiff(seed=seed, **{field: given[name] for name, field in FIELDS.items() if given[name] is not None})


def _print(out: Path, folder: Path, made: dict[str, Any], json_output: bool) -> None:
    if json_output:
        print_json({"out": str(out), **made})
    elif "unfinished" in made:
        left = made["unfinished"]
        print(
            f"time is up    swimdiff is at step {left['step']} of {left['steps']}; state in {folder}\n"
            "next          run the same command again to continue"
        )
    else:
        last = made["losses"][-1]
        print(
            f"encoder       {out}/, {made['parameters'] / 1e6:.1f} M parameters, "
            f"{counted(made['data']['images'], 'image')}"
        )
        print(f"losses        contrast {last['contrast']:.3f}, diffusion {last['diffusion']:.4f}")
        print(f"features      deviation {last['feature_std']:.2f}, where 0 is collapse and 1 the most")
        print(f"next          --extractor swimdiff:{out}, or dpd train --watchers own,swimdiff:{out}")
