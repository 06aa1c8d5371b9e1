"""What a run would generate: rows of its classes as cases for the sampler, as the bundle will hold them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from safetensors.numpy import save as tensor_bytes

from dpd_runtime.annotations import Float32
from dpd_runtime.generation.cases import Case
from dpd_runtime.sampling.noise import image_noise
from dpd_runtime.sampling.sample import noise_draws
from dpd_runtime.sampling.sampler import BlockGuidance, Sampler, sampler_schedule
from dpd_runtime.sampling.schedule import Schedule
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_train.bases.base import Base
from dpd_train.captions.captions import embed

Row = tuple[int, int]
"""(label, index) of an image."""


@dataclass(frozen=True)
class Scenes:
    """Args:
    table: classes.json. prompts: [P + 1, L, D], the empty prompt last, as the text encoder gives them.
    prototypes: for each class [K, …], K may be 0; values of float16, as in the bundle.
    """

    table: dict[str, Any]
    prompts: Float32
    prototypes: tuple[Float32, ...]
    latent_shape: tuple[int, int, int]
    schedule: Schedule
    mean_noise_gain: float = 1.0

    @property
    def names(self) -> list[str]:
        return [str(entry["name"]) for entry in self.table["classes"]]

    @property
    def block_factor(self) -> int:
        """Side of the blocks whose means the prototypes are (kind `pooled`); else 1."""
        heights = {p.shape[2] for p in self.prototypes if len(p)}
        return self.latent_shape[1] // heights.pop() if heights else 1

    def noise(self, rows: list[Row], seed: int, draws: int) -> Float32:
        """[1 + draws, n, C, h, w] of candidate 0."""
        shape, gain = self.latent_shape, self.mean_noise_gain
        found = [image_noise(seed, self.names[label], index, 0, shape, draws, gain) for label, index in rows]
        return np.stack(found, axis=1)

    def for_sampler(self, sampler: Sampler) -> "Scenes":
        """With the timesteps and the start noise that `sampler` asks for."""
        schedule = sampler_schedule(self.schedule, sampler)
        return replace(self, schedule=schedule, mean_noise_gain=sampler.mean_noise_gain)

    def case(
        self, rows: list[Row], solver: str, steps: int, guidance: BlockGuidance, batch: int, seed: int, *, half: bool
    ) -> Case:
        """Args: half: begin from noise rounded to float16, as golden images do."""
        make_steps, advance = SOLVERS[solver]
        made = tuple(make_steps(self.schedule, steps))
        noise = self.noise(rows, seed, noise_draws(made))
        texts = [self.table["classes"][label]["prompt_rows"] for label, _ in rows]
        steered = all(len(self.prototypes[label]) for label, _ in rows)
        kept = [self.prototypes[label] for label, _ in rows]
        return Case(
            noise=noise.astype(np.float16).astype(np.float32) if half else noise,
            prompts=self.prompts[[text[index % len(text)] for text, (_, index) in zip(texts, rows, strict=True)]],
            empty=self.prompts[-1],
            prototypes=np.stack([p[i % len(p)] for p, (_, i) in zip(kept, rows, strict=True)]) if steered else None,
            steps=made,
            advance=advance,
            prediction_type=self.schedule.prediction_type,
            guidance=guidance,
            batch=batch,
        )

    def prompt_bytes(self) -> bytes:
        half = self.prompts.astype(np.float16)
        return tensor_bytes({"embeddings": half[:-1], "empty": half[-1]})


def read_scenes(run: Path, base: Base) -> Scenes:
    """The class table of `run`, its prompts embedded by `base`, its prototypes."""
    table = json.loads((run / "classes.json").read_text(encoding="utf-8"))
    stored = load_file(run / "prototypes.safetensors")
    side = base.unet.config.sample_size
    shape = (int(base.unet.config.in_channels), side, side)
    none = np.zeros((0, *shape), np.float32)
    labels = range(len(table["classes"]))
    return Scenes(
        table=table,
        prompts=embed(base.text_encoder, base.tokenizer, [*table["prompts"], ""]).numpy(),
        prototypes=tuple(stored.get(f"class.{i}", none).astype(np.float16).astype(np.float32) for i in labels),
        latent_shape=shape,
        schedule=base.schedule,
    )


def prototype_bytes(run: Path) -> bytes:
    tensors = load_file(run / "prototypes.safetensors")
    return tensor_bytes({name: value.astype(np.float16) for name, value in tensors.items()})
