"""`dpd pretrain --bands`: the VAE of a base, trained on images of other bands; nothing else of the base changes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dpd_runtime.annotations import Progress
from dpd_runtime.machine.versions import package_versions
from dpd_runtime.text import counted
from dpd_train.bases.base import at_resolution, load_base, save_base
from dpd_train.bases.folder import RECORD_NAME, base_folder, check_base_bands
from dpd_train.compute.device import Deadline, TimeUp, hardware
from dpd_train.images import to_float
from dpd_train.pretrain.pool import Sources, read_pool
from dpd_train.pretrain.record import Timed, add_piece, check_same, pieces
from dpd_train.vae.autoencoder import AutoencoderTraining, reconstruction_metrics, train_autoencoder
from dpd_train.vae.bands import with_bands


def pretrain_bands(
    sources: Sources,
    start: str,
    out: Path,
    state: Path,
    training: AutoencoderTraining,
    progress: Progress = lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Train the VAE of the base `start` on all bands of the images and write the base to `out`.

    Args:
        sources: with a reading that carries their bands.
        state: folder for resumable state.
        max_minutes: stop at a checkpoint after this time; the same call continues from there.

    Returns:
        what is also written to the base's pretrain.json, and "timing"; or "timing" and "unfinished": {stage, step,
        steps} if time ran out.

    Raises:
        InputError, DataError: unusable images, a base for other bands, or a state of something else.
    """
    pool, device = read_pool(sources), torch.device(device)
    bands = pool.train.bands
    check_base_bands(start, bands)
    first = load_base(start)
    settings = {"autoencoder": asdict(training), "start": Path(start).name, "resolution": sources.resolution}
    settings |= {"seed": sources.seed}
    base = at_resolution(with_bands(first, len(bands)), sources.resolution)
    state.mkdir(parents=True, exist_ok=True)
    check_same(state, pool.record, sources.resolution, sources.seed, first.vae)
    images, held = (torch.from_numpy(scenes.images) for scenes in (pool.train, pool.held))
    timed = Timed(progress)
    more: dict[str, Any] = {"progress": timed, "device": device, "deadline": Deadline(max_minutes)}
    try:
        train_autoencoder(
            base.vae, images, held, training, state / "autoencoder.safetensors", weights=pool.weights, **more
        )
    except TimeUp as stop:
        unfinished = {"stage": "autoencoder", "step": stop.step, "steps": stop.steps}
        return {"timing": {"autoencoder": timed.summary()}, "unfinished": unfinished}
    finally:
        if done := timed.summary()["steps"]:
            add_piece(
                state, start, f"VAE of {counted(len(bands), 'band')}: {done} of {counted(training.steps, 'step')}"
            )
    record = {
        "config": settings,
        "pieces": pieces(state, start),
        "bands": [band.name for band in bands],
        "hardware": hardware(device),
        "versions": package_versions("torch", "diffusers", "transformers"),
        "data": pool.record,
        "autoencoder": reconstruction_metrics(base.vae, to_float(held)),
    }
    save_base(base, out, base_folder(start) / "tokenizer", torch.float16)
    (out / RECORD_NAME).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return record | {"timing": {"autoencoder": timed.summary()}}
