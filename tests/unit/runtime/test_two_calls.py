"""Calls in two simultaneous halves: the result is complete and in order, and an error of a half ends the call."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.annotations import Array
from dpd_runtime.engines import LEAST, FewerRows, Provider, TwoCalls
from dpd_runtime.errors import MemoryShortError
from dpd_runtime.networks import load_networks
from tests.drawn import opened


class Sums:
    """Adds its inputs, and records the sizes of its calls and how many ran at the same time."""

    def __init__(self, together: threading.Barrier | None = None, refuses: int = 10**9) -> None:
        self.sizes: list[int] = []
        self.refuses, self._together = refuses, together

    def run(self, **inputs: Array) -> Array:
        self.sizes.append(len(inputs["x"]))
        if self._together is not None:
            self._together.wait(10)
        if len(inputs["x"]) >= self.refuses:
            raise MemoryShortError("x.onnx needs more memory than is available (so many bytes)")
        total: Array = inputs["x"] + inputs["y"] * inputs["moment"]
        return total


def ask(engine: TwoCalls | Sums | FewerRows, rows: int) -> Array:
    x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    return engine.run(x=x, y=x**2, moment=np.array(7, np.int64))


@given(st.integers(1, 30))
def test_the_halves_are_put_together_and_none_is_a_single_row(rows: int) -> None:
    sums = Sums()
    np.testing.assert_array_equal(ask(TwoCalls(sums), rows), ask(Sums(), rows))
    assert sum(sums.sizes) == rows
    assert len(sums.sizes) == (2 if rows >= 2 * LEAST else 1)
    assert max(sums.sizes) - min(sums.sizes) <= 1


def test_both_halves_run_at_once() -> None:
    """Each waits until the other one has begun."""
    ask(TwoCalls(Sums(threading.Barrier(2))), 10)


@pytest.mark.parametrize("rows", [10, 9], ids=["both fail", "one fails"])
def test_an_error_of_a_half_is_raised_when_both_have_ended(rows: int) -> None:
    sums = Sums(refuses=5)
    engine = TwoCalls(sums)
    with pytest.raises(MemoryShortError, match="so many bytes"):
        ask(engine, rows)
    assert sorted(sums.sizes) == [rows // 2, (rows + 1) // 2]
    np.testing.assert_array_equal(ask(engine, 8), ask(Sums(), 8))  # it goes on


def test_an_error_waits_for_the_other_half() -> None:
    """The second half has three rows and takes a while."""
    ended = threading.Event()

    class Uneven:
        def run(self, **inputs: Array) -> Array:
            if len(inputs["x"]) == 4:
                raise MemoryShortError("so many bytes")
            time.sleep(0.2)
            ended.set()
            return inputs["x"]

    with pytest.raises(MemoryShortError):
        TwoCalls(Uneven()).run(x=np.zeros((7, 1), np.float32))
    assert ended.is_set()


def test_halves_that_do_not_fit_are_halved() -> None:
    sums = Sums(refuses=6)
    np.testing.assert_array_equal(ask(FewerRows(TwoCalls(sums), "x.onnx"), 20), ask(Sums(), 20))
    assert sums.sizes == [10, 10, 5, 5, 5, 5]


def test_two_threads_give_the_bits_of_one() -> None:
    """The networks as generation loads them, with the batch sizes of a block, guided and not."""
    pytest.importorskip("onnxruntime")
    bundle = opened()
    rng = np.random.default_rng(1)
    one, two = (load_networks(bundle, Provider("cpu", ""), threads) for threads in (1, 2))
    for rows in (bundle.manifest.sampler.compute_batch, 2 * bundle.manifest.sampler.compute_batch):
        latents = rng.normal(size=(rows, *bundle.manifest.latent_shape)).astype(np.float32)
        prompts = bundle.prompt_embeddings[rng.permutation(len(bundle.prompts))[:rows]]
        unet = {"sample": latents, "timestep": np.array(300, np.int64), "encoder_hidden_states": prompts}
        inputs = {"unet": unet, "decoder": {"latent_sample": latents}, "latent_classifier": {"latents": latents}}
        for name, given_to in inputs.items():
            np.testing.assert_array_equal(getattr(one, name).run(**given_to), getattr(two, name).run(**given_to))
