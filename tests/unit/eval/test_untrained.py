"""The extractor `untrained`: random weights that still tell textures and colours apart, and know no direction."""

import numpy as np
import pytest
import torch

from dpd_eval.extractor_choice import build_extractor
from dpd_eval.extractors import Extractor
from dpd_eval.metrics import kernel_distance, neighbour_shares
from dpd_runtime.annotations import Images
from dpd_train.drawn_scenes import CLASSES, numbered_scene
from dpd_train.scene_set import SceneSet

SIDE, OF_CLASS = 32, 40


def drawn(classes: tuple[int, ...], first: int) -> SceneSet:
    labels = np.repeat(np.array(classes), OF_CLASS)
    images = np.stack([numbered_scene(label, first + i, 0, SIDE) for i, label in enumerate(labels.tolist())])
    return SceneSet(CLASSES, images, labels, (), ())


TRAIN, FRESH, ONE_CLASS = drawn((0, 1, 2), 0), drawn((0, 1, 2), 1000), drawn((0, 0, 0), 2000)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return build_extractor("untrained", TRAIN)


def test_it_is_standardised_on_the_training_images(extractor: Extractor) -> None:
    found = extractor.features(TRAIN.images)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    assert np.median(found.std(axis=0)) == pytest.approx(1, abs=1e-2)


def test_the_same_images_give_the_same_features_whatever_the_global_seed(extractor: Extractor) -> None:
    torch.manual_seed(99)
    again = build_extractor("untrained", TRAIN)
    np.testing.assert_array_equal(again.features(FRESH.images), extractor.features(FRESH.images))
    assert again.description == extractor.description


def test_features_do_not_know_which_way_is_up(extractor: Extractor) -> None:
    turned: Images = np.ascontiguousarray(np.rot90(FRESH.images[:8], axes=(1, 2)))
    assert extractor.symmetric
    np.testing.assert_allclose(extractor.features(turned), extractor.features(FRESH.images[:8]), atol=1e-3)


def test_fresh_images_are_near_and_one_class_is_far(extractor: Extractor) -> None:
    """One class in place of three covers a third of the real images at most, and stands at a distance from them."""
    real, fresh, one = (extractor.features(scenes.images) for scenes in (TRAIN, FRESH, ONE_CLASS))
    assert neighbour_shares(fresh, real).coverage > 0.7
    assert neighbour_shares(one, real).coverage < 0.5
    far, close = kernel_distance(one, real, 0), kernel_distance(fresh, real, 0)
    assert abs(close.mean) < 2 * close.std
    assert far.mean > close.mean + 5 * close.std


def test_it_knows_no_labels(extractor: Extractor) -> None:
    assert extractor.classify(FRESH.images) is None
