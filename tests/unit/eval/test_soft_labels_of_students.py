import numpy as np
import pytest

from dpd_eval.arms import Training, label_softly, soft_labels
from dpd_eval.extractors import Extractor, own_extractor
from dpd_runtime.errors import InputError
from dpd_train.scene_set import SceneSet

CLASSES = ("dark", "grey", "light")


def scenes(per_class: int = 20) -> SceneSet:
    labels = np.repeat(np.arange(3), per_class).astype(np.int64)
    noise = np.random.default_rng(1).normal(0, 25, (len(labels), 16, 16, 3))
    images = np.clip(np.array([50, 128, 206])[labels][:, None, None, None] + noise, 0, 255).astype(np.uint8)
    return SceneSet(CLASSES, images, labels, tuple(map(str, range(len(labels)))), ())


def brightness(classes: tuple[str, ...] | None = CLASSES) -> Extractor:
    """Build a teacher in closed form: logits fall with the distance of an image's mean from that of each class."""

    def score(images: np.ndarray) -> np.ndarray:
        mean = images.mean(axis=(1, 2, 3), dtype=np.float64)
        return -np.abs(mean[:, None] - np.array([50, 128, 206])).astype(np.float32) / 10

    return Extractor("brightness", "brightness", classes, lambda images: images.reshape(len(images), -1), score)


def test_the_own_teacher_recognises_its_images(tmp_path):
    data = scenes()
    found = soft_labels(own_extractor(data, tmp_path, steps=30), data.images, CLASSES)
    assert found.dtype == np.float32
    assert found.shape == (60, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found.argmax(axis=1) == data.labels).mean() > 0.9
    np.testing.assert_array_equal(found, soft_labels(own_extractor(data, tmp_path, steps=30), data.images, CLASSES))


def test_columns_come_in_the_order_of_the_classes():
    data = scenes()
    logits = -np.abs(data.images.mean(axis=(1, 2, 3), dtype=np.float64)[:, None] - np.array([50, 128, 206])) / 10
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft_labels(brightness(), data.images, CLASSES), expected, atol=1e-5)
    turned = soft_labels(brightness(), data.images, ("light", "dark", "grey"))
    np.testing.assert_allclose(turned, expected[:, [2, 0, 1]], atol=1e-5)


def test_every_training_gets_the_labels_of_its_own_images():
    data = scenes()
    asked: list[int] = []
    teacher = brightness()

    def counted(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        assert teacher.score is not None
        return teacher.score(images)

    watched = Extractor("brightness", "", CLASSES, teacher.embed, counted)
    few, many = np.array([3, 30, 50]), np.arange(60)
    plan = [
        Training("random", student, 1, seed, ((data, rows),))
        for student in ("convnet", "resnet")
        for seed, rows in ((0, few), (1, many))
    ]
    labelled = label_softly(plan, watched, CLASSES)
    assert [len(item.soft) for item in labelled if item.soft is not None] == [3, 60, 3, 60]
    np.testing.assert_array_equal(labelled[2].soft, soft_labels(teacher, data.images[few], CLASSES))
    assert sum(asked) == 8 * 63  # eight views of each image, and the second student's are not asked for again


def test_a_teacher_without_these_classes_is_refused():
    for classes in (None, ("dark", "grey")):
        with pytest.raises(InputError, match="has no labels for these classes"):
            soft_labels(brightness(classes), scenes().images, CLASSES)
    broken = Extractor("odd", "", CLASSES, lambda images: images, lambda images: np.zeros((len(images), 2), np.float32))
    with pytest.raises(InputError, match="gave no probabilities of 3 classes"):
        soft_labels(broken, scenes().images, CLASSES)
