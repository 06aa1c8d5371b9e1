"""Compressed gradients: the indicator against a loop, shares as properties, nothing lost.

Two processes: test_distributed.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.errors import InputError
from dpd_train.rs_dgc import BYTES, WINDOW, RsDgc, neighbourhood_indicator, shares
from dpd_train.train import train
from dpd_train.train_config import TrainConfig, compression_ratio
from tests.tiny import CONFIG


@pytest.mark.parametrize("count", [1, 4, WINDOW, 40])
def test_the_indicator_is_the_root_mean_square_around_an_entry(count: int) -> None:
    gradient = torch.randn(count, generator=torch.Generator().manual_seed(count))
    values, reach = gradient.numpy(), WINDOW // 2
    expected = [np.sqrt(np.mean(values[max(0, i - reach) : i + reach + 1] ** 2)) for i in range(count)]
    np.testing.assert_allclose(neighbourhood_indicator(gradient).numpy(), expected, rtol=1e-5)


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
    shapes = [(6, 3, 3, 3), (40,)]
    state, sent = RsDgc(4), [torch.zeros(shape) for shape in shapes]
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
    assert state.dense_bytes == 7 * 4 * (162 + 40)
    assert state.sent_bytes == pytest.approx(state.dense_bytes / 4, rel=0.05)
    assert state.sent_bytes % BYTES == 0


@pytest.mark.parametrize("text", ["rs-dgc", "rs-dgc:1", "rs-dgc:inf", "top-k:50", "rs-dgc:nan"])
def test_a_bad_ratio_is_told(text: str) -> None:
    with pytest.raises(InputError, match="as in rs-dgc:50"):
        compression_ratio(text)


def test_where_it_cannot_serve_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp16"):
        TrainConfig(grad_compression="rs-dgc:50", precision="fp16")
    config = TrainConfig(**{**vars(CONFIG), "grad_compression": "rs-dgc:50"})
    with pytest.raises(InputError, match="accelerate launch"):
        train(tmp_path, tmp_path / "run", config)
