"""Labels of a folder: the same in calls of any size, which large images make small."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_runtime.annotations import Array
from dpd_runtime.classifier import label
from dpd_runtime.classifier.label import images_below, label_folder, load_engine
from dpd_runtime.classifier.model import open_classifier
from tests.runtime.classifier.teacher import write_teacher

pytest.importorskip("onnxruntime")


def test_a_call_takes_fewer_images_where_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(7):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    classifier = open_classifier(write_teacher(tmp_path))
    _, engine = load_engine(classifier, "cpu", None, 1)
    sizes = []

    class Counted:
        def run(self, **inputs: Array) -> Array:
            sizes.append(len(inputs["images"]))
            return engine.run(**inputs)

    def labelled() -> list[tuple[str, str | None]]:
        found = label_folder(classifier, Counted(), tmp_path / "images", images_below(tmp_path / "images"))
        return [(each.file, each.name) for each in found.labels]

    whole = labelled()
    monkeypatch.setattr(label, "BATCH_PIXELS", 3 * 64**2)
    assert labelled() == whole
    monkeypatch.setattr(label, "BATCH_PIXELS", 1)
    assert labelled() == whole
    assert sizes == [7, 3, 3, 1, *[1] * 7]
