"""`dpd pretrain --features`: an encoder trained without labels. Nothing of a base is trained on this path."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpd_cli.options import require_torch
from dpd_cli.progress import log_to_console, stage_progress
from dpd_cli.terminal import print_json
from dpd_runtime.command_line import option
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted
from dpd_train.options import choices, setting  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_train.pretrain.pool import Sources
    from dpd_train.pretrain.swimdiff.config import SwimDiff


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Options of an encoder. None is the default of `SwimDiff`."""

    features: Literal["swimdiff"] | None = setting(
        None,
        "Model",
        "Train an encoder without labels instead of a base, for --extractor and --watchers of other commands. Options "
        "of the base's trainings are then refused.",
    )
    lambda_contrast: float | None = setting(
        None, "Model", "Weight of the contrast in the loss of --features. Default: 1."
    )
    lambda_diffusion: float | None = setting(
        None, "Model", "Weight of the diffusion loss in the loss of --features. Default: 1."
    )
    swimdiff_steps: int | None = setting(None, "Steps", "Steps of --features swimdiff. Default: 5000.")
    swimdiff_batch: int | None = setting(None, "Batches", "Images per step of --features swimdiff. Default: 128.")
    swimdiff_rate: float | None = setting(
        None, "Learning rates", "Peak learning rate of --features swimdiff. Default: 0.002."
    )


FIELDS = {
    "lambda_contrast": "contrast_weight",
    "lambda_diffusion": "diffusion_weight",
    "swimdiff_steps": "steps",
    "swimdiff_batch": "batch",
    "swimdiff_rate": "peak_rate",
}


def wants_features(given: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether an encoder is asked for instead of a base.

    Args:
        given: values of FeatureOptions. base: options of a base by field; None for those that were not given.

    Raises:
        InputError: an unknown value, or an option that would be ignored.
    """
    kind = given["features"]
    known = choices(FeatureOptions)["features"]
    if kind is not None and kind not in known:
        raise InputError(f"--features {kind!r} is unknown: use {', '.join(known)}")
    needless = [name for name, value in (given if kind is None else base).items() if value is not None]
    if needless and kind is None:
        raise InputError(f"{option(needless[0])} has no effect without --features {known[0]}: leave it out")
    if needless:
        raise InputError(f"{option(needless[0])} has no effect with --features {kind}, which trains no base")
    return kind is not None


def pretrain_features_command(
    sources: "Sources",
    out: Path,
    given: Mapping[str, Any],
    *,
    state: Path | None,
    device: str,
    threads: int | None,
    max_minutes: float | None,
    json_output: bool,
) -> None:
    """Check what was asked for, train the encoder, and print what was made."""
    from dpd_runtime.files import cache_folder, check_cache
    from dpd_train.classifiers.encoder import check_new
    from dpd_train.pretrain.swimdiff.unlabelled import check_images

    training = _training(given, sources.seed)
    check_new(out)
    check_images(sources)
    require_torch()
    folder = state or cache_folder("pretrain") / out.resolve().name
    check_cache(folder, "choose another --state")
    import torch

    from dpd_train.compute.device import use_device
    from dpd_train.pretrain.swimdiff.features import pretrain_features

    log_to_console()
    if threads:
        torch.set_num_threads(threads)
    place = use_device(device)
    with stage_progress() as progress:
        bar = progress("encoder without labels")
        made = pretrain_features(sources, out, folder, training, bar, device=place, max_minutes=max_minutes)
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


def _training(given: Mapping[str, Any], seed: int) -> "SwimDiff":
    from dpd_train.pretrain.swimdiff.config import SwimDiff

    asked = {field: given[name] for name, field in FIELDS.items() if given[name] is not None}
    if given["swimdiff_rate"] == 0:  # which SwimDiff allows, as a control
        raise InputError("--swimdiff-rate is 0: it would train nothing; give a number above 0, such as 0.002")
    return SwimDiff(seed=seed, **asked)
