"""Weights in a file beside their graph are loaded from the verified bytes only. Also: zip entries beyond 2 GB."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime.bundle.archive import open_files, write_zip
from dpd_runtime.bundle.bundle import Bundle, load_bundle
from dpd_runtime.bundle.verified import WEIGHTS_NAME
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.onnxruntime import OnnxRuntimeEngine
from dpd_runtime.errors import BundleError
from tests.runtime.bundle.test_bundle import as_zip, bundle_files, parts

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)  # as many columns as `parts` has classes
CPU = Provider("cpu", "")


def graph(location: str = WEIGHTS_NAME, **entries: str) -> bytes:
    """y = x @ w with w outside."""
    onnx = pytest.importorskip("onnx")
    helper, proto = onnx.helper, onnx.TensorProto
    weight = proto(name="w", data_type=proto.FLOAT, dims=[3, 2], data_location=proto.EXTERNAL)
    for key, value in ({"location": location} | entries).items():
        weight.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(n, proto.FLOAT, ["n", width]) for n, width in (("x", 3), ("y", 2)))
    body = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    content: bytes = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return content


def bundle(tmp_path: Path, content: bytes, weights: bytes | None) -> Bundle:
    files = parts() | {"classifier/model.onnx": content}
    files |= {} if weights is None else {f"classifier/{WEIGHTS_NAME}": weights}
    return load_bundle(as_zip(tmp_path, bundle_files(files)))


def test_they_are_loaded_from_the_bundle(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    opened = bundle(tmp_path, graph(), WEIGHT.tobytes())
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_array_equal(opened.engine("classifier/model.onnx", CPU).run(x=x), x @ WEIGHT)


@pytest.mark.parametrize("location", ["other", "../model.onnx_data", "/etc/passwd", "sub/model.onnx_data", "x" * 200])
def test_any_other_place_is_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(BundleError, match=r"classifier/model\.onnx has weights outside itself"):
        bundle(tmp_path, graph(location), WEIGHT.tobytes())


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has weights outside itself"):
        bundle(tmp_path, graph(), None)


def test_another_spelling_of_the_same_protobuf_is_refused(tmp_path: Path) -> None:
    """Value before key, and a length in two bytes: both are valid, and no exporter writes them."""
    pytest.importorskip("onnx")
    plain = b"\n\x08location\x12\x0f" + WEIGHTS_NAME.encode()
    evil = b"\x12\x0f" + b"/etc/ssh/secret" + b"\n\x08location"
    content = graph()
    assert content.count(plain) == 1
    assert len(evil) == len(plain)
    with pytest.raises(BundleError, match="has weights outside itself"):
        bundle(tmp_path, content.replace(plain, evil), WEIGHT.tobytes())


@pytest.mark.parametrize(
    "entries", [{"offset": "8"}, {"offset": "4611686018427387904"}, {"length": "48"}, {"offset": "-8"}]
)
def test_onnxruntime_reads_nothing_beyond_the_bytes(tmp_path: Path, entries: dict[str, str]) -> None:
    pytest.importorskip("onnxruntime")
    opened = bundle(tmp_path, graph(**entries), WEIGHT.tobytes())
    with pytest.raises(Exception, match=r"out of bounds|mismatch|could not be parsed|Fail"):
        opened.engine("classifier/model.onnx", CPU)


def test_onnxruntime_opens_no_file_where_there_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second line of defence. The control: without the table it would read from the working directory."""
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    Path("elsewhere").write_bytes(WEIGHT.tobytes())
    content = graph("elsewhere")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="elsewhere not found"):
        OnnxRuntimeEngine(content, CPU, weights={WEIGHTS_NAME: WEIGHT.tobytes()})


def zip64(path: Path, content: bytes) -> None:
    """An entry with the local header that zipfile writes beyond 2 GB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        info = zipfile.ZipInfo("a/large", (1980, 1, 1, 0, 0, 0))
        info.file_size = len(content)
        with archive.open(info, "w", force_zip64=True) as entry:
            entry.write(content)
    written = bytearray(path.read_bytes())
    written[18:26] = b"\xff" * 8  # both sizes; for a small entry Python before 3.11.4 leaves them as they are
    path.write_bytes(written)


def test_large_entries_of_a_zip_are_read(tmp_path: Path) -> None:
    zip64(tmp_path / "x.dpd", b"0123456789" * 5)
    assert struct.unpack_from("<II", (tmp_path / "x.dpd").read_bytes(), 18) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert struct.unpack_from("<HHQQ", (tmp_path / "x.dpd").read_bytes(), 30 + len("a/large")) == (1, 16, 50, 50)
    assert bytes(open_files(tmp_path / "x.dpd")["a/large"]) == b"0123456789" * 5


@pytest.mark.parametrize("place", [0, 2, 4, 12])
def test_their_sizes_must_be_those_of_the_directory(tmp_path: Path, place: int) -> None:
    zip64(tmp_path / "x.dpd", b"0123456789" * 5)
    content = bytearray((tmp_path / "x.dpd").read_bytes())
    content[30 + len("a/large") + place] ^= 1
    (tmp_path / "x.dpd").write_bytes(content)
    with pytest.raises(BundleError, match="damaged, compressed or encrypted"):
        open_files(tmp_path / "x.dpd")


def test_a_zip_from_files_is_the_zip_from_bytes(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    write_zip(tmp_path / "a.dpd", {"x": b"content", "y/z": b""})
    write_zip(tmp_path / "b.dpd", {"x": tmp_path / "source", "y/z": b""})
    assert (tmp_path / "a.dpd").read_bytes() == (tmp_path / "b.dpd").read_bytes()
