"""Compressed gradients: six bytes against the values they stand for, shares as properties, nothing lost.

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

from dpd_runtime.errors import InputError
from dpd_train.neighbourhoods import BYTES, PIECE, WIDTH, Chosen, in_pieces, indicator, packed, padded
from dpd_train.rs_dgc import RsDgc, shares
from dpd_train.train import train
from dpd_train.train_config import TrainConfig, compression_ratio
from tests.tiny import CONFIG

ENTRIES = st.floats(-1e6, 1e6, width=32)
PIECES = st.lists(arrays(np.float32, st.tuples(st.integers(1, 20), st.just(WIDTH)), elements=ENTRIES), min_size=1)


def _packed(values: list[Any]) -> Chosen:
    return packed([torch.from_numpy(own) for own in values], [torch.arange(len(own)) for own in values])


@given(PIECES)
def test_six_bytes_say_a_neighbourhood_to_a_sixth_of_its_largest_entry(values: list[Any]) -> None:
    """Or to what a 32nd of its piece's largest one, the finest step, leaves in three steps."""
    chosen = _packed(values)
    parts = torch.split(chosen.values(), chosen.counts)
    for own, found in zip(values, parts, strict=True):
        largest, most = np.abs(own).max(1, keepdims=True), np.abs(own).max()
        step = (largest + most / 32) / 3  # the level is rounded up
        assert (np.abs(found.numpy() - own) <= 0.501 * step + 1e-30).all()
        assert np.abs(found.numpy()).max() <= most * 1.0001


@given(PIECES)
def test_the_bytes_are_all_that_is_needed(values: list[Any]) -> None:
    chosen = _packed(values)
    content = chosen.to_bytes()
    assert content.dtype == torch.uint8
    assert len(content) == chosen.bytes == BYTES * sum(map(len, values)) + 4 * len(values)
    again = Chosen.from_bytes(content, chosen.counts)
    assert torch.equal(again.values(), chosen.values())
    assert torch.equal(again.places, chosen.places)


def test_whole_multiples_of_the_step_come_back_exactly() -> None:
    values = torch.tensor([[-3.0, -2, -1, 0, 1, 2, 3, 0, 3]])
    assert torch.equal(packed([values], [torch.tensor([0])]).values(), values)


def test_a_filter_is_a_neighbourhood_and_counts_by_its_root_mean_square() -> None:
    filters = torch.randn((5, 4, 3, 3), generator=torch.Generator().manual_seed(0))
    (piece,) = in_pieces(padded(filters.reshape(-1)))
    expected = np.sqrt((filters.numpy() ** 2).mean((2, 3))).reshape(-1)
    np.testing.assert_allclose(indicator(piece).numpy(), expected, rtol=1e-5)


def test_a_large_layer_goes_in_pieces() -> None:
    """Places have two bytes; the last entry of a layer longer than that arrives all the same."""
    gradient = torch.zeros(WIDTH * PIECE + 5)
    gradient[-1] = 7.0
    state = RsDgc(50)
    state.exchange([gradient], [0], lambda own: [own])
    assert gradient[-1] == 7.0
    assert gradient.count_nonzero() == 1


LAYERS = st.lists(st.tuples(st.floats(0, 1e3), st.integers(1, 10_000)), min_size=1, max_size=20)


@given(LAYERS, st.floats(2, 200))
def test_shares_fit_their_layers_and_the_budget(layers: list[tuple[float, int]], ratio: float) -> None:
    importance, sizes = [i for i, _ in layers], [n for _, n in layers]
    total = int(sum(sizes) / ratio)
    found = shares(importance, sizes, total)
    assert all(1 <= k <= n for k, n in zip(found, sizes, strict=True))
    assert sum(found) <= total + len(layers)  # each layer sends one at least


def test_an_important_layer_sends_more() -> None:
    assert shares([3.0, 1.0], [100, 100], 40) == [30, 10]
    assert shares([0.0, 0.0], [100, 300], 40) == [10, 30]


def test_what_is_not_sent_now_is_sent_later() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(60, 3, 3, 3), (400,)]
    state, sent = RsDgc(15), [torch.zeros(shape) for shape in shapes]
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
    assert state.sent_bytes == pytest.approx(state.dense_bytes / 15, rel=0.05)


@pytest.mark.parametrize("text", ["rs-dgc", "rs-dgc:5", "rs-dgc:inf", "top-k:50", "rs-dgc:nan"])
def test_a_bad_ratio_is_told(text: str) -> None:
    with pytest.raises(InputError, match="as in rs-dgc:50"):
        compression_ratio(text)


def test_where_it_cannot_serve_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp16"):
        TrainConfig(grad_compression="rs-dgc:50", precision="fp16")
    config = TrainConfig(**{**vars(CONFIG), "grad_compression": "rs-dgc:50"})
    with pytest.raises(InputError, match="accelerate launch"):
        train(tmp_path, tmp_path / "run", config)
