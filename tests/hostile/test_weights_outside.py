"""Weights in a file beside their graph are loaded from the verified bytes only. Also: zip entries beyond 2 GB."""

import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime.archive import open_files, write_zip
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.engines import Compilation, Engine, Provider
from dpd_runtime.errors import BundleError
from dpd_runtime.graph_check import WEIGHTS_NAME, check_graph
from dpd_runtime.sessions import OnnxRuntimeEngine
from dpd_runtime.untrusted import EngineProcess
from tests.hostile.fuzz.wire import appended, changed, field, varint
from tests.unit.runtime.test_bundle import as_zip, bundle_files, parts

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


PLACE = (7, 5, 13)


def hidden(content: bytes) -> bytes:
    """The same graph; between key and value of the place of its weights stands a field that every parser skips."""
    (key, value) = (field(1, b"location"), b"\x12")

    def between(entry: bytes) -> bytes:
        assert entry.startswith(key + value)
        return key + field(99, b"x") + entry[len(key) :]

    return changed(content, PLACE, between)


SPELLINGS: dict[str, Callable[[str], bytes]] = {
    "plain": graph,
    "a field between": lambda place: hidden(graph(place)),
    "in two parts": lambda place: appended(graph(), PLACE, field(2, place.encode())),
    "said twice": lambda place: appended(
        graph(), PLACE[:2], field(PLACE[2], field(1, b"location") + field(2, place.encode()))
    ),
    "without saying that it is elsewhere": lambda place: changed(
        graph(place), PLACE[:2], lambda tensor: tensor.replace(varint(14 << 3) + b"\1", b"")
    ),
}


@pytest.mark.parametrize("beside", [0, 24])
@pytest.mark.parametrize("place", ["secret", "*/_ORT_MEM_ADDR_/*", "/etc/passwd"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_graph_reads_no_file_however_the_place_is_written(spelling: str, place: str, beside: int) -> None:
    pytest.importorskip("onnx")
    for trusted in (False, True):
        with pytest.raises(BundleError, match=r"^x\.onnx(: field 99| has weights outside itself)"):
            check_graph("x.onnx", SPELLINGS[spelling](place), beside, trusted=trusted)


def test_weights_outside_need_a_file_with_weights() -> None:
    pytest.importorskip("onnx")
    check_graph("x.onnx", graph(), 24)
    with pytest.raises(BundleError, match=r"^x\.onnx has weights outside itself that are not in model\.onnx_data"):
        check_graph("x.onnx", graph(), trusted=True)


def test_the_hidden_place_is_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of the tests above: ONNX Runtime itself reads the file, and the output spells it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(WEIGHT.tobytes())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(hidden(graph("secret")), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.eye(3, dtype=np.float32)})[0]
    np.testing.assert_array_equal(found.ravel(), WEIGHT.ravel())


def spelling_graph(location: str, size: int) -> bytes:
    """Images [n, 3, 1, 1] → logits [n, 256]: the byte of a file that lies where the grey of the image says.

    No optimisation of ONNX Runtime looks at bytes, so it opens the file with any of them.
    """
    onnx = pytest.importorskip("onnx")
    helper, proto = onnx.helper, onnx.TensorProto
    data = proto(name="data", data_type=proto.UINT8, dims=[size], data_location=proto.EXTERNAL)
    data.external_data.add(key="location", value=location)
    constants = {
        "half": np.float32(127.5),
        "centre": np.float32(128),  # a cast cuts off what follows the point
        "every": np.arange(256, dtype=np.float32),
        "column": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "centre"], ["grey"]),
        helper.make_node("Cast", ["grey"], ["index"], to=proto.INT64),
        helper.make_node("Gather", ["data", "index"], ["byte"]),
        helper.make_node("Cast", ["byte"], ["number"], to=proto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "column"], ["row"]),
        helper.make_node("Sub", ["every", "row"], ["far"]),
        helper.make_node("Mul", ["far", "far"], ["farther"]),
        helper.make_node("Sub", ["half", "farther"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info("images", proto.FLOAT, ["n", 3, 1, 1]),
        helper.make_tensor_value_info("logits", proto.FLOAT, ["n", 256]),
    ]
    tensors = [data, *(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    content: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return hidden(content)


def spelled(engine: Engine, size: int) -> bytes:
    images = np.repeat(np.arange(size, dtype=np.float32).reshape(-1, 1, 1, 1) / 127.5 - 1, 3, axis=1)
    return bytes(engine.run(images=images).argmax(axis=1).tolist())


SECRET = b"user:x:1000:"


def test_the_process_apart_finds_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second line of defence. The control: unchecked and in this process, the graph spells a file."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(SECRET)
    content = spelling_graph("secret", len(SECRET))
    assert spelled(OnnxRuntimeEngine(content, CPU), len(SECRET)) == SECRET
    process = EngineProcess()
    with pytest.raises(BundleError, match=r"x\.onnx cannot be run"):
        process.load(content, CPU, 1, None, "x.onnx", Compilation())
    if sys.platform == "linux":
        assert str(Path(f"/proc/{process._process.pid}/cwd").readlink()).endswith("(deleted)")


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
