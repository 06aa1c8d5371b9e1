"""Arms of what could travel in place of a bundle: named images and JPEGs."""

import io
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from dpd_eval.arms import QUALITY, alternatives
from dpd_eval.extractors import Extractor
from dpd_eval.options import EvaluateConfig
from dpd_eval.results import jpeg_megabytes, jpegs_arm
from dpd_runtime.annotations import Float32, Images
from dpd_runtime.errors import DataError, InputError
from dpd_train.scene_set import SceneSet

SIDE = 16


def scenes(per_class: int = 10) -> SceneSet:
    """Three classes, each of its own grey level."""
    labels = np.repeat(np.arange(3), per_class).astype(np.int64)
    noise = np.random.default_rng(0).normal(0, 9, (len(labels), SIDE, SIDE, 3))
    images = (np.array([50, 128, 206])[labels][:, None, None, None] + noise).clip(0, 255).astype(np.uint8)
    return SceneSet(("a", "b", "c"), images, labels, tuple(map(str, range(len(labels)))), ())


def by_brightness(seen: list[SceneSet], wrong: bool, known: SceneSet) -> Extractor:
    """A classifier that knows the grey levels, or takes the next class; it keeps what it was trained on."""
    seen.append(known)

    def score(images: Images) -> Float32:
        near = np.abs(images.mean(axis=(1, 2, 3))[:, None] - np.array([50, 128, 206])[None])
        return np.roll(-near, wrong, axis=1).astype(np.float32)

    return Extractor("own", "by brightness", known.classes, lambda images: images.reshape(len(images), -1), score)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_site_has_images_and_the_classifiers_names_for_them(wrong: bool) -> None:
    real, seen = scenes(), list[SceneSet]()
    arms, notes = alternatives(EvaluateConfig(labels=True), real, partial(by_brightness, seen, wrong))
    named, rows = arms["labels"](2, 0)
    assert len(rows) == len(set(rows.tolist())) == 6
    learned, given = set(seen[0].hashes), {named.hashes[row] for row in rows}
    assert not learned & given, "the classifier has not seen them"
    assert np.bincount(seen[0].labels).tolist() == [5, 5, 5]
    truth = real.labels[[real.hashes.index(one) for one in named.hashes]]
    np.testing.assert_array_equal(named.labels, (truth + wrong) % 3)
    assert f"which is right in {0 if wrong else 100:.1f} %; intervals repeat neither" in notes[0]
    others = arms["labels"](2, 1)[1]
    assert rows.tolist() != others.tolist(), "each pair's site has other images"
    with pytest.raises(DataError, match="IPC 6 takes 18 images, half of the real are 15"):
        arms["labels"](6, 0)


def test_as_many_jpegs_travel_as_fit() -> None:
    real = scenes()
    sizes = []
    for pixels in real.images:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
        sizes.append(len(content.getvalue()))
    megabytes = 4.5 * 3 * np.mean(sizes) / 1e6
    arms, notes = alternatives(EvaluateConfig(jpegs=megabytes), real, lambda _: pytest.fail("no classifier"))
    (name,) = arms
    changed, rows = arms[name](1, 0)
    assert np.bincount(changed.labels[rows]).tolist() == [4, 4, 4], "four and a half of each class would fit"
    assert "4 of each class" in notes[0]
    difference = np.abs(changed.images[rows].astype(int) - real.images[rows])
    assert 0 < difference.mean() < 9, "they went through a JPEG, which hides less than the noise"
    assert rows.tolist() != arms[name](1, 1)[1].tolist()
    everything, _ = alternatives(EvaluateConfig(jpegs=100), real, lambda _: pytest.fail("no classifier"))
    assert len(everything["jpegs in 100 MB"](1, 0)[1]) == 30


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="--jpegs is 0: give megabytes"):
        EvaluateConfig(jpegs=0)
    with pytest.raises(DataError, match=r"--jpegs 0\.0001: a JPEG of each class takes 0\.00\d+ MB; give more"):
        alternatives(EvaluateConfig(jpegs=0.0001), scenes(), lambda _: pytest.fail("no classifier"))
    with pytest.raises(DataError, match="--labels: a class has 3 real images, too few for two halves"):
        alternatives(EvaluateConfig(labels=True), scenes(3), lambda _: pytest.fail("no classifier"))


def test_the_names_of_the_arms_say_what_is_needed_to_repeat_them() -> None:
    assert jpeg_megabytes(jpegs_arm(3.1)) == 3.1
    assert [jpeg_megabytes(name) for name in ("set", "labels", "random", "5 real", "set + 5 real")] == [None] * 5
    assert replace(EvaluateConfig(), jpegs=2.0).jpegs == 2
