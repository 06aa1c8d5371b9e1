"""Appearances: what they say of an image, and images that are given one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_train.drawn_scenes import CLASSES, numbered_scene
from dpd_train.scene_set import to_float
from dpd_train.symmetry import WIDTH, appearance, repainted

SIDE = 32


def scenes(first: int, count: int) -> torch.Tensor:
    """Grey-blue scenes with room to both ends of the range, so that nothing is cut."""
    drawn = [numbered_scene(index % len(CLASSES), index, 0, SIDE) for index in range(first, first + count)]
    return 0.4 * to_float(torch.stack([torch.from_numpy(scene) for scene in drawn]))


def test_an_image_keeps_its_own_appearance() -> None:
    images = scenes(0, 4)
    torch.testing.assert_close(repainted(images, appearance(images)), images, atol=1e-5, rtol=0)


def test_a_repainted_image_has_the_mean_colour_and_nearly_the_contrasts_of_the_other() -> None:
    """Bands overlap, so that the appearance of the result is not exact."""
    images, others = scenes(0, 6), scenes(6, 6)
    wanted = appearance(others)
    found = appearance(repainted(images, wanted))
    torch.testing.assert_close(found[:, :3], wanted[:, :3], atol=0.02, rtol=0)
    before = (appearance(images) - wanted).square().mean().sqrt()
    assert float((found - wanted).square().mean().sqrt()) < 0.4 * float(before)


def test_the_structure_stays() -> None:
    images, others = scenes(0, 6), scenes(6, 6)
    grey = [x.mean(1).flatten(1) for x in (images, repainted(images, appearance(others)))]
    grey = [x - x.mean(1, keepdim=True) for x in grey]
    cosines = torch.cosine_similarity(*grey, dim=1)
    assert float(cosines.min()) > 0.5


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), gain=st.floats(0.4, 1.0), shift=st.floats(-0.3, 0.3))
def test_gain_and_shift_of_all_channels_move_an_appearance_as_they_should(seed: int, gain: float, shift: float) -> None:
    """The mean by both; the logarithms of each band's deviations by ln(gain), up to the floor; the rest not at all."""
    image = 0.4 * torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) - 0.2
    before, after = appearance(image), appearance(gain * image + shift)
    torch.testing.assert_close(after[:, :3], gain * before[:, :3] + shift, atol=1e-5, rtol=0)
    fine = (after - before)[0, 3:9]
    wanted = torch.log(torch.tensor(gain)).item()
    assert fine[:3].tolist() == pytest.approx([wanted] * 3, abs=0.05)
    assert fine[3:].tolist() == pytest.approx([0] * 3, abs=0.05)


@pytest.mark.parametrize("value", [0.0, 1e20, float("inf"), float("nan")])
def test_every_image_has_one(value: float) -> None:
    found = appearance(torch.full((2, 3, SIDE, SIDE), value))
    assert found.shape == (2, WIDTH)
    assert bool(found.isfinite().all())
