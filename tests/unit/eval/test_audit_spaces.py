"""Feature spaces: similarity does not depend on the orientation of an image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_eval.nearness import structure_space
from dpd_runtime.annotations import Images
from dpd_train.symmetry import closeness, similarities


def drawn(count: int, seed: int) -> Images:
    """Smooth coloured noise, 32 px."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return (0.8 * coarse + 0.2 * rng.integers(0, 256, coarse.shape)).astype(np.uint8)


def view(images: Images, element: int) -> Images:
    flipped = images[:, :, ::-1] if element >= 4 else images
    return np.ascontiguousarray(np.rot90(flipped, element % 4, (1, 2)))


@given(st.integers(0, 7), st.integers(0, 5))
@settings(max_examples=12, deadline=None)
def test_the_orbit_makes_similarity_blind_to_the_view(element: int, seed: int) -> None:
    space, images, real = structure_space(), drawn(4, seed), drawn(9, 99)
    rows = space.embed(real)
    plain, turned = (similarities(space.orbit(x), rows) for x in (images, view(images, element)))
    assert turned == pytest.approx(plain, abs=1e-5)


def test_a_turned_paler_copy_is_a_copy() -> None:
    space, real = structure_space(), drawn(9, 1)
    copies = (60 + 0.5 * view(real, 6)).astype(np.uint8)
    found = similarities(space.orbit(copies), space.embed(real))
    assert found.argmax(axis=1).tolist() == list(range(9))
    assert found.max(axis=1).min() > 0.99


def test_a_constant_image_is_like_nothing() -> None:
    space = structure_space()
    flat = np.full((1, 32, 32, 3), 90, np.uint8)
    assert np.abs(similarities(space.orbit(flat), space.embed(drawn(3, 0)))).max() == 0


def test_closeness_keeps_the_order_and_stays_finite() -> None:
    cosines = np.array([-1, 0, 0.9, 0.999, 1], np.float32)
    found = closeness(cosines)
    assert (np.diff(found) > 0).all()
    assert np.isfinite(found).all()
