"""Writing a run directory (docs/guides/train.md): pipeline, prototypes, pictures, log and run.json."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save

from dpd_runtime.files import write_atomically
from dpd_runtime.machine.versions import package_versions
from dpd_runtime.sampling.prototype_kinds import PRIVATE_KINDS
from dpd_runtime.strict_json import loads
from dpd_train.bases.base import save_base
from dpd_train.bases.folder import RECORD_NAME, base_folder
from dpd_train.compute.device import hardware
from dpd_train.config import OWN
from dpd_train.diffusion.fine_tune import tune_of
from dpd_train.run.context import Run, Trained
from dpd_train.run.data import RunData, rows_by_class
from dpd_train.run.folder import recorded, stored_watchers


def write_run(out: Path, trained: Trained) -> None:
    """Write everything but the classifiers, which their stage has written, and run.json."""
    tuned = trained.tuned
    save_base(tuned.base, out / "pipeline", base_folder(tuned.config.base) / "tokenizer")
    _write_prototypes(out, trained)
    (out / "samples").mkdir(exist_ok=True)
    Image.fromarray(trained.samples).save(out / "samples" / "final.png")
    if trained.sheets:
        folder = out / "private" / "prototypes"
        folder.mkdir(parents=True, exist_ok=True)
        for name, sheet in trained.sheets.items():
            Image.fromarray(sheet).save(folder / f"{name}.png")
    lines = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in tuned.history)
    (out / "log.jsonl").write_text(lines, encoding="utf-8")


def _write_prototypes(out: Path, trained: Trained) -> None:
    """Write prototypes.safetensors, and classes.json: names, prompts, each prototype's prompt and number of members.

    Both files are marked as private where the prototypes are of a private kind.
    """
    prototypes, table = trained.prototypes.of_class, trained.prompts
    kind = (trained.tuned.config.prototypes or "none") if any(prototypes) else "none"
    private = {"private": True} if kind in PRIVATE_KINDS else {}
    content = {
        "prototype_kind": kind,
        **private,
        "prompts": table.texts,
        "classes": [
            {"name": name, "prompt_rows": rows, "prototype_counts": own.counts if own else ()}
            for name, rows, own in zip(trained.classes, table.rows, prototypes, strict=True)
        ],
    }
    (out / "classes.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    tensors = {f"class.{i}": torch.from_numpy(p.latents) for i, p in enumerate(prototypes) if p is not None}
    marked = {"private": PRIVATE_KINDS[kind]} if private else None
    write_atomically(out / "prototypes.safetensors", save(tensors, marked))


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Write run.json, which marks the run as finished."""
    write_atomically(out / "run.json", (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def run_record(run: Run, trained: Trained) -> dict[str, Any]:
    """The content of run.json except the times."""
    tuned, data, made = trained.tuned, run.data, trained.prototypes
    config, train = tuned.config, data.train
    chosen: dict[str, Any] = {"resolution": tuned.base.resolution, "tune": tune_of(config, tuned.base)}
    watchers = stored_watchers(run.out)
    if watchers:
        chosen["watchers"] = ",".join([OWN, *(watcher["name"] for watcher in watchers)])
    pretraining = _base_pretraining(base_folder(config.base))
    return {
        "config": recorded(config) | chosen,
        "data": data.fingerprint | config.held_out_options | {"scene_sides": data.sides.record()},
        **({"rendering": train.rendering.record()} if train.rendering else {}),
        "rejected": len(data.findings.rejected),
        "near_duplicates": None if config.keep_near_duplicates else len(data.findings.near),
        **({} if config.prune else _scenes(data)),
        **({"images_after_pruning": len(train.labels)} if config.prune else {}),
        **({"crop": data.cropped.record} if data.cropped else {}),
        "prototypes": {
            name: len(own.counts) if own else 0 for name, own in zip(train.classes, made.of_class, strict=True)
        },
        "prototypes_too_near": made.too_near,
        **({"watchers": watchers} if watchers else {}),
        **({"prototype_privacy": made.privacy} if made.privacy else {}),
        **({"private_prototypes": True} if config.prototypes in PRIVATE_KINDS else {}),
        "metrics": trained.metrics | {"denoiser": tuned.history},
        **({"base_pretraining": pretraining} if pretraining else {}),
        "versions": package_versions("dpd-distill", "torch", "diffusers", "transformers", "numpy"),
        "hardware": hardware(run.device),
        **({"federated": tuned.federated} if tuned.federated else {}),
        **({"processes": run.team.size} if run.team.size > 1 else {}),
    }


def _scenes(data: RunData) -> dict[str, Any]:
    """{"scenes": class → distinct scenes of the training images} where they are fewer than the images; else nothing."""
    scenes = {name: len(rows) for name, rows in zip(data.train.classes, rows_by_class(data.train), strict=True)}
    return {"scenes": scenes} if sum(scenes.values()) < int(str(data.fingerprint["images"])) else {}


def _base_pretraining(folder: Path) -> dict[str, Any] | None:
    """The pretrain.json of a base that `dpd pretrain` made; None for others."""
    try:
        content = loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
