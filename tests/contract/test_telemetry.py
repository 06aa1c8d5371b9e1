"""No telemetry: the variables are set before a library is loaded, and (full) no socket is opened."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_runtime import telemetry
from tests.conftest import ROOMS

# A stand-in for onnxruntime. It tells what the C library of the real one would read at this moment.
STAND_IN = """
import ctypes, pathlib, sys
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
names = (b"ORT_DISABLE_TELEMETRY", b"ORT_TELEMETRY_DISABLED")
with pathlib.Path(__file__).with_name("told").open("a") as file:
    print(*[(getenv(name) or b"-").decode() for name in names], file=file)
raise ImportError("the stand-in ends here")
"""
LOAD = "from dpd_runtime.engines import Provider; dpd_runtime.load_bundle().engine('unet/model.onnx', Provider"
ENTRIES = {
    "command line": "import sys; sys.argv = ['dpd', 'generate', '--out', 'set']; from dpd_cli.main import main; main()",
    "doctor": "import sys; sys.argv = ['dpd', 'doctor']; from dpd_cli.main import main; main()",
    "runtime": f"import dpd_runtime; {LOAD}('cpu', ''))",
    "worker": "import dpd_runtime.untrusted_worker as worker; worker.HERE.available_providers()",
    "loader": f"import dpd_runtime.torch; {LOAD}('cpu', ''))",
    "training": "import dpd_train.scenes, onnxruntime",
    "judges": "import dpd_eval, onnxruntime",
    "export": "import dpd_export.options, onnxruntime",
    "quantizer": "from dpd_export.int8 import _quantization; _quantization()",
}
NEEDS_TORCH = ("loader", "training", "judges", "export", "quantizer")


@pytest.mark.parametrize(
    "entry", [pytest.param(entry, marks=[pytest.mark.full] * (entry == "quantizer")) for entry in ENTRIES]
)
def test_telemetry_is_off_before_onnxruntime_is_loaded(
    entry: str, process_environment: dict[str, str], tmp_path: Path
) -> None:
    if entry in NEEDS_TORCH:
        pytest.importorskip("torch")
    told = run_beside_the_stand_in(ENTRIES[entry], process_environment, tmp_path)
    assert told
    assert set(told) == {"1 1"}


def test_the_test_above_can_fail(process_environment: dict[str, str], tmp_path: Path) -> None:
    assert run_beside_the_stand_in("import onnxruntime", process_environment, tmp_path) == ["- -"]


def run_beside_the_stand_in(code: str, environment: dict[str, str], folder: Path) -> list[str]:
    """Run code in a new process that finds the stand-in. Returns what was told at each import of it."""
    stand_in = folder / "packages" / "onnxruntime"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text(STAND_IN)
    kept = {name: value for name, value in environment.items() if name not in telemetry.OFF}
    paths = f"{stand_in.parent}{os.pathsep}{environment['PYTHONPATH']}"
    subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"PYTHONPATH": paths, "HOME": str(folder), "XDG_CACHE_HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        timeout=120,
        check=False,
    )
    told = stand_in / "told"
    return told.read_text().splitlines() if told.exists() else []


def test_nothing_else_imports_onnxruntime_or_openvino() -> None:
    root = Path(__file__).parents[2]
    rooms = ("dpd_runtime", "dpd_train", "dpd_eval", "dpd_distill", "dpd_private", "export", "cli", "examples")
    folders = [root / name for name in rooms]
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*.py")]
    if not files:
        pytest.skip("the sources are not beside the tests")
    importing = {path.relative_to(root).as_posix() for path in files if imports(path) & {"onnxruntime", "openvino"}}
    assert importing == {"dpd_runtime/telemetry.py"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def test_every_room_switches_telemetry_off(process_environment: dict[str, str], tmp_path: Path) -> None:
    kept = {name: value for name, value in process_environment.items() if name not in telemetry.OFF}
    for room in ROOMS:
        code = f"import {room}, os; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
        done = subprocess.run([sys.executable, "-c", code], env=kept, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == "1\n", (room, done.stderr)


def test_onnxruntime_that_was_imported_before_is_reported(process_environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys, types; sys.modules['onnxruntime'] = types.ModuleType('onnxruntime')\n"
        "from dpd_runtime.telemetry import describe_telemetry, import_onnxruntime\n"
        "import_onnxruntime(); import_onnxruntime(); print(describe_telemetry())"
    )
    for value, said in (("", "on: onnxruntime was imported before dpd_runtime"), ("1", "off")):
        environment = process_environment | {"ORT_DISABLE_TELEMETRY": value}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(said)
        assert done.stderr.count("with its telemetry on") == (value == "")


# What `strace` sees, in a process with a clean environment: CI and a dozen other variables would silence it as well.
GENERATE = "import dpd_runtime, time; [*dpd_runtime.generate(dpd_runtime.load_bundle(), ipc=1)]; time.sleep(30)"
UNSIGNED = "import dpd_runtime, time; [*dpd_runtime.generate(dpd_runtime.load_bundle({!r}), ipc=1)]; time.sleep(30)"
OPENVINO = (
    "import dpd_runtime, time; [*dpd_runtime.generate(dpd_runtime.load_bundle(), ipc=1, provider='openvino')]; "
    "time.sleep(30)"
)
SOCKET = re.compile(r"socket\(AF_INET|connect\(\d+, \{sa_family=AF_INET")


def traced(code: str, environment: dict[str, str], folder: Path) -> tuple[int, list[str]]:
    """Run code under strace. Returns the number of calls for internet sockets, and the files below a fresh home."""
    home = folder / "home"
    home.mkdir()
    needed = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    clean = {name: environment[name] for name in needed if name in environment} | {"HOME": str(home)}
    trace = folder / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(trace), sys.executable, "-c", code]
    subprocess.run(command, env=clean, cwd=folder, check=True, timeout=300)
    files = sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
    return sum(bool(SOCKET.search(line)) for line in trace.read_text().splitlines()), files


@pytest.mark.full
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("way", ["generate", "unsigned", "openvino"])
def test_no_socket_is_opened_and_nothing_is_written_at_home(
    way: str, process_environment: dict[str, str], tmp_path: Path
) -> None:
    if way == "openvino" and find_spec("openvino") is None:
        pytest.skip("the extra openvino is not installed")
    code = {"generate": GENERATE, "openvino": OPENVINO}.get(way)
    if code is None:
        from tests.drawn import codes_only

        code = UNSIGNED.format(str(codes_only(tmp_path / "codes.dpd")))
    sockets, files = traced(code, process_environment, tmp_path)
    assert sockets == 0
    assert files
    assert all(name.startswith(".cache/dpd/golden/") for name in files)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_trace_sees_telemetry_that_was_left_on(process_environment: dict[str, str], tmp_path: Path) -> None:
    """Control: the same trace of ONNX Runtime alone."""
    try:
        installed = version("onnxruntime")
    except PackageNotFoundError:
        pytest.skip("plain onnxruntime is not installed")
    if tuple(map(int, installed.split(".")[:2])) < (1, 29) or sys.platform != "linux":
        pytest.skip(f"onnxruntime {installed} has no telemetry on this system")
    sockets, files = traced("import onnxruntime, time; time.sleep(30)", process_environment, tmp_path)
    assert sockets > 0
    assert any("onnxruntime" in name for name in files)
