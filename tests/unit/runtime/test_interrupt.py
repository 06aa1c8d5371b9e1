"""Ctrl-C and SIGTERM end a command in the middle of a network's call, and the same command continues the set."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

from dpd_runtime import embedded_bundle
from dpd_runtime.bundle import load_bundle
from dpd_runtime.golden import GOLDEN_NAME
from dpd_runtime.sealing import sign_bundle
from dpd_runtime.trust import read_signing_key, write_signing_pair
from tests.hostile.fuzz.material import as_zip, read_material

GRAPH = "vae_decoder/model.onnx"


def slow_bundle(folder: Path, side: int, products: int, *, at_load: bool = False) -> Path:
    """The embedded bundle with a decoder that multiplies matrices first.

    Args:
        at_load: the product is a constant, which ONNX Runtime computes when it loads the graph.
    """
    latent = load_bundle(embedded_bundle()).manifest.latent_shape
    pattern = np.linspace(-1, 1, 3 * 64 * 64, dtype=np.float32).reshape(1, 3, 64, 64)
    constants = {"shape": np.array([side, side]), "zero": np.float32(0), "pattern": pattern}
    constants |= {"axes": np.array([1, 2, 3])}
    nodes = [
        helper.make_node("ReduceMean", ["latent_sample", "axes"], ["level"], keepdims=1),
        helper.make_node("ReduceMean", ["latent_sample"], ["scalar"], keepdims=0),
        helper.make_node("Mul", ["scalar", "zero"], ["nothing"]),
        helper.make_node("Expand", ["zero" if at_load else "nothing", "shape"], ["0"]),
        *(helper.make_node("MatMul", [str(i), str(i)], [str(i + 1)]) for i in range(products)),
        helper.make_node("ReduceMean", [str(products)], ["sum"], keepdims=0),
        helper.make_node("Mul", ["level", "zero"], ["rows"]),
        helper.make_node("Add", ["rows", "sum"], ["both"]),
        helper.make_node("Add", ["both", "pattern"], ["sample"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("latent_sample", TensorProto.FLOAT, ["n", *latent])],
        [helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["n", 3, 64, 64])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    material = read_material(embedded_bundle()).with_file(GRAPH, model.SerializeToString())
    files = {name: content for name, content in material.files.items() if name != GOLDEN_NAME}  # of another decoder
    return as_zip(folder, replace(material, files=files).sealed())


def started(
    bundle: Path, out: Path, environment: dict[str, str], provider: str = "cpu", key: Path | None = None
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "dpd_cli", "generate", str(bundle), "--out", str(out), "--json"]
    command += [] if key is None else ["--trusted-key", str(key)]
    command += ["--classes", "Forest,River", "--ipc", "1", "--provider", provider]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_busy(process: "subprocess.Popen[str]", cpu_seconds: float) -> None:
    """Wait until a process and those that it started have computed for so long. What comes before the call takes about
    a second.
    """
    for _ in range(600):
        if sum(map(cpu_seconds_of, [process.pid, *children(process.pid)])) > cpu_seconds:
            return
        time.sleep(0.1)
    raise AssertionError("it does not compute")


def fields_of(pid: int) -> list[str]:
    """What /proc says of a process after its name; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_seconds_of(pid: int) -> float:
    return sum(map(int, fields_of(pid)[11:13])) / 100


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    running = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [other for other in running if fields_of(other)[1:2] == [str(pid)]]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "signed", [pytest.param(True, id="signed", marks=pytest.mark.full), pytest.param(False, id="unsigned")]
)
@pytest.mark.parametrize(
    ("sent", "side", "products", "at_load"),
    [
        pytest.param(signal.SIGINT, 1024, 2_000, False, id="many operators"),
        pytest.param(signal.SIGTERM, 1024, 2_000, False, id="SIGTERM", marks=pytest.mark.full),
        pytest.param(signal.SIGINT, 12_000, 1, False, id="one operator", marks=pytest.mark.full),
        pytest.param(signal.SIGINT, 1024, 2_000, True, id="while it is loaded", marks=pytest.mark.full),
    ],
)
def test_a_call_that_takes_a_minute_ends_at_once(
    sent: signal.Signals,
    side: int,
    products: int,
    at_load: bool,
    signed: bool,
    tmp_path: Path,
    process_environment: dict[str, str],
) -> None:
    ends_at_once("cpu", sent, slow_bundle(tmp_path, side, products, at_load=at_load), signed, process_environment)


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize(
    ("side", "products", "at_load"),
    [
        pytest.param(12_000, 1, False, id="one operator"),
        pytest.param(1024, 2_000, True, id="while it is loaded", marks=pytest.mark.full),
    ],
)
def test_a_call_of_openvino_does_so_too(
    side: int, products: int, at_load: bool, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """It runs signed bundles alone."""
    bundle = slow_bundle(tmp_path, side, products, at_load=at_load)
    ends_at_once("openvino", signal.SIGINT, bundle, True, process_environment)


def ends_at_once(
    provider: str, sent: signal.Signals, bundle: Path, signed: bool, process_environment: dict[str, str]
) -> None:
    tmp_path = bundle.parent
    key = None
    if signed:
        private, _ = write_signing_pair(tmp_path / "lab")
        sign_bundle(bundle, read_signing_key(private), "lab")
        key = tmp_path / "lab.pub"
    process = started(bundle, tmp_path / "out", process_environment, provider, key)
    wait_until_busy(process, 4)
    computing = children(process.pid)
    assert bool(computing) == (not signed), "an unsigned bundle's graphs run in another process"
    process.send_signal(sent)
    begun = time.monotonic()
    try:
        out, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - begun < 2
    assert (process.returncode, out) == (130, ""), said
    assert said.splitlines()[-1].startswith("dpd: interrupted; run the same command again to continue")
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.png"))
    assert not any(map(fields_of, computing)), "that process has ended too"


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_same_command_continues(tmp_path: Path, process_environment: dict[str, str]) -> None:
    bundle = slow_bundle(tmp_path, 1024, 20)
    begun = time.monotonic()
    whole, said = started(bundle, tmp_path / "whole", process_environment).communicate(timeout=300)
    seconds = time.monotonic() - begun
    expected: dict[str, Any] = json.loads(whole)
    process = started(bundle, tmp_path / "out", process_environment)
    for _ in range(int(10 * seconds) + 100):
        if list((tmp_path / "out").rglob("*.png")):  # the first class is there, the second is being computed
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(list((tmp_path / "out").rglob("*.png"))) == 1
    again, said = started(bundle, tmp_path / "out", process_environment).communicate(timeout=300)
    assert json.loads(again)["set_hash"] == expected["set_hash"], said
