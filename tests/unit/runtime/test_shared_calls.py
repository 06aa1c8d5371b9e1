"""Blocks that share calls, where a call has more rows than a block: fewer calls, the same images."""

import logging
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from dpd_runtime import Generation, Image
from dpd_runtime.annotations import Array
from dpd_runtime.engines import Engine
from dpd_runtime.errors import DegenerateImageError
from dpd_runtime.generation import BlockComputer
from dpd_runtime.networks import load_networks
from dpd_runtime.sampler import BlockGuidance, Sampler
from tests.drawn import opened
from tests.unit.runtime.test_degenerate import CPU

pytest.importorskip("onnxruntime")
DECODED = BlockGuidance(prototype_scale=1.0, prototype_until=1.0)
GUIDED = BlockGuidance(from_block=2, guidance_scale=2.0, guidance_from=0.5)
FREE = BlockGuidance(from_block=3)
SAMPLER = Sampler(steps=2, candidates=2, guidance=(DECODED, GUIDED, FREE))
IPC, ROWS = 50, 40


class Counted:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.rows: list[int] = []

    def run(self, **inputs: Array) -> Array:
        self.rows.append(max(len(value) for value in inputs.values() if value.ndim))
        return self._engine.run(**inputs)


def generation(compute_batch: int) -> Generation:
    sampler = replace(SAMPLER, compute_batch=compute_batch)
    return Generation(
        opened(), ipc=IPC, seed=3, classes=("Forest", "River"), sampler=sampler, provider="cpu", threads=1
    )


def counted(asked: Generation) -> tuple[list[Image], Counter[int], Counter[int]]:
    """The images, and how often the UNet and the decoder were called with so many rows."""
    good = asked.load().networks
    unet, decoder = Counted(good.unet), Counted(good.decoder)
    asked.load().networks = replace(good, unet=unet, decoder=decoder)
    return list(asked), Counter(unet.rows), Counter(decoder.rows)


@cache
def one_by_one() -> tuple[list[Image], Counter[int], Counter[int]]:
    return counted(generation(10))


@pytest.mark.full
def test_larger_calls_give_the_same_images() -> None:
    """Of each class: two decoded blocks, a guided one, and two without guidance."""
    alone, unet, decoder = one_by_one()
    joined, larger_unet, larger_decoder = counted(generation(ROWS))
    assert len(joined) == 2 * IPC
    for image, expected in zip(joined, alone, strict=True):
        np.testing.assert_array_equal(image.pixels, expected.pixels)
        assert replace(image, pixels=expected.pixels) == expected  # margin and candidate too
    # two candidates: a block has 20 rows; the second step of a guided block has twice as many
    assert unet == {10: 2 * (2 * 1 + 2 * 4), 20: 2 * 2 * 1}
    assert larger_unet == {ROWS: 2 * (1 + 2), 2 * ROWS: 2 * 1}
    assert decoder == {10: 2 * 5}
    assert larger_decoder == {ROWS: 2 * (1 + 1 + 1)}


def test_a_block_computed_alone_has_the_images_that_it_has_among_others() -> None:
    alone, asked = one_by_one()[0], generation(ROWS)
    blocks = asked.blocks()
    for number in (1, 2, 4):
        for image, expected in zip(asked.compute(blocks[number]), alone[10 * number : 10 * number + 10], strict=True):
            np.testing.assert_array_equal(image.pixels, expected.pixels)


@pytest.mark.parametrize("mendable", [True, pytest.param(False, marks=pytest.mark.full)])
def test_only_the_broken_block_of_a_call_is_computed_again(mendable: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Four blocks of one call; the decoder breaks image 37, which is in the last of them."""
    asked = generation(ROWS)
    asked.sampler = replace(asked.sampler, candidates=1, guidance=(DECODED,))
    good = load_networks(opened(), CPU, 1)
    expected = list(BlockComputer(opened(), asked.sampler, good, 3).images(asked.blocks()[:4], [None] * 4))
    bad = replace(good, decoder=NoneOfOne(good.decoder, 37))
    computer = BlockComputer(opened(), asked.sampler, bad, 3, (lambda: good) if mendable else None)
    seen = []
    with caplog.at_level(logging.WARNING):
        found = computer.images(asked.blocks()[:4], [None] * 4)
        if mendable:
            seen = list(found)
        else:
            with pytest.raises(DegenerateImageError, match=r"^class Forest, seed 3, index 37: vae_decoder"):
                seen.extend(found)
    assert len(seen) == (4 if mendable else 3), "the blocks before it are kept"
    for images, wanted in zip(seen, expected, strict=False):
        for image, other in zip(images, wanted, strict=True):
            np.testing.assert_array_equal(image.pixels, other.pixels)
    said = [record.getMessage() for record in caplog.records]
    assert [line.startswith("class Forest, seed 3, index 37: vae_decoder") for line in said] == [True] * mendable


class NoneOfOne:
    """A decoder that gives NaN for one code of Forest, in any call and row."""

    def __init__(self, engine: Engine, number: int) -> None:
        forest = next(scene for scene in opened().classes if scene.name == "Forest")
        self._engine, self._bad = engine, forest.prototypes[number] / np.float32(opened().manifest.scaling_factor)

    def run(self, **inputs: Array) -> Array:
        found = self._engine.run(**inputs)
        found[(inputs["latent_sample"] == self._bad).all(axis=(1, 2, 3))] = np.nan
        return found
