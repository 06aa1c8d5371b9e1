"""The size that a run works at: stated, asked for, or refused with a way out."""

import logging

import pytest

from dpd_runtime.errors import InputError
from dpd_train.run.data import working_side


@pytest.mark.parametrize(
    ("native", "large", "wanted", "images", "expected"),
    [
        (64, False, None, 64, 64),
        (64, False, None, 32, 64),
        (64, False, None, 95, 64),
        (64, False, 64, 256, 64),
        (512, True, None, 512, 512),
        (512, True, 256, 256, 256),
        (512, True, 512, 2048, 512),
    ],
)
def test_working_side(native: int, large: bool, wanted: int | None, images: int, expected: int) -> None:
    assert working_side("BASE", native, 64 if large else 16, large, wanted, images) == expected


@pytest.mark.parametrize(
    ("native", "large", "wanted", "images", "words"),
    [
        (64, False, None, 96, "the images are 96 px and base 'BASE' makes 64 px: pass --resolution 64"),
        (512, True, None, 800, "pass --resolution 512"),
        (64, False, 128, 128, "--resolution 128: base 'BASE' makes 64 px; leave it out or say 64"),
        (512, True, 200, 256, "--resolution 200: base 'BASE' takes multiples of 64 px"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    native: int, large: bool, wanted: int | None, images: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        working_side("BASE", native, 64 if large else 16, large, wanted, images)


def test_enlarging_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert working_side("BASE", 512, 64, True, None, 256) == 512
    assert "--resolution 256 is faster" in caplog.text
