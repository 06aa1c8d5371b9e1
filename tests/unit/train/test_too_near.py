"""Prototypes that show a training image are dropped, whatever way they are turned; others stay."""

import numpy as np

from dpd_runtime.annotations import Float32, Images
from dpd_train.prototypes import ClassPrototypes, at_full_size, block_means
from dpd_train.scene_set import SceneSet
from dpd_train.too_near import drop_too_near

SIDE = 32


def pictures(count: int, seed: int) -> Images:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 16, 16, 3)).repeat(2, axis=1).repeat(2, axis=2).astype(np.uint8)


def scenes(count: int, seed: int) -> SceneSet:
    images = pictures(count, seed)
    hashes = tuple(f"{seed}-{row}" for row in range(count))
    return SceneSet(("a", "b"), images, np.arange(count) % 2, hashes, ())


def as_latents(images: Images) -> Float32:
    """A VAE which changes nothing."""
    return images.transpose(0, 3, 1, 2).astype(np.float32)


def as_images(latents: Float32) -> Images:
    return latents.transpose(0, 2, 3, 1).round().astype(np.uint8)


def test_a_real_image_among_others_is_dropped_and_its_images_have_no_prototype() -> None:
    train, held = scenes(80, 0), scenes(40, 1)
    own = as_latents(train.images[train.labels == 0])
    members = np.repeat(np.arange(4), 10)
    means = as_latents(pictures(4, 2))
    means[2] = np.rot90(own[25], 1, (1, 2))
    found = ClassPrototypes(means, (10, 11, 12, 13), members)
    (kept, none), dropped = drop_too_near([found, None], train, held, as_images, SIDE)
    assert dropped == 1
    assert none is None
    assert kept is not None
    assert kept.counts == (10, 11, 13)
    np.testing.assert_array_equal(kept.latents, means[[0, 1, 3]])
    np.testing.assert_array_equal(kept.members, np.repeat([0, 1, -1, 2], 10))


def test_a_class_of_real_images_alone_has_no_prototype() -> None:
    train, held = scenes(20, 0), scenes(10, 1)
    real = ClassPrototypes(as_latents(train.images[[1, 3]]), (5, 5), np.repeat([0, 1], 5))
    assert drop_too_near([None, real], train, held, as_images, SIDE) == ([None, None], 2)
    assert drop_too_near([None, None], train, held, as_images, SIDE) == ([None, None], 0)


def test_block_means_are_decoded_at_the_full_size() -> None:
    train, held = scenes(20, 0), scenes(10, 1)
    pooled = block_means(as_latents(train.images[[0, 2]]), 4)
    sizes = []

    def decode(latents: Float32) -> Images:
        sizes.append(latents.shape[1:])
        return as_images(latents)

    found = ClassPrototypes(pooled, (5, 5), np.repeat([0, 1], 5))
    drop_too_near([found, None], train, held, decode, SIDE)
    assert sizes == [(3, SIDE, SIDE)]
    np.testing.assert_array_equal(block_means(at_full_size(pooled, SIDE), 4), pooled)
