"""What `dpd export` refuses before it computes anything."""

import json
from pathlib import Path
from typing import Any

from dpd_runtime.errors import InputError
from dpd_runtime.sampling.prototype_kinds import PRIVATE_KINDS
from dpd_runtime.sampling.sampler import Sampler, suited_sampler


def read_run(run: Path) -> dict[str, Any]:
    """run.json.

    Raises:
        InputError: no finished run.
    """
    path = run / "run.json"
    if not path.is_file():
        unfinished = (run / "checkpoints").is_dir()
        hint = "finish it with dpd train … --resume" if unfinished else "give a folder that dpd train left"
        raise InputError(f"{run}: no run.json in it; {hint}")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "federated" in content and not (run / "classifier").is_dir():
        raise InputError(
            f"{run}: a federated server's run without images has no classifiers; where there are images, make a whole "
            f"one with dpd train DATA --base {run / 'pipeline'} --steps 0 --out RUN"
        )
    return content


def check_prototypes(run: Path, allow_real: bool) -> None:
    """Raises:
    InputError: the prototypes are real images, and that was not allowed.
    """
    kind = json.loads((run / "classes.json").read_text(encoding="utf-8"))["prototype_kind"]
    if kind in PRIVATE_KINDS and not allow_real:
        raise InputError(
            f"{run}: its prototypes ({kind}) are latents of real images and decode to them; train with --prototypes "
            "centroid or pooled, or pass --allow-real-prototypes where the images may leave"
        )


def sampler_of(run: Path) -> Sampler:
    """Ours for the prototypes which `run` has.

    Raises:
        InputError: no finished run.
    """
    read_run(run)
    table = json.loads((run / "classes.json").read_text(encoding="utf-8"))
    return suited_sampler(table)
