"""Image processors of the hub: by PIL whatever is installed, asked for as this version of transformers wants."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from transformers import AutoImageProcessor, CLIPImageProcessor
from transformers.utils import logging as of_transformers

from dpd_train.model_files import image_processor

NEW = find_spec("transformers.image_processing_backends") is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return tmp_path


def test_it_is_asked_for_without_a_word_that_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, Any]] = []
    real = AutoImageProcessor.from_pretrained
    monkeypatch.setattr(
        AutoImageProcessor, "from_pretrained", lambda path, **more: asked.append(more) or real(path, **more)
    )
    of_transformers.set_verbosity_warning()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        made = image_processor("a test", folder)
    assert [record.message for record in caplog.records if "use_fast" in record.message] == []
    assert asked[0] | {"local_files_only": True} == asked[0]
    assert asked[0].get("backend" if NEW else "use_fast") == ("pil" if NEW else False)
    assert type(made).__name__ == ("CLIPImageProcessorPil" if NEW else "CLIPImageProcessor")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    assert made(images=[image], return_tensors="np")["pixel_values"].shape == (1, 3, 32, 32)
