"""run.json: what a run was, on what, and how good its parts are."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from dpd_runtime.machine.versions import package_versions
from dpd_runtime.sampling.prototype_kinds import PRIVATE_KINDS
from dpd_train.bases.base import Base
from dpd_train.classifiers.network import ResNet, accuracy
from dpd_train.classifiers.training import Labelled
from dpd_train.compute.device import hardware
from dpd_train.config import TrainConfig
from dpd_train.diffusion.fine_tune import History, tune_of
from dpd_train.prototypes.prototypes import ClassPrototypes
from dpd_train.run.data import Scenes
from dpd_train.vae.autoencoder import reconstruction_metrics

RATED = 500  # images which go through the VAE


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Float images [n, 3, H, W] through encoder and decoder, clamped to [-1, 1]."""
    parts = []
    for i in range(0, len(images), batch):
        latents = vae.encode(images[i : i + batch]).latent_dist.mode()
        parts.append(vae.decode(latents).sample)
    return torch.cat(parts).clamp(-1, 1)


def base_pretraining(folder: Path) -> dict[str, Any] | None:
    """The pretrain.json of a base that `dpd pretrain` made; None for others."""
    try:
        content = json.loads((folder / "pretrain.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _metrics(base: Base, teacher: ResNet, judge: ResNet, pixels: Labelled, latents: Labelled) -> dict[str, Any]:
    images, labels = pixels
    every = max(1, len(images) // RATED)
    some = images[::every]
    return {
        "teacher_oa": accuracy(teacher, images, labels),
        "teacher_oa_on_the_same_images": accuracy(teacher, some, labels[::every]),
        "teacher_oa_on_reconstructions": accuracy(teacher, reconstruct(base.vae, some), labels[::every]),
        "latent_classifier_oa": accuracy(judge, *latents),
        "vae": reconstruction_metrics(base.vae, some),
    }


@dataclass(frozen=True)
class MadePrototypes:
    """Of each class.

    Args:
        too_near: how many were dropped; None where they are real images, which are near by nature.
        privacy: `guarantee` of the noise.
    """

    of_class: list[ClassPrototypes | None]
    too_near: int | None
    privacy: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run made.

    Args:
        pixels, latents: of the validation part, with labels.
    """

    base: Base
    teacher: ResNet
    judge: ResNet
    prototypes: MadePrototypes
    history: History
    pixels: Labelled
    latents: Labelled


def run_record(
    config: TrainConfig, scenes: Scenes, trained: Trained, device: torch.device, folder: Path
) -> dict[str, Any]:
    """The content of run.json but for the seconds. folder: the base's."""
    base, kind, train = trained.base, config.prototypes, scenes.train
    chosen = {"resolution": base.resolution, "tune": tune_of(config, base)}
    pretraining = base_pretraining(folder)
    return {
        "config": asdict(config) | chosen,
        "data": scenes.given | {"val_per_class": config.val_per_class},
        **({"rendering": train.rendering.record()} if train.rendering else {}),
        "rejected": len(scenes.findings.rejected),
        "near_duplicates": None if config.keep_near_duplicates else len(scenes.findings.near),
        **({"images_after_pruning": len(train.labels)} if config.prune else {}),
        **({"crop": scenes.cropped.record} if scenes.cropped else {}),
        "prototypes": {
            name: len(found.counts) if found else 0
            for name, found in zip(train.classes, trained.prototypes.of_class, strict=True)
        },
        "prototypes_too_near": trained.prototypes.too_near,
        **({"prototype_privacy": trained.prototypes.privacy} if trained.prototypes.privacy else {}),
        **({"private_prototypes": True} if kind in PRIVATE_KINDS else {}),
        "metrics": {
            **_metrics(base, trained.teacher, trained.judge, trained.pixels, trained.latents),
            "denoiser": trained.history,
        },
        **({"base_pretraining": pretraining} if pretraining else {}),
        "versions": package_versions("dpd-distill", "torch", "diffusers", "transformers", "numpy"),
        "hardware": hardware(device),
    }
