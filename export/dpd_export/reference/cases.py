"""Sampling cases from a run's classes, with prompts and prototypes as the bundle will hold them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dpd_runtime.annotations import Float32
from dpd_runtime.generation.cases import Case
from dpd_runtime.sampling.noise import image_noise
from dpd_runtime.sampling.sample import noise_draws
from dpd_runtime.sampling.sampler import Sampler, sampler_schedule
from dpd_runtime.sampling.schedule import Schedule
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_train.run.opened import OpenedRun

Row = tuple[int, int]
"""(label, index) of an image."""


@dataclass(frozen=True)
class RunCases:
    """Everything except the networks that determines a run's images.

    Args:
        table: the content of classes.json.
        prompts: [P + 1, L, D] as the text encoder gives them, the empty prompt last.
        prototypes: for each class [K, C, h, w], rounded to float16 as in the bundle; K may be 0.
        latent_shape: (C, h, w).
        schedule: with the sampler's spacing of timesteps.
    """

    table: dict[str, Any]
    prompts: Float32
    prototypes: tuple[Float32, ...]
    latent_shape: tuple[int, int, int]
    schedule: Schedule
    sampler: Sampler

    @property
    def names(self) -> list[str]:
        """Names of the classes, by label."""
        return [str(entry["name"]) for entry in self.table["classes"]]

    def case(self, rows: list[Row], steps: int, batch: int, seed: int, *, half: bool = False) -> Case:
        """Candidate 0 of these images, made as the sampler makes sampled images.

        Args:
            half: round the noise to float16, as golden images store it.
        """
        make_steps, advance = SOLVERS[self.sampler.solver]
        made = tuple(make_steps(self.schedule, steps))
        noise = self._noise(rows, seed, noise_draws(made))
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
            guidance=self.sampler.first_sampled(),
            batch=batch,
        )

    def _noise(self, rows: list[Row], seed: int, draws: int) -> Float32:
        """[1 + draws, n, C, h, w]."""
        shape, gain = self.latent_shape, self.sampler.mean_noise_gain
        noises = [image_noise(seed, self.names[label], index, 0, shape, draws, gain) for label, index in rows]
        return np.stack(noises, axis=1)


def cases_of(opened: OpenedRun, sampler: Sampler) -> RunCases:
    """The cases of an opened run, sampled by `sampler`."""
    return RunCases(
        table=opened.run.table,
        prompts=opened.prompts,
        prototypes=tuple(p.astype(np.float16).astype(np.float32) for p in opened.prototypes),
        latent_shape=opened.latent_shape,
        schedule=sampler_schedule(opened.base.schedule, sampler),
        sampler=sampler,
    )


def spread(count: int, among: list[int]) -> list[int]:
    """`count` evenly spaced labels of `among`."""
    return [among[i * len(among) // count] for i in range(count)]
