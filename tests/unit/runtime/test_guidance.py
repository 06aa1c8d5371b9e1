from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.sampling import classifier_free, moved, towards_prototype
from dpd_runtime.solvers import predicted_original

CONDITIONAL = np.array([[1.0, -2.0], [0.5, 4.0]], np.float32)
UNCONDITIONAL = np.array([[0.0, 2.0], [0.5, -4.0]], np.float32)


def test_classifier_free_by_hand() -> None:
    assert np.array_equal(classifier_free(CONDITIONAL, UNCONDITIONAL, 1.0), CONDITIONAL)
    assert np.array_equal(classifier_free(CONDITIONAL, UNCONDITIONAL, 0.0), UNCONDITIONAL)
    assert classifier_free(CONDITIONAL, UNCONDITIONAL, 3.0).tolist() == [[3.0, -10.0], [0.5, 20.0]]
    assert np.array_equal(classifier_free(CONDITIONAL, CONDITIONAL, 7.5), CONDITIONAL)
    assert classifier_free(CONDITIONAL, UNCONDITIONAL, 7.5).dtype == np.float32


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_classifier_free_on_outputs_is_classifier_free_on_clean_latents(prediction_type: Any) -> None:
    """ẑ0 is affine in the output, so both orders agree."""
    noisy, alpha, sigma = np.array([[0.3, -0.7], [1.2, 0.1]]), 0.6, 0.8
    outputs = CONDITIONAL.astype(np.float64), UNCONDITIONAL.astype(np.float64)
    after = predicted_original(noisy, classifier_free(*outputs, 4.0), prediction_type, alpha, sigma)
    clean = [predicted_original(noisy, output, prediction_type, alpha, sigma) for output in outputs]
    assert np.allclose(after, clean[1] + 4.0 * (clean[0] - clean[1]), rtol=0, atol=1e-12)


@given(original=st.floats(-10, 10), prototype=st.floats(-10, 10), scale=st.floats(0, 1))
def test_pull_shortens_the_distance_by_its_scale(original: float, prototype: float, scale: float) -> None:
    pulled = towards_prototype(np.array([original]), np.array([prototype]), scale)
    assert pulled[0] - prototype == pytest.approx((1 - scale) * (original - prototype), abs=1e-12)
    assert min(original, prototype) - 1e-12 <= pulled[0] <= max(original, prototype) + 1e-12


def test_pull_at_its_ends() -> None:
    assert np.array_equal(towards_prototype(CONDITIONAL, UNCONDITIONAL, 0.0), CONDITIONAL)
    assert np.array_equal(towards_prototype(CONDITIONAL, UNCONDITIONAL, 1.0), UNCONDITIONAL)
    assert towards_prototype(CONDITIONAL, UNCONDITIONAL, 0.3).dtype == np.float32


def test_pooled_prototype_pulls_block_means_alone() -> None:
    """ẑ0' = ẑ0 + g · U(P(p) − P(ẑ0)) by loops; what varies within a block stays."""
    rng = np.random.default_rng(0)
    original, pooled = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(2, 3, 2, 2))
    found = towards_prototype(original, pooled, 0.3)
    for row, column in np.ndindex(2, 2):
        block = np.s_[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        mean = original[block].mean(axis=(2, 3))
        shift = 0.3 * (pooled[:, :, row, column] - mean)
        np.testing.assert_allclose(found[block], original[block] + shift[:, :, None, None], atol=1e-12)


def test_block_means_reach_the_pooled_prototype_at_full_pull() -> None:
    rng = np.random.default_rng(1)
    original, pooled = (rng.normal(size=(1, 2, side, side)).astype(np.float32) for side in (8, 4))
    pulled = towards_prototype(original, pooled, 1.0)
    assert pulled.dtype == np.float32
    assert pulled.shape == original.shape
    np.testing.assert_allclose(pulled.reshape(1, 2, 4, 2, 4, 2).mean(axis=(3, 5)), pooled, atol=1e-6)
    np.testing.assert_array_equal(towards_prototype(original, pooled, 0.0), original)


def test_prototype_of_full_size_is_the_pooled_one_with_blocks_of_one() -> None:
    rng = np.random.default_rng(2)
    original, prototype = (rng.normal(size=(1, 2, 4, 4)) for _ in range(2))
    expected = original + 0.4 * (prototype - original)
    np.testing.assert_array_equal(towards_prototype(original, prototype, 0.4), expected)


@pytest.mark.parametrize("side", [2, 4])
def test_each_latent_moves_by_the_length_towards_its_prototype(side: int) -> None:
    rng = np.random.default_rng(3)
    latents, original = (rng.normal(size=(3, 2, 4, 4)) for _ in range(2))
    prototypes = rng.normal(size=(3, 2, side, side))
    step = moved(latents, original, prototypes, 0.7) - latents
    np.testing.assert_allclose(np.linalg.norm(step.reshape(3, -1), axis=1), 0.7)
    apart = towards_prototype(original, prototypes, 1.0) - original
    np.testing.assert_allclose(step / 0.7, apart / np.linalg.norm(apart.reshape(3, -1), axis=1)[:, None, None, None])
    np.testing.assert_array_equal(moved(latents, original, original, 0.7), latents)
