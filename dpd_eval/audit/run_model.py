"""A run's PyTorch networks behind the interface of a bundle's graphs, so that one code audits both."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from dpd_eval.audit.model import Model
from dpd_runtime.annotations import Array
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.classes import SceneClass
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.generation.networks import Networks
from dpd_runtime.sampling.sampler import fitted, sampler_schedule, suited_sampler
from dpd_train.bases.base import Base, load_base
from dpd_train.captions.prompts import embed
from dpd_train.classifiers.judges import load_classifier


@dataclass(frozen=True)
class TorchEngine:
    """`dpd_runtime.engines.engine.Engine` of a function of tensors."""

    call: Callable[..., torch.Tensor]

    @torch.no_grad()
    def run(self, **inputs: Array) -> Array:
        output: Array = self.call(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs.values())).numpy()
        return output


def open_run(run: Path) -> Model:
    """The run as its export would be, with the default sampler.

    Raises:
        InputError: a pipeline that cannot be opened.
    """
    base = load_base(str(run / "pipeline"))
    teacher, judge = load_classifier(run / "classifier"), load_classifier(run / "latent_classifier")
    networks = Networks(
        unet=TorchEngine(lambda sample, timestep, context: base.unet(sample, timestep, context).sample),
        decoder=TorchEngine(lambda latents: base.vae.decode(latents).sample),
        judge=TorchEngine(judge),
    )
    return Model(_as_bundle(run, base), networks, TorchEngine(teacher))


def _as_bundle(run: Path, base: Base) -> Bundle:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    table = json.loads((run / "classes.json").read_text(encoding="utf-8"))
    stored, side = load_file(run / "prototypes.safetensors"), int(base.unet.config.sample_size)
    shape = (int(base.unet.config.in_channels), side, side)
    none, sampler = np.zeros((0, *shape), np.float32), fitted(suited_sampler(table), side)
    embeddings = embed(base.text_encoder, base.tokenizer, [*table["prompts"], ""]).numpy()
    classes = tuple(
        SceneClass(
            entry["name"],
            label,
            tuple(entry["prompt_rows"]),
            stored.get(f"class.{label}", none),
            table["prototype_kind"],
        )
        for label, entry in enumerate(table["classes"])
    )
    manifest = Manifest(
        name=run.resolve().name,
        image_shape=(base.resolution, base.resolution, 3),
        latent_shape=shape,
        scaling_factor=float(base.vae.config.scaling_factor),
        prediction_type=base.schedule.prediction_type,
        sampler=sampler,
        precision="fp32",
        opset=0,
        files={},
        data={"fingerprint": record["data"]["sha256"]},
    )
    return Bundle(
        path=run,
        manifest=manifest,
        hash="",
        schedule=sampler_schedule(base.schedule, sampler),
        classes=classes,
        prompts=tuple(table["prompts"]),
        prompt_embeddings=embeddings[:-1],
        empty_embedding=embeddings[-1],
        files={},
    )
