"""The size that a run works at: the base's own, with a line that says so, or the one asked for."""

from collections import Counter

import pytest

from dpd_runtime.errors import InputError
from dpd_train.run.folder import resizing, working_side


@pytest.mark.parametrize(
    ("native", "multiple", "wanted", "expected"),
    [(64, 16, None, 64), (64, 16, 64, 64), (64, 16, 128, 128), (512, 64, None, 512), (512, 64, 256, 256)],
)
def test_working_side(native: int, multiple: int, wanted: int | None, expected: int) -> None:
    assert working_side("BASE", native, multiple, wanted) == expected


def test_a_side_that_the_networks_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match="--resolution 200: base 'BASE' takes multiples of 64 px"):
        working_side("BASE", 512, 64, 200)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (
            {(256, 256): 9},
            "images of 256 x 256 are resized to 64 x 64, the size of base nano; --resolution asks for another",
        ),
        ({(32, 32): 2}, "images of 32 x 32 are resized to 64 x 64"),
        ({(64, 64): 9, (256, 256): 1}, "images of 64 x 64 and 1 other size are resized to 64 x 64"),
        (
            {(300, 200): 4, (64, 64): 3, (9, 9): 1},
            "images of 300 x 200 and 2 other sizes are cut to their middle square and",
        ),
    ],
)
def test_resizing_is_said(sizes: dict[tuple[int, int], int], words: str) -> None:
    assert words in str(resizing(Counter(sizes), 64, "nano"))


def test_images_of_the_size_of_the_base_are_not_mentioned() -> None:
    assert resizing(Counter({(64, 64): 7}), 64, "nano") is None
