"""Hugging Face `datasets` opens the folder of a set by its card, and shows the names of the classes."""

from pathlib import Path

import pytest

from dpd_runtime import Output
from tests.drawn import CLASSES, need, opened, write

datasets = pytest.importorskip("datasets", reason="the reader datasets is not installed")
FORMATS = [("imagefolder", None), ("imagefolder", "jpeg"), ("webdataset", None), ("webdataset", "webp")]
FORMATS += [("parquet", None), ("parquet", "jpeg")]


@pytest.mark.parametrize(("name", "image_format"), FORMATS)
@pytest.mark.parametrize("soft_labels", [False, True])
def test_datasets_shows_the_names_of_the_classes(
    name: str, image_format: str | None, soft_labels: bool, tmp_path: Path
) -> None:
    need(name)
    write(tmp_path / "set", Output(name, image_format, soft_labels))
    table = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    column = table.features["cls" if name == "webdataset" else "label"]
    assert column.names == [scene.name for scene in opened().classes]
    labels = table["cls" if name == "webdataset" else "label"]
    assert [column.int2str(label) for label in labels] == [n for n in sorted(CLASSES) for _ in range(3)]
    images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    assert table[0][images[0]].size == (64, 64)
