"""Open a finished run: its record and class table first, then its networks, prompts and prototypes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from dpd_runtime.annotations import Float32
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.errors import InputError
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.bases.base import Base, load_base
from dpd_train.captions.captions import embed
from dpd_train.classifiers.network import ResNet, load_classifier


@dataclass(frozen=True)
class FinishedRun:
    """A run directory that `dpd train` completed.

    Args:
        record: the content of run.json.
        table: the content of classes.json.
    """

    path: Path
    record: dict[str, Any]
    table: dict[str, Any]


@dataclass(frozen=True)
class OpenedRun:
    """A finished run with its networks loaded.

    Args:
        prompts: embeddings [P + 1, L, D] of the class table's prompts, the empty prompt last.
        stored_prototypes: the content of prototypes.safetensors.
    """

    run: FinishedRun
    base: Base
    teacher: ResNet
    latent_classifier: ResNet
    prompts: Float32
    stored_prototypes: dict[str, Float32]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        side = int(self.base.unet.config.sample_size)
        return int(self.base.unet.config.in_channels), side, side

    @property
    def prototypes(self) -> list[Float32]:
        """For each class [K, C, h, w]; K may be 0."""
        none = np.zeros((0, *self.latent_shape), np.float32)
        return [self.stored_prototypes.get(f"class.{label}", none) for label in range(len(self.run.table["classes"]))]

    def manifest(self, sampler: Sampler) -> Manifest:
        """The manifest of the run's networks as they are: float32, no graphs, no files."""
        return Manifest(
            name=self.run.path.resolve().name,
            image_shape=(self.base.resolution, self.base.resolution, 3),
            latent_shape=self.latent_shape,
            scaling_factor=float(self.base.vae.config.scaling_factor),
            prediction_type=self.base.schedule.prediction_type,
            sampler=sampler,
            precision="fp32",
            opset=0,
            files={},
            data={"fingerprint": self.run.record["data"]["sha256"]},
        )


def read_run(path: Path) -> FinishedRun:
    """Read run.json and classes.json, and load no network.

    Raises:
        InputError: `path` holds no finished run, or one without classifiers.
    """
    if not (path / "run.json").is_file():
        unfinished = (path / "checkpoints").is_dir()
        hint = "finish it with dpd train … --resume" if unfinished else "give a folder that dpd train left"
        raise InputError(f"{path}: no run.json in it; {hint}")
    record, table = (json.loads((path / name).read_text(encoding="utf-8")) for name in ("run.json", "classes.json"))
    if "federated" in record and not (path / "classifier").is_dir():
        raise InputError(
            f"{path}: a federated server's run without images has no classifiers; on a machine with images, make a "
            f"complete run with dpd train DATA --base {path / 'pipeline'} --steps 0 --out RUN"
        )
    return FinishedRun(path, record, table)


def load_run(run: FinishedRun) -> OpenedRun:
    """Load a run's networks and prototypes, and embed its prompts.

    Raises:
        InputError: a pipeline that cannot be opened.
    """
    base = load_base(str(run.path / "pipeline"))
    return OpenedRun(
        run=run,
        base=base,
        teacher=load_classifier(run.path / "classifier"),
        latent_classifier=load_classifier(run.path / "latent_classifier"),
        prompts=embed(base.text_encoder, base.tokenizer, [*run.table["prompts"], ""]).numpy(),
        stored_prototypes=load_file(run.path / "prototypes.safetensors"),
    )
