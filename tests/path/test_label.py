"""Labels of a folder: the same in calls of any size, which large images make small."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_runtime import classifier as label
from dpd_runtime.annotations import Array
from dpd_runtime.classifier import images_below, label_folder, load_engine, open_classifier
from dpd_runtime.errors import DataError
from tests.commands import dpd
from tests.teacher import write_teacher

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


def test_a_sets_own_pictures_are_no_images_of_it(tmp_path: Path, process_environment: dict[str, str]) -> None:
    """Only a set's: people have pictures of these names too."""
    made = dpd(["generate", "--ipc", "2", "--classes", "Forest,River", "--out", "a/set"], process_environment, tmp_path)
    assert made.returncode == 0, made.stderr
    names = sorted(path.name for path in (tmp_path / "a" / "set").glob("*/*.png"))
    assert len(names) == 4
    assert (tmp_path / "a" / "set" / "contact_sheet.png").is_file()
    assert sorted(path.name for path in images_below(tmp_path / "a" / "set")) == names
    with pytest.raises(DataError, match="holds no images"):  # a set among other images is passed over
        images_below(tmp_path / "a")
    for folder, record in (("no", None), ("foreign", "{}"), ("broken", "{")):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / "a" / "set" / "contact_sheet.png", tmp_path / folder)
        if record is not None:
            (tmp_path / folder / "dataset.json").write_text(record)
        assert [path.name for path in images_below(tmp_path / folder)] == ["contact_sheet.png"], folder
    sheet = tmp_path / "a" / "set" / "contact_sheet.png"
    assert images_below(sheet) == [sheet], "who names it wants it"
