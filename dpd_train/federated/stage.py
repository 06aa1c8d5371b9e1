"""Federated tuning in place of a run's fine-tuning, and the run of a server that has no images."""

import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import MissingExtraError
from dpd_runtime.files import write_atomically
from dpd_runtime.machine.versions import package_versions
from dpd_train.bases.base import Base, at_resolution, load_base, save_base
from dpd_train.bases.folder import base_folder
from dpd_train.captions.captions import aggregate_prompts, embed
from dpd_train.compute.device import hardware
from dpd_train.config import TrainConfig
from dpd_train.diffusion.denoiser import LatentData
from dpd_train.diffusion.fine_tune import is_large, tune_of
from dpd_train.federated.coordinator import Coordinator
from dpd_train.federated.settings import SHARED, Federated, settings_of
from dpd_train.federated.shared import base_hash
from dpd_train.federated.site import Ground
from dpd_train.run.data import working_side
from dpd_train.run.folder import check_run_folder, write_prototypes
from dpd_train.run.ranks import denoiser_state
from dpd_train.run.sheets import sample_sheet
from dpd_train.run.stages.tuning import Run, Stages, Tuned

BYTES = ("sent_bytes", "returned_bytes", "dense_bytes")


def require_flower() -> None:
    """Raises:
    MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("flwr") is None:
        raise MissingExtraError("flwr", "fed")


def tuned_together(run: Run, part: Federated, base: Base, data: tuple[LatentData, LatentData], judge: Any) -> Tuned:
    """A run's tuning: a site takes its share; a server with images of its own keeps them out of it.

    Raises:
        PeerError, UpdateError, InputError: another participant has gone, or does not fit.
    """
    adapter, progress = run.out / "adapter", run.progress("federated tuning")
    if part.role == "server":
        return _served(base, run.config, part, adapter, progress)
    from dpd_train.federated.flower import take_part

    ground = Ground(
        base=base,
        data=data,
        classes=run.scenes.train.classes,
        config=run.config,
        state=denoiser_state(run.out),
        device=run.device,
        judge=judge,
        track=run.track,
        progress=progress,
    )
    site = take_part(ground, part)
    decided = {name: getattr(site.config, name) for name in SHARED if name != "seed"}
    record = {"role": "client", "rounds": site.settings.rounds, "seed": site.config.seed}
    return Tuned(site.finished(adapter), site.history, replace(run.config, **decided), record)


def _served(base: Base, config: TrainConfig, part: Federated, adapter: Path, progress: Progress) -> Tuned:
    from dpd_train.federated.flower import serve

    config = replace(config, tune=tune_of(config, base))
    settings = settings_of(part, config, base_hash(base), base.resolution)
    coordinator = Coordinator(base, config, settings, part.clients)
    serve(coordinator, part, progress)
    record = {"role": "server", "rounds": part.rounds, "clients": part.clients, "classes": part.classes}
    totals = {name: sum(round_[name] for round_ in coordinator.history) for name in BYTES}
    return Tuned(coordinator.finished(adapter), coordinator.history, config, record | totals)


def serve_without_images(
    out: Path, config: TrainConfig, part: Federated, progress: Stages, device: torch.device
) -> dict[str, Any]:
    """What needs no image: pipeline, class names as prompts, samples, log. Returns the content of run.json.

    Raises:
        as `tuned_together`.
    """
    check_run_folder(out, resume=False)
    base = load_base(config.base)
    multiple = base.downsampling * 2 ** (len(base.unet.config.block_out_channels) - 1)
    native = base.resolution
    side = working_side(config.base, native, multiple, is_large(base), config.resolution, native)
    base = base if side == native else at_resolution(base, side)
    out.mkdir(parents=True, exist_ok=True)  # better refused now than after the last round
    tuned = _served(base, config, part, out / "adapter", progress("federated tuning"))
    return _write(out, tuned, part.classes, device)


def _write(out: Path, tuned: Tuned, classes: tuple[str, ...], device: torch.device) -> dict[str, Any]:
    base, config = tuned.base, tuned.config
    none = [None] * len(classes)
    table = aggregate_prompts(classes, [[] for _ in classes], none, config.k_min, tokenizer=base.tokenizer)
    save_base(base, out / "pipeline", base_folder(config.base) / "tokenizer")
    write_prototypes(out, "none", classes, table, none)
    (out / "samples").mkdir(exist_ok=True)
    embeddings = embed(base.text_encoder, base.tokenizer, table.texts)
    rows = torch.tensor([row[0] for row in table.rows])
    sheet = sample_sheet(base, classes, embeddings[rows], config.seed, 2 if is_large(base) else 6)
    Image.fromarray(sheet).save(out / "samples" / "final.png")
    lines = "".join(json.dumps(entry) + "\n" for entry in tuned.history)
    (out / "log.jsonl").write_text(lines, encoding="utf-8")
    record = {
        "config": asdict(config) | {"resolution": base.resolution},
        "federated": tuned.federated,
        "metrics": {"denoiser": tuned.history},
        "versions": package_versions("dpd-distill", "torch", "flwr"),
        "hardware": hardware(device),
    }
    write_atomically(out / "run.json", (json.dumps(record, indent=1) + "\n").encode())
    return record
