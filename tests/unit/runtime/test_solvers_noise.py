"""Fresh noise of stochastic solvers belongs to the image. Arithmetic stands for the networks; all else is true code."""

import math
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from dpd_runtime import Generation, Image, embedded_bundle, load_bundle
from dpd_runtime.bundle import Bundle
from dpd_runtime.generation import resolve_sampler
from dpd_runtime.sampling import NoiseStream, to_uint8

pytest.importorskip("onnxruntime")
SEED, STEPS = 5, 4
CLASSES = ("SeaLake", "Forest")


class Rows:
    """A graph whose answer to a row hangs on that row alone, to the last bit."""

    def __init__(self, graph: str) -> None:
        self.graph = graph

    def run(self, **inputs: Any) -> Any:
        if self.graph == "unet/model.onnx":  # v = 0.3 z
            return np.float32(0.3) * inputs["sample"]
        if self.graph == "vae_decoder/model.onnx":
            return inputs["latent_sample"][:, :3].repeat(4, axis=2).repeat(4, axis=3)
        return inputs["latents"].reshape(len(inputs["latents"]), -1)[:, :10]


class Arithmetic(Bundle):
    def engine(self, graph: str, *_: Any, **__: Any) -> Any:
        return Rows(graph)


@lru_cache
def bundle() -> Bundle:
    opened = load_bundle(embedded_bundle())
    return Arithmetic(**{field.name: getattr(opened, field.name) for field in fields(opened)})


def generated(solver: str, *, batch: int = 10, ipc: int = 12, classes: tuple[str, ...] = CLASSES) -> Generation:
    sampler = resolve_sampler(bundle().manifest.sampler, steps=STEPS, solver=solver, candidates=2)
    guidance = tuple(replace(g, prototype_scale=0.0) for g in sampler.guidance)
    sampler = replace(sampler, compute_batch=batch, guidance=guidance)
    return Generation(bundle(), ipc=ipc, seed=SEED, classes=classes, sampler=sampler, provider="cpu", threads=1)


def by_place(images: Any) -> dict[tuple[str, int], Image]:
    return {(image.class_name, image.index): image for image in images}


def test_the_noise_of_each_step_goes_on_where_the_last_one_ended() -> None:
    """LCM by hand: z' = α' (c_out ẑ0 + c_skip z) + σ' ε with ε the next numbers of the image's own stream."""
    shape, schedule = bundle().manifest.latent_shape, bundle().schedule
    for (name, index), image in by_place(generated("lcm")).items():
        stream = NoiseStream(SEED, name, index, image.candidate)
        latents = stream.normal(shape).astype(np.float64)
        for timestep, following in ((999, 759), (759, 499), (499, 259), (259, None)):
            alpha, sigma = schedule.alpha_sigma(timestep)
            total = (10.0 * timestep) ** 2 + 0.25
            out = (alpha - 0.3 * sigma) * 10.0 * timestep / math.sqrt(total)
            latents = (out + 0.25 / total) * latents
            if following is not None:
                alpha, sigma = schedule.alpha_sigma(following)
                latents = alpha * latents + sigma * stream.normal(shape)
        expected = latents[None, :3].repeat(4, axis=2).repeat(4, axis=3) / bundle().manifest.scaling_factor
        difference = image.pixels.astype(int) - to_uint8(expected.astype(np.float32))[0].astype(int)
        assert np.abs(difference).max() <= 1, (name, index)
    assert image.pixels.std() > 10


@pytest.mark.parametrize("solver", ["lcm", "tcd", "unipc"])
def test_neither_batch_nor_order_nor_shard_changes_an_image(solver: str) -> None:
    whole = by_place(generated(solver))
    assert len(whole) == 24
    others = [
        by_place(generated(solver, batch=7)),  # groups that are filled up, and that cut the candidates elsewhere
        by_place(generated(solver, ipc=3, classes=("Forest",))),
    ]
    backwards = generated(solver)
    others.append(by_place(image for block in reversed(backwards.blocks()) for image in backwards.compute(block)))
    for other in others:
        for place, image in other.items():
            assert np.array_equal(image.pixels, whole[place].pixels)
            assert (image.candidate, image.margin) == (whole[place].candidate, whole[place].margin)
    pixels = [image.pixels.tobytes() for image in whole.values()]
    assert len(set(pixels)) == len(pixels)
