"""A classifier's folder: what is written is read, and nothing else is."""

import hashlib
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpd_runtime import classifier
from dpd_runtime.classifier import check_place, logits_of, open_classifier, parse_record
from dpd_runtime.errors import BundleError, InputError, ModelError
from tests.hostile.test_weights_outside import SPELLINGS
from tests.teacher import write_teacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_teacher(tmp_path)


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "model.json").read_text())
    change(record)
    (folder / "model.json").write_text(json.dumps(record))


def test_what_is_written_is_read(folder: Path) -> None:
    opened = open_classifier(folder)
    assert len(opened.record.classes) == 10
    assert opened.record.to_json() == (folder / "model.json").read_bytes()
    assert hashlib.sha256(opened.graph).hexdigest() == opened.record.graph.sha256
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.json", "model.onnx"]
    card = (folder / "README.md").read_text()
    assert "Not measured" in card
    assert "9. `SeaLake`" in card


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(format="other"), "is not the record of a classifier"),
        (lambda r: r.update(format_version=2), "has version 2, this dpd knows 1; upgrade dpd-distill"),
        (lambda r: r.update(format_version=True), "has no version"),
        (lambda r: r.update(more=1), "has other keys than dpd fit writes: ['more']"),
        (lambda r: r.pop("side"), "has other keys than dpd fit writes: ['side']"),
        (lambda r: r.update(side=0), "side 0 is not 1 to 4096"),
        (lambda r: r.update(side=10**9), "side 1000000000 is not 1 to 4096"),
        (lambda r: r.update(classes=["River"]), "needs 2 to 10000 classes"),
        (lambda r: r.update(classes=["River", "River"]), "has a class twice"),
        (lambda r: r.update(classes=["River", "../up"]), "has class '../up'"),
        (lambda r: r.update(classes=["River", 7]), "has class 7"),
        (lambda r: r.update(graph={"sha256": "0"}), "has no size or hash of the graph"),
        (lambda r: r.update(validation={"oa": "high"}), "has texts or numbers that dpd fit does not write"),
        (lambda r: r.update(network="\u202ebackwards"), "has texts or numbers that dpd fit does not write"),
        (lambda r: r.update(training=[]), "has no training"),
    ],
)
def test_another_record_is_refused(folder: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    changed(folder, change)
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        open_classifier(folder)
    assert caught.value.exit_code == 3


def test_a_changed_graph_is_refused(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx: sha256 is .*, model\.json says"):
        open_classifier(folder)


def test_a_graph_that_may_do_more_is_refused_although_its_hash_is_right(folder: Path) -> None:
    helper = pytest.importorskip("onnx.helper")
    value = helper.make_tensor_value_info("images", 1, ["n", 3, 64, 64])
    node = helper.make_node("ScatterND", ["images", "images", "images"], ["logits"])
    graph = helper.make_model(helper.make_graph([node], "g", [value], [value])).SerializeToString()
    (folder / "model.onnx").write_bytes(graph)
    changed(folder, lambda r: r.update(graph={"sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}))
    with pytest.raises(
        BundleError, match=r"ScatterND.*dpd fit makes no such graph: upgrade dpd-distill or run dpd fit"
    ):
        open_classifier(folder)


def with_graph(folder: Path, graph: bytes, **more: Any) -> None:
    """The classifier with another graph, whose hash is right."""
    (folder / "model.onnx").write_bytes(graph)
    listed = {"sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}
    changed(folder, lambda record: record.update({"graph": listed, **more}))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_graph_whose_weights_lie_elsewhere_is_refused(folder: Path, spelling: str) -> None:
    """No file belongs to a classifier but its graph, however the graph names one."""
    pytest.importorskip("onnx")
    with_graph(folder, SPELLINGS[spelling]("model.json"))
    with pytest.raises(BundleError, match=r"^model\.onnx(: field 99| has weights outside itself).*run dpd fit again"):
        open_classifier(folder)


def test_a_graph_of_holes_is_refused_before_it_is_read(folder: Path) -> None:
    """4 kB on the disk; reading and hashing them took 649 MB."""
    with (folder / "model.onnx").open("wb") as file:
        file.truncate(600_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"it claims 60. MB, but the disk holds .* \(sparse files\)"):
            open_classifier(folder)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_numbers_that_are_not_finite_are_no_label(folder: Path) -> None:
    opened = open_classifier(folder)
    images = np.zeros((2, 3, opened.record.side, opened.record.side), np.float32)

    class Overflowing:
        def run(self, **inputs: object) -> np.ndarray:  # type: ignore[type-arg]
            return np.array([[np.nan] * len(opened.record.classes), [0.0] * len(opened.record.classes)], np.float32)

    with pytest.raises(ModelError, match=r"model\.onnx gave numbers that are not finite, .*; fit it again"):
        logits_of(opened, Overflowing(), images)


def test_a_graph_beyond_the_memory_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "usable_memory", lambda: 2_000_000)
    size = (folder / "model.onnx").stat().st_size
    with pytest.raises(ModelError, match=rf"model\.onnx has {size} bytes, more than 666666"):
        open_classifier(folder)


def test_what_is_no_classifier(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"no classifier, as it has no model\.json; give a folder that dpd fit wrote"):
        open_classifier(tmp_path)
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be read \(No such file or directory\)"):
        open_classifier(folder)
    with pytest.raises(BundleError, match=r"model\.json is not valid JSON"):
        parse_record(b"{")


def test_only_a_classifier_is_overwritten(tmp_path: Path, folder: Path) -> None:
    check_place(tmp_path / "new", False)
    check_place(folder, True)
    with pytest.raises(InputError, match=r"exists; choose another --out, or pass --overwrite"):
        check_place(folder, False)
    (folder / "thesis.txt").write_text("three years")
    with pytest.raises(InputError, match="is not a classifier that dpd fit wrote, and is not overwritten"):
        check_place(folder, True)
