"""Soft labels: equal to a plain evaluation of the teacher, and equal in every format."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from dpd_runtime import Output, write_set
from dpd_runtime.engines import Provider
from dpd_runtime.errors import BundleError, InputError
from dpd_runtime.formats import FORMATS
from dpd_runtime.networks import check_teacher, load_teacher, soft_label, symmetries
from tests.drawn import drawn, files, need, of_fewer_classes, opened, pixels_of, write


def test_a_square_has_eight_symmetries_and_an_oblong_four() -> None:
    square = pixels_of(1, 0)
    expected = {np.rot90(view, turns).tobytes() for view in (square, square[:, ::-1]) for turns in range(4)}
    assert len(expected) == 8
    assert {np.ascontiguousarray(view).tobytes() for view in symmetries(square)} == expected
    oblong = square[:30]
    expected = {np.rot90(view, turns).tobytes() for view in (oblong, oblong[:, ::-1]) for turns in (0, 2)}
    assert {np.ascontiguousarray(view).tobytes() for view in symmetries(oblong)} == expected


def test_probabilities_are_averaged_not_logits() -> None:
    """A teacher that looks at one corner, which is white (1) in three of four views and black (-1) in the others."""
    pixels = np.full((4, 4, 3), 255, np.uint8)
    pixels[3, 3] = 0

    def corner(views: Any) -> Any:
        assert views.shape == (8, 3, 4, 4)
        assert set(np.unique(views)) <= {-1, 1}
        return np.stack([3 * views[:, 0, 0, 0], np.zeros(8)], axis=1).astype(np.float32)

    found = soft_label(corner, pixels)
    assert found.dtype == np.float32
    half = 1 / (1 + np.exp(-3.0)), 1 / (1 + np.exp(3.0))
    np.testing.assert_allclose(found[0], (3 * half[0] + half[1]) / 4, atol=1e-6)
    pixels[:] = 255
    np.testing.assert_allclose(soft_label(corner, pixels), half, atol=1e-6)
    huge = soft_label(lambda views: np.tile(np.float32([1e4, 0]), (8, 1)), pixels)
    np.testing.assert_array_equal(huge, [1, 0])


def test_the_bundles_teacher_says_what_its_graph_says() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        bytes(opened().files["classifier/model.onnx"]), providers=["CPUExecutionProvider"]
    )
    label = load_teacher(opened(), Provider("cpu", ""), 1)
    for scene, index in ((1, 0), (9, 4)):
        pixels = pixels_of(scene, index)
        probabilities = []
        for view in (pixels, np.fliplr(pixels)):
            for turns in range(4):
                turned = np.rot90(view, turns).transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
                logits = session.run(None, {"images": turned})[0][0].astype(np.float64)
                probabilities.append(np.exp(logits) / np.exp(logits).sum())
        np.testing.assert_allclose(label(pixels), np.mean(probabilities, axis=0), atol=1e-5)
        assert np.ptp(probabilities, axis=0).max() > 1e-3, "the views do not differ: nothing was averaged"
        np.testing.assert_allclose(label(np.rot90(pixels)), label(pixels), atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_labels_stand_in_the_order_of_the_metadata(name: str, tmp_path: Path) -> None:
    need(name)
    image_format = None if name == "npz" else "jpeg"
    write(tmp_path, Output(name, image_format, soft_labels=True))
    path = tmp_path / "soft_labels.safetensors"
    found = load_file(path)["soft_labels"]
    assert (found.dtype, found.shape) == (np.float32, (6, 10))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    label = load_teacher(opened(), Provider("cpu", ""), 1)
    records = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    for row, record in zip(found, records, strict=True):  # of the pixels before encoding, in every format
        np.testing.assert_array_equal(row, label(pixels_of(record["label"], record["index"])))
    with safe_open(path, "numpy") as opened_file:
        assert json.loads(opened_file.metadata()["classes"]) == [c.name for c in opened().classes]
    assert json.loads((tmp_path / "dataset.json").read_text())["soft_labels"] is True


def test_a_smaller_set_has_the_first_labels_of_a_larger_one(tmp_path: Path) -> None:
    rows = []
    for ipc in (2, 12):
        write(tmp_path, Output(soft_labels=True), ipc=ipc)
        found = load_file(tmp_path / "soft_labels.safetensors")["soft_labels"]
        rows.append(found.reshape(2, ipc, 10)[:, :2])
    np.testing.assert_array_equal(rows[0], rows[1])


def test_labels_come_and_go_with_the_option(tmp_path: Path) -> None:
    write(tmp_path, Output())
    plain = files(tmp_path)
    again = drawn()
    write_set(again, tmp_path, output=Output(soft_labels=True))
    assert again.blocks_computed == 0
    assert set(files(tmp_path)) - set(plain) == {"soft_labels.safetensors"}
    write(tmp_path, Output())  # labels of another set than the one that is there would be worse than none
    assert files(tmp_path) == plain


def test_a_bundle_without_a_teacher_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    without = {name: raw for name, raw in opened().files.items() if name != "classifier/model.onnx"}
    bundle = replace(opened(), files=without)
    with pytest.raises(InputError, match=r"holds no teacher \(classifier/model.onnx\)"):
        check_teacher(bundle)
    generation = drawn()
    generation.bundle = bundle
    with pytest.raises(InputError, match="no teacher"):
        write_set(generation, tmp_path / "out", output=Output(soft_labels=True))
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_other_classes_is_refused() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(BundleError, match=r"classifier/model\.onnx gave float32 \[8, 10\] instead of floats \[8, 4\]"):
        load_teacher(of_fewer_classes(4), Provider("cpu", ""), 1)
