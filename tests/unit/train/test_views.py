"""Views in which codes and training images are seen alike."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_train.matching import SHIFT, View, shifted
from dpd_train.symmetry import ORDER, d4

SIDE = 32


def images(count: int, seed: int) -> torch.Tensor:
    return torch.randn((count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(down=st.integers(-4, 4), right=st.integers(-4, 4))
def test_a_shift_uncovers_the_mirrored_image(down: int, right: int) -> None:
    one = images(2, 0)
    wide = np.pad(one.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    expected = wide[..., 4 - down : 4 - down + SIDE, 4 - right : 4 - right + SIDE]
    np.testing.assert_array_equal(shifted(one, down, right).numpy(), expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_view_is_one_symmetry_for_each_image_and_one_shift_for_all(seed: int) -> None:
    one = images(5, seed)
    seen = View(torch.Generator().manual_seed(seed), len(one), SIDE, torch.device("cpu"))(one)
    reach = SIDE // SHIFT
    moves = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
    found = [
        {move for move in moves if any(torch.equal(shifted(d4(own[None], e), *move)[0], view) for e in range(ORDER))}
        for own, view in zip(one, seen, strict=True)
    ]
    assert set.intersection(*found)


def test_a_part_of_a_view_is_seen_as_in_the_whole() -> None:
    one = images(6, 1)
    whole, parts = (View(torch.Generator().manual_seed(3), 6, SIDE, torch.device("cpu")) for _ in range(2))
    torch.testing.assert_close(torch.cat([parts(one[:2], 0), parts(one[2:], 2)]), whole(one))


def test_views_are_turned_mirrored_and_shifted_in_every_way() -> None:
    one, reach = images(1, 2), SIDE // SHIFT
    moves = {
        (down, right): shifted(one, down, right)
        for down in range(-reach, reach + 1)
        for right in range(-reach, reach + 1)
    }
    known = {(e, move): shifted(d4(one, e), *move) for e in range(ORDER) for move in moves}
    found = set()
    for seed in range(300):
        seen = View(torch.Generator().manual_seed(seed), 1, SIDE, torch.device("cpu"))(one)
        found |= {name for name, view in known.items() if torch.equal(view, seen)}
    assert {element for element, _ in found} == set(range(ORDER))
    assert {move for _, move in found} == set(moves)


def test_images_of_one_view_are_turned_each_for_itself() -> None:
    one = images(1, 3)
    seen = View(torch.Generator().manual_seed(0), 64, SIDE, torch.device("cpu"))(one.expand(64, -1, -1, -1))
    assert len({view.numpy().tobytes() for view in seen}) == ORDER
