"""Rows of batches that go through epochs: every row once before any comes again, or as often as its weight says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_train.compute import draw_rows, epoch_rows, step_generator


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5))
def test_every_row_comes_once_in_an_epoch(count: int, batch: int, seed: int) -> None:
    steps = -(-3 * count // batch)
    rows = torch.cat([epoch_rows(count, batch, None, seed, step) for step in range(steps)])
    assert rows.shape == (steps * batch,)
    for epoch in range(3):
        assert sorted(rows[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own_which_a_later_session_finds_again() -> None:
    first, second = (epoch_rows(100, 100, None, 0, step).tolist() for step in (0, 1))
    assert first != second
    assert first != epoch_rows(100, 100, None, 1, 0).tolist()
    assert second == epoch_rows(100, 100, None, 0, 1).tolist()
    drawn = torch.cat([draw_rows(100, 10, None, step_generator(0, step)) for step in range(10)])
    assert len(set(drawn.tolist())) < 80, "control: drawn one by one, rows repeat within an epoch"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=20).filter(lambda given: sum(given) > 0.1), st.integers(0, 5))
def test_a_weighted_row_comes_as_often_as_its_weight_says(weights: list[float], seed: int) -> None:
    count, epochs = len(weights), 20
    expected = np.array(weights) / sum(weights) * count
    rows = torch.cat([epoch_rows(count, count, torch.tensor(weights), seed, step) for step in range(epochs)]).numpy()
    found = np.stack([np.bincount(epoch, minlength=count) for epoch in rows.reshape(epochs, count)])
    assert (np.abs(found - expected) < 1 + 1e-5).all(), "rounded down or up in every epoch"
    assert (found[:, np.array(weights) == 0] == 0).all()
    np.testing.assert_allclose(found.mean(axis=0), expected, atol=0.7)


def test_equal_weights_are_no_weights_and_their_number_is_checked() -> None:
    equal = torch.cat([epoch_rows(12, 5, torch.full((12,), 0.3), 2, step) for step in range(12)])
    assert np.bincount(equal[:60].numpy()).tolist() == [5] * 12
    with pytest.raises(ValueError, match="5 weights for 6 rows"):
        epoch_rows(6, 2, torch.ones(5), 0, 0)
