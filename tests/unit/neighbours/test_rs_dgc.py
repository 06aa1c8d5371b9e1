"""Compressed gradients: three bytes against the values they stand for, shares as properties, nothing lost.

Two processes: test_distributed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpd_neighbours.gradients import ratio_of
from dpd_neighbours.rs_dgc import BYTES, WIDTH, Chosen, RsDgc, encode, indicator, neighbourhoods, shares
from dpd_runtime.errors import InputError
from dpd_train.config import TrainConfig
from dpd_train.doors import open_named
from dpd_train.train import train
from tests.tiny import CONFIG

ENTRIES = st.floats(-1e6, 1e6, width=32)
LAYER = arrays(np.float32, st.tuples(st.integers(1, 40), st.just(WIDTH)), elements=ENTRIES)


def _some(layers: list[Any]) -> list[torch.Tensor]:
    """Places of every second neighbourhood, from behind."""
    return [torch.arange(0, len(layer), 2).flip(0) for layer in layers]


@given(st.lists(LAYER, min_size=1, max_size=4))
def test_three_bytes_say_a_neighbourhood_to_half_its_largest_entry(layers: list[Any]) -> None:
    """A little more than half: scales are an eighth of an octave apart, and the smallest lies 32 octaves down."""
    given_, places = [torch.from_numpy(layer) for layer in layers], _some(layers)
    totals = [torch.zeros_like(layer) for layer in given_]
    encode(given_, places).add_to(totals)
    for own, found, where in zip(given_, totals, places, strict=True):
        scale = own[where].abs().amax(1, keepdim=True) * 2 ** (1 / 8)
        smallest = own[where].abs().max() * 2**-31
        assert ((found[where] - own[where]).abs() <= 0.5001 * scale + smallest).all()
        assert (found[where].abs() <= 1.0001 * scale + smallest).all()
        rest = torch.ones(len(own), dtype=torch.bool)
        rest[where] = False
        assert not found[rest].any()


@given(st.lists(LAYER, min_size=1, max_size=4))
def test_the_bytes_are_all_that_is_needed(layers: list[Any]) -> None:
    chosen = encode([torch.from_numpy(layer) for layer in layers], _some(layers))
    content = chosen.to_bytes()
    assert content.dtype == torch.uint8
    k = sum((len(layer) + 1) // 2 for layer in layers)
    assert len(content) == chosen.bytes == sum(-(-len(layer) // 8) + 4 for layer in layers) + BYTES * k
    again = Chosen.from_bytes(content, chosen.sizes, k)
    for name in ("bitmap", "codes", "levels", "largest"):
        assert torch.equal(getattr(again, name), getattr(chosen, name))
    assert [own.tolist() for own in again.indices] == [sorted(own.tolist()) for own in _some(layers)]


def test_what_three_bytes_can_say_comes_back_exactly() -> None:
    layer = torch.tensor([[-4.0, 0, 4, 4, 0, -4, 0, 0, 4], [0, 0, 2, 0, 0, 0, 0, 0, -2], [0] * 9])
    found = torch.zeros_like(layer)
    encode([layer], [torch.tensor([2, 0, 1])]).add_to([found])
    assert torch.equal(found, layer)


def test_a_filter_is_a_neighbourhood_and_counts_by_its_root_mean_square() -> None:
    filters = torch.randn((5, 4, 3, 3), generator=torch.Generator().manual_seed(0))
    expected = np.sqrt((filters.numpy() ** 2).mean((2, 3))).reshape(-1)
    np.testing.assert_allclose(indicator(neighbourhoods(filters.reshape(-1))).numpy(), expected, rtol=1e-5)


LAYERS = st.lists(st.tuples(st.floats(0, 1e3), st.integers(1, 10_000)), min_size=1, max_size=20)


@given(LAYERS, st.floats(0, 2))
def test_shares_fit_their_layers_and_add_up_to_the_budget(layers: list[tuple[float, int]], part: float) -> None:
    importance, sizes = [i for i, _ in layers], [n for _, n in layers]
    total = int(part * sum(sizes))
    found = shares(importance, sizes, total)
    assert all(1 <= k <= n for k, n in zip(found, sizes, strict=True))
    assert sum(found) == min(max(total, len(sizes)), sum(sizes))  # each layer sends one at least
    other = shares([i * (1 + 1e-7 * (-1) ** k) for k, i in enumerate(importance)], sizes, total)
    assert sum(other) == sum(found)  # another processor's rounding changes no length


def test_an_important_layer_sends_more() -> None:
    assert shares([3.0, 1.0], [100, 100], 40) == [30, 10]
    assert shares([0.0, 0.0], [100, 300], 40) == [10, 30]
    assert shares([1e6, 1.0, 1.0], [10, 100, 100], 60) == [10, 25, 25]  # what one cannot take the others get


def test_what_is_not_sent_now_is_sent_later() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(60, 3, 3, 3), (400,)]
    state, sent = RsDgc(20), [torch.zeros(shape) for shape in shapes]
    given_ = [torch.zeros(shape) for shape in shapes]
    for _ in range(7):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        gradients[0] = gradients[0].contiguous(memory_format=torch.channels_last)
        for total, own in zip(given_, gradients, strict=True):
            total += own
        state.exchange(gradients, [0, 1], lambda own: [own])
        for total, own in zip(sent, gradients, strict=True):
            total += own
    for key, (had, went) in enumerate(zip(given_, sent, strict=True)):
        kept = state.residual(key).view(had.shape)
        torch.testing.assert_close(went + kept, had, atol=1e-5, rtol=1e-5)
        assert kept.abs().max() > 0.1
    assert state.dense_bytes == 7 * 4 * (60 * 27 + 400)
    assert state.sent_bytes == pytest.approx(state.dense_bytes / 20, rel=0.05)
    before = [float(state.residual(key).norm()) for key in (0, 1)]
    for _ in range(40):  # nothing new: what was kept goes
        state.exchange([torch.zeros(shape) for shape in shapes], [0, 1], lambda own: [own])
    assert all(float(state.residual(key).norm()) < 0.1 * norm for key, norm in enumerate(before))


@pytest.mark.parametrize("ratio", ["", "11", "201", "inf", "nan", "many"])
def test_a_bad_ratio_is_told(ratio: str) -> None:
    with pytest.raises(InputError, match="as in rs-dgc:50"):
        ratio_of(ratio)


def test_a_ratio_is_in_a_name_behind_a_colon() -> None:
    exchange = open_named("dpd.gradients", "rs-dgc:50", "--grad-compression")()
    assert isinstance(exchange, RsDgc)
    assert exchange.ratio == 50


def test_where_it_cannot_serve_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp16"):
        TrainConfig(grad_compression="rs-dgc:50", precision="fp16")
    config = TrainConfig(**{**vars(CONFIG), "grad_compression": "rs-dgc:50"})
    with pytest.raises(InputError, match="accelerate launch"):
        train(tmp_path, tmp_path / "run", config)
