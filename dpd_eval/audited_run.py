"""Give a run's PyTorch networks the interface of a bundle's graphs, so that the same code audits both."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dpd_eval.audited_model import Model
from dpd_runtime.annotations import Array
from dpd_runtime.bundle import Bundle
from dpd_runtime.classes import SceneClass, images_behind
from dpd_runtime.networks import Networks
from dpd_runtime.sampler import fitted, sampler_schedule, suited_sampler
from dpd_train.context import LoadedRun, load_run
from dpd_train.run import Run


@dataclass(frozen=True)
class TorchEngine:
    """A function of tensors as a `dpd_runtime.engines.Engine`."""

    call: Callable[..., torch.Tensor]

    @torch.no_grad()
    def run(self, **inputs: Array) -> Array:
        output: Array = self.call(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs.values())).numpy()
        return output


def model_of_run(run: Run) -> Model:
    """Open a run as its exported bundle would be, with the default sampler.

    Raises:
        InputError: a pipeline that cannot be opened.
    """
    opened = load_run(run)
    base = opened.base
    networks = Networks(
        unet=TorchEngine(lambda sample, timestep, context: base.unet(sample, timestep, context).sample),
        decoder=TorchEngine(lambda latents: base.vae.decode(latents).sample),
        latent_classifier=TorchEngine(opened.latent_classifier),
    )
    return Model(_as_bundle(opened), networks, TorchEngine(opened.teacher))


def _as_bundle(opened: LoadedRun) -> Bundle:
    table = opened.run.table
    sampler = fitted(suited_sampler(table), opened.latent_shape[1])
    classes = tuple(
        SceneClass(
            entry["name"],
            label,
            tuple(entry["prompt_rows"]),
            prototypes,
            table["prototype_kind"],
            images_behind(table["prototype_kind"], entry["prototype_counts"]),
        )
        for label, (entry, prototypes) in enumerate(zip(table["classes"], opened.prototypes, strict=True))
    )
    return Bundle(
        path=opened.run.path,
        manifest=opened.manifest(sampler),
        hash="",
        schedule=sampler_schedule(opened.base.schedule, sampler),
        classes=classes,
        prompts=tuple(table["prompts"]),
        prompt_embeddings=opened.prompts[:-1],
        empty_embedding=opened.prompts[-1],
        files={},
    )
