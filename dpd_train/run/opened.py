"""Open a finished run: its networks, prompts and prototypes."""

from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file

from dpd_runtime.annotations import Float32
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.bases.base import Base, load_base
from dpd_train.captions.captions import embed
from dpd_train.classifiers.network import ResNet, load_classifier
from dpd_train.run.finished import FinishedRun


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
            image_shape=(self.base.resolution, self.base.resolution, int(self.base.vae.config.out_channels)),
            latent_shape=self.latent_shape,
            scaling_factor=float(self.base.vae.config.scaling_factor),
            prediction_type=self.base.schedule.prediction_type,
            sampler=sampler,
            precision="fp32",
            opset=0,
            files={},
            data={"fingerprint": self.run.record["data"]["sha256"]},
            bands=self.run.bands,
        )


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
