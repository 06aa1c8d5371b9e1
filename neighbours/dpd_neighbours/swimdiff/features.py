"""`dpd swimdiff`: images → the folder of an encoder."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dpd_neighbours.swimdiff.config import SwimDiff
from dpd_neighbours.swimdiff.folder import save_encoder
from dpd_neighbours.swimdiff.training import train_swimdiff
from dpd_neighbours.swimdiff.unlabelled import read_unlabelled
from dpd_runtime.annotations import Progress
from dpd_runtime.versions import package_versions
from dpd_train.compute import Deadline, TimeUp, hardware
from dpd_train.networks import count_parameters
from dpd_train.pool import Sources
from dpd_train.pretrain import Timed

log = logging.getLogger(__name__)


def pretrain_features(
    sources: Sources,
    out: Path,
    state: Path,
    training: SwimDiff,
    progress: Progress = lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Train an encoder on the training images of `sources` and write its folder.

    Args:
        state: folder for resumable state; its file is deleted when the encoder is written.
        max_minutes: stop at a checkpoint after this time; the same call continues from there.

    Returns:
        "timing", and "unfinished": {stage, step, steps} if time ran out, or else the content of features.json.

    Raises:
        InputError, DataError: as `read_unlabelled`, or a state of another training.
    """
    deadline, unfinished = Deadline(max_minutes), state / "swimdiff.safetensors"
    data = read_unlabelled(sources)
    timed = Timed(progress)
    try:
        encoder, losses = train_swimdiff(data, training, timed, device=device, deadline=deadline, state=unfinished)
    except TimeUp as stop:
        log.info("swimdiff: %s", stop)
        stage = {"stage": "swimdiff", "step": stop.step, "steps": stop.steps}
        return {"timing": {"swimdiff": timed.summary()}, "unfinished": stage}
    record = {
        "resolution": sources.resolution,
        "seed": training.seed,
        "training": asdict(training),
        "parameters": count_parameters(encoder),
        "data": data.record,
        "losses": losses,
        "versions": package_versions("dpd-distill", "torch", "numpy", "pillow"),
        "hardware": hardware(torch.device(device)),
    }
    save_encoder(encoder, out, record)
    unfinished.unlink(missing_ok=True)
    return {"timing": {"swimdiff": timed.summary()}, **record}
