"""Graphs without a trusted signature run in a process of their own: the same pixels, and whatever happens to it is one
line.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from dpd_runtime import generate, load_bundle, untrusted
from dpd_runtime.bundle import EMBEDDED_HASH
from dpd_runtime.engines import Compilation, Engine, Provider
from dpd_runtime.errors import BundleError, DiskError, MemoryShortError, MissingExtraError, ProviderError
from dpd_runtime.sealing import sign_bundle
from dpd_runtime.sessions import HERE, Host
from dpd_runtime.trust import Signature, read_signing_key, write_signing_pair
from dpd_runtime.untrusted import DTYPES, EngineProcess, TooLargeError, receive, send
from dpd_runtime.untrusted_worker import Server
from tests.commands import dpd
from tests.drawn import codes_only, opened, quick_bundle

pytest.importorskip("onnxruntime")
CPU = Provider("cpu", "test")
TRUSTED = Signature("0" * 32, "lab")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def graph(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    """x [n, 2] → y, of any kind."""
    onnx = pytest.importorskip("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in
            (("x", ["n", 2]), ("y", None))]  # fmt: skip
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = onnx.helper.make_graph([onnx.helper.make_node(*node) for node in nodes], "g", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def loaded(host: Host, content: bytes) -> Engine:
    return host.load(content, CPU, 1, None, "x.onnx", Compilation())


def test_the_embedded_bundle_is_known_by_its_hash(tmp_path: Path) -> None:
    assert opened().hash == EMBEDDED_HASH
    assert opened().trusted
    assert opened().host is HERE
    changed = load_bundle(quick_bundle(tmp_path / "quick"))
    assert not changed.trusted
    assert changed.host is not HERE
    assert replace(changed, signature=TRUSTED).host is HERE


ALONE = """
import sys, dpd_runtime
images = [*dpd_runtime.generate(dpd_runtime.load_bundle(sys.argv[1]), ipc=2, classes=("River",), seed=3)]
print(len(images), "onnxruntime" in sys.modules, sum(int(image.pixels.sum()) for image in images))
"""


def test_this_process_never_loads_onnxruntime(tmp_path: Path, process_environment: dict[str, str]) -> None:
    path = quick_bundle(tmp_path / "quick")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(path)],
        env=process_environment | {"XDG_CACHE_HOME": str(tmp_path)},  # the golden images are asked for too
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    trusted = replace(load_bundle(path), signature=TRUSTED)
    images = [*generate(trusted, ipc=2, classes=("River",), seed=3)]
    assert done.stdout.split() == ["2", "False", str(sum(int(image.pixels.sum()) for image in images))]


def test_the_pixels_are_those_of_a_trusted_bundle(tmp_path: Path) -> None:
    bundle = load_bundle(quick_bundle(tmp_path / "quick"))
    made = [
        [image.pixels for image in generate(one, ipc=10, classes=("River",), threads=2)]
        for one in (bundle, replace(bundle, signature=TRUSTED))
    ]
    np.testing.assert_array_equal(*made)


def test_errors_arrive_as_what_they_are() -> None:
    process = EngineProcess()
    with pytest.raises(BundleError, match=r"^x\.onnx cannot be run"):
        loaded(process, b"no graph")
    with pytest.raises(MissingExtraError, match="onnxruntime-gpu is not installed: pip install"):
        process.flavour_version("tensorrt")
    assert process.available_providers() == HERE.available_providers()
    big = graph([("Expand", ["x", "s"], ["z"]), ("ReduceMean", ["z"], ["y"])], {"s": np.array([2**21, 2**21, 2])})
    engine = loaded(process, big)
    with pytest.raises(MemoryShortError, match=r"^x\.onnx needs more memory than is available"):
        engine.run(x=np.ones((1, 2), np.float32))
    good = loaded(process, graph([("Neg", ["x"], ["y"])], {}))
    np.testing.assert_array_equal(good.run(x=np.ones((1, 2), np.float32)), [[-1.0, -1.0]])


def dividing() -> bytes:
    """The smallest number divided by −1 stops a processor. `check_graph` refuses this."""
    nodes = [("Cast", ["x"], ["i"]), ("Add", ["i", "least"], ["j"]), ("Div", ["j", "d"], ["y"])]
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(
        graph(nodes, {"least": np.array(-(2**31), np.int32), "d": np.array(-1, np.int32)})
    )
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.INT32))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    return bytes(model.SerializeToString())


@linux
def test_a_graph_that_stops_its_process_is_one_line() -> None:
    process = EngineProcess()
    engine, other = loaded(process, dividing()), loaded(process, graph([("Neg", ["x"], ["y"])], {}))
    for one in (engine, other):  # and those after it
        with pytest.raises(BundleError, match=r"^x\.onnx: the process that computed it was ended by SIGFPE;") as caught:
            one.run(x=np.zeros((1, 2), np.float32))
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3


def peak_mb(pid: int) -> float:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@linux
def test_what_is_computed_while_a_graph_is_loaded_counts_too() -> None:
    """A constant that ONNX Runtime folds is not in its arena: the limit of the process holds."""
    nodes = [("Expand", ["c", "s"], ["z"]), ("ReduceMean", ["z"], ["m"]), ("Add", ["x", "m"], ["y"])]
    content = graph(nodes, {"c": np.float32(1), "s": np.array([2**20, 2**20])})
    process, begun = EngineProcess(), time.monotonic()
    with pytest.raises((BundleError, MemoryShortError)):
        loaded(process, content).run(x=np.zeros((1, 2), np.float32))
    assert time.monotonic() - begun < 2
    assert peak_mb(process._process.pid) < 500


def test_a_call_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "CALL_SECONDS", 2.0)
    nodes = [("Expand", ["m", "s"], ["0"]), *(("MatMul", [str(i), str(i)], [str(i + 1)]) for i in range(2_000))]
    nodes = [("ReduceMean", ["x"], ["m"]), *nodes, ("ReduceMean", ["2000"], ["y"])]
    engine = loaded(EngineProcess(), graph(nodes, {"s": np.array([1024, 1024])}))
    begun = time.monotonic()
    with pytest.raises(
        BundleError, match=r"^x\.onnx: a call took more than 0 minutes, the limit .* trusted key signed"
    ):
        engine.run(x=np.zeros((1, 2), np.float32))
    assert time.monotonic() - begun < 10


def test_a_process_that_was_stopped_is_told_and_replaced(tmp_path: Path) -> None:
    bundle = load_bundle(codes_only(tmp_path / "codes.dpd"))
    old = bundle.host
    engine = bundle.engine("vae_decoder/model.onnx", CPU, 1)
    old.kill()  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="the process that computed it was stopped; open the bundle again"):
        engine.run(latent_sample=np.zeros((2, *bundle.manifest.latent_shape), np.float32))
    assert bundle.host is not old
    assert len([*generate(bundle, ipc=1, provider="cpu")]) == len(bundle.classes)


def test_an_interrupted_generation_can_be_asked_again(tmp_path: Path) -> None:
    bundle = load_bundle(codes_only(tmp_path / "codes.dpd"))
    generation = generate(bundle, ipc=1, provider="cpu")
    generation.load()
    bundle.host.kill()  # type: ignore[attr-defined]  # as an interrupt does
    assert len([*generation]) == len(bundle.classes)


def test_a_gpus_library_that_ends_the_process_is_the_providers_fault() -> None:
    process = EngineProcess()
    os.kill(process._process.pid, signal.SIGKILL)
    with pytest.raises(ProviderError, match=r"^x\.onnx: the process that ran it on cuda was ended by SIGKILL; use"):
        process.load(b"graph", Provider("cuda", "test", 0), 1, None, "x.onnx", Compilation())


@linux
def test_no_secret_is_in_the_other_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DPD_PASSPHRASE", "five secret words of mine")
    bundle = load_bundle(codes_only(tmp_path / "codes.dpd"))
    engine = bundle.engine("vae_decoder/model.onnx", CPU, 1)
    pid = bundle.host._process.pid  # type: ignore[attr-defined]
    seen = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline"))
    assert b"secret words" not in seen
    assert str(tmp_path).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    links = [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    assert not any("codes.dpd" in str(link) for link in links)
    del engine


def test_it_starts_whatever_the_paths_of_python_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """Its working folder is deleted, so a relative path of PYTHONPATH leads nowhere there."""
    code = "from dpd_runtime.untrusted import EngineProcess; print(EngineProcess().available_providers())"
    relative = os.pathsep.join(os.path.relpath(place, tmp_path) for place in sys.path if place)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=process_environment | {"PYTHONPATH": os.pathsep + relative},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "'cpu'" in done.stdout


def test_without_a_temporary_folder_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(DiskError, match=r"cannot be started \(No such file or directory\); set TMPDIR to a folder"):
        EngineProcess()


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.stdout.buffer.write(b'\\xff' * 100); sys.stdout.flush(); import time; time.sleep(60)",
        "import os, time; os.close(1); time.sleep(60)",
        "import sys; sys.stdout.buffer.write(b'\\2\\0\\0\\0{}'); sys.stdout.flush(); import time; time.sleep(60)",
        "import sys; sys.stdin.buffer.read(4); sys.exit(7)",
    ],
    ids=["noise", "no end", "no call", "exit"],
)
def test_answers_that_are_none_end_it(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be in an attacker's hands."""
    monkeypatch.setattr(untrusted, "START", code.replace("{", "{{").replace("}", "}}"))
    begun = time.monotonic()
    with pytest.raises(BundleError, match=r"^x\.onnx: the process that computed it (was ended by|ended with code 7)"):
        loaded(EngineProcess(), b"graph")
    assert time.monotonic() - begun < 20


@linux
def test_a_fork_has_its_own_process(tmp_path: Path) -> None:
    """As the workers of a DataLoader: the pipes of the first process are not shared."""
    bundle = load_bundle(codes_only(tmp_path / "codes.dpd"))
    first = bundle.host
    child = os.fork()
    if child == 0:
        good = bundle.host is not first and bundle.host.available_providers() == HERE.available_providers()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bundle.host is first
    assert first.available_providers() == HERE.available_providers()


@linux
def test_it_ends_with_the_process_that_started_it(process_environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time; from dpd_runtime.untrusted import EngineProcess\n"
        "made = EngineProcess(); made.available_providers(); print(made._process.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=process_environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("it lives on")


def test_a_graph_that_is_no_longer_used_is_dropped() -> None:
    server = Server()
    asked = {"what": "load", "name": "x", "provider": {"name": "cpu", "reason": ""}, "threads": 1, "shapes": {}}
    content = np.frombuffer(graph([("Neg", ["x"], ["y"])], {}), np.uint8)
    for number in range(3):
        server.answer(asked | {"engine": number, "cache": None, "half": False, "halves": False}, {"graph": content})
    server.drop([0, 2, 7])
    said, made = server.answer({"what": "run", "engine": 1}, {"x": np.ones((1, 2), np.float32)})
    assert (said, made["output"].tolist()) == ({}, [[-1.0, -1.0]])
    with pytest.raises(KeyError):
        server.answer({"what": "run", "engine": 0}, {})
    process = EngineProcess()
    first = loaded(process, content.tobytes())
    del first
    assert list(process._dropped) == [0]
    loaded(process, content.tobytes())
    assert list(process._dropped) == [1]


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'onnxruntime is not installed: pip install .*\[cpu\]"'):
        EngineProcess()


def test_openvino_wants_a_trusted_signature(tmp_path: Path) -> None:
    bundle = load_bundle(codes_only(tmp_path / "codes.dpd"))
    with pytest.raises(ProviderError, match=r"openvino: it does not check indices.* and this one is unsigned; use"):
        bundle.engine("vae_decoder/model.onnx", Provider("openvino", ""))


@linux
@pytest.mark.parametrize("sent", [signal.SIGSEGV, pytest.param(signal.SIGKILL, marks=pytest.mark.full)])
def test_a_crash_is_one_line_of_the_command(
    sent: signal.Signals, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    pytest.importorskip("onnx")  # which the next line's module needs
    from tests.unit.runtime.test_interrupt import children, slow_bundle, started, wait_until_busy

    process = started(slow_bundle(tmp_path, 1024, 2_000), tmp_path / "out", process_environment)
    wait_until_busy(process, 4)
    (computing,) = children(process.pid)
    os.kill(computing, sent)
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, "")
    (line,) = said.splitlines()[-1:]
    assert line.startswith(f"dpd: vae_decoder/model.onnx: the process that computed it was ended by {sent.name}")
    assert ("the system does that where memory runs out" in line) == (sent == signal.SIGKILL)
    assert "Traceback" not in said


@pytest.mark.full
def test_a_signed_bundle_runs_here(tmp_path: Path, process_environment: dict[str, str]) -> None:
    """The same command, signed and not: the same set."""
    private, _ = write_signing_pair(tmp_path / "lab")
    hashes = []
    for name in ("signed", "unsigned"):
        path = codes_only(tmp_path / f"{name}.dpd")
        if name == "signed":
            sign_bundle(path, read_signing_key(private), "lab")
        command = ["generate", str(path), "--ipc", "2", "--json", "--out"]
        command += [str(tmp_path / name), "--trusted-key", str(tmp_path / "lab.pub")]
        done = dpd(command, process_environment, tmp_path)
        assert done.returncode == 0, done.stderr
        hashes.append(json.loads(done.stdout)["set_hash"])
    assert hashes[0] == hashes[1]


ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(st.dictionaries(st.text(max_size=8), ARRAYS, max_size=3), st.dictionaries(st.text(max_size=8), st.integers()))
def test_messages_arrive_as_they_were(arrays: dict[str, Any], content: dict[str, int]) -> None:
    stream = io.BytesIO()
    content.pop("arrays", None)
    send(stream, content, arrays)
    send(stream, {"next": 1})
    stream.seek(0)
    said, made = receive(stream)
    assert said == content
    assert list(made) == list(arrays)
    for name, array in arrays.items():
        assert (made[name].dtype, made[name].shape) == (array.dtype, array.shape)
        assert made[name].tobytes() == array.tobytes()
    assert receive(stream) == ({"next": 1}, {})
    with pytest.raises(EOFError):
        receive(stream)


@pytest.mark.parametrize(
    "listed",
    [
        [["x", "object", [1]]],
        [["x", "float32", [2**40]]],
        [["x", "float32", [-1, -4]]],
        [["x", "float32", [True]]],
        [["x", "float32", [2**31, 2**31, 0]], ["y", "uint8", [2**31 + 1]]],
        [["x", "uint8", [10**7, "hundreds of megabytes"]]],
        [["x", "uint8", [10**6, [0] * 20]]],
        [["x", "uint8", [1] * 65]],
        [["x", "uint8", {"1": 1}]],
        [["x", ["uint8"], [1]]],
    ],
    ids=str,
)
def test_a_message_that_asks_for_too_much_is_none(listed: list[Any]) -> None:
    raw = json.dumps({"arrays": listed}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"array|^(float32|uint8) \["):
            receive(io.BytesIO(len(raw).to_bytes(4, "little") + raw))
        assert tracemalloc.get_traced_memory()[1] < 10**6, "it was read, or multiplied"
    finally:
        tracemalloc.stop()
    with pytest.raises(ValueError, match="a message of"):
        receive(io.BytesIO(b"\xff\xff\xff\x7f" + raw))


def test_the_arrays_of_a_message_are_bounded_together() -> None:
    stream = io.BytesIO()
    send(stream, {}, {"x": np.zeros(600, np.float32), "y": np.zeros(600, np.float32)})
    stream.seek(0)
    assert set(receive(stream, 4800)[1]) == {"x", "y"}
    stream.seek(0)
    with pytest.raises(TooLargeError, match=r"^float32 \[600\]$"):
        receive(stream, 4799)


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        ([("ReduceMean", ["x"], ["y"])], {}, r"float32 \[1, 1\]"),
        ([("Expand", ["x", "s"], ["y"])], {"s": np.array([3, 2])}, r"float32 \[3, 2\]"),
        ([("Expand", ["x", "s"], ["y"])], {"s": np.array([2**24, 2])}, r"float32 \[16777216, 2\]"),
    ],
    ids=["smaller", "larger", "134 MB"],
)
def test_an_output_of_another_size_is_not_read(nodes: list[Any], constants: dict[str, Any], said: str) -> None:
    """What this process reads is known before the call, so that a graph cannot fill it."""
    engine = EngineProcess().load(graph(nodes, constants), CPU, 1, None, "x.onnx", Compilation(), row=(2,))
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=rf"^x\.onnx gave {said} instead of floats \[1, 2\]; export"):
            engine.run(x=np.ones((1, 2), np.float32))
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


FLOOD = """
import sys
sys.path[:] = {path!r}
from dpd_runtime.untrusted import receive, send
import numpy as np
answers = sys.stdout.buffer
while True:
    asked, _ = receive(sys.stdin.buffer, sys.maxsize)
    run = asked["what"] == "run"
    for _ in range(5000 if run else 1):  # one answer is asked for
        send(answers, {{"call": asked["call"]}}, {{"output": np.ones((1, 2**16), np.float32)}} if run else {{}})
"""


def test_a_second_answer_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be in an attacker's hands, and answer again and again."""
    monkeypatch.setattr(untrusted, "START", FLOOD)
    process = EngineProcess()
    engine = process.load(b"graph", CPU, 1, None, "x.onnx", Compilation(), row=(2**16,))
    assert engine.run(x=np.ones((1, 2), np.float32)).shape == (1, 2**16)
    with pytest.raises(BundleError, match="the process that computed it"):
        engine.run(x=np.ones((1, 2), np.float32))
    process.kill()
