"""Detail of images of any number of bands."""

import numpy as np
import pytest

from dpd_eval.metrics import grey, set_detail
from tests.banded import CLASSES, COUNTS, scenes


@pytest.mark.parametrize("count", COUNTS)
def test_grey_is_the_mean_of_bands_and_the_luma_of_colours(count: int) -> None:
    images = scenes(count, 2).images
    np.testing.assert_allclose(grey(images), images.mean(axis=3), rtol=1e-12)
    rgb = scenes(3, 2).images
    red, green, blue = np.moveaxis(rgb.astype(float), 3, 0)
    np.testing.assert_allclose(grey(rgb), 0.299 * red + 0.587 * green + 0.114 * blue, rtol=1e-12)


@pytest.mark.parametrize("count", COUNTS)
def test_equal_bands_have_the_detail_of_a_grey_picture(count: int) -> None:
    one = scenes(1, 4)
    ours, theirs = (
        set_detail("set", 4, (np.repeat(one.images, bands, axis=3), one.labels), CLASSES) for bands in (count, 3)
    )
    np.testing.assert_allclose(ours.octaves, theirs.octaves, rtol=1e-9)
    for name in CLASSES:
        assert ours.fine_contrast[name] == pytest.approx(theirs.fine_contrast[name])
        assert ours.kurtosis[name] == pytest.approx(theirs.kurtosis[name])
