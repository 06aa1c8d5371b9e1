"""The runtime imports no heavy packages. Checked in new processes, because this one has imported them already."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "onnx", "dpd_train", "dpd_eval", "dpd_export", "dpd_cli")
HELP_LIMIT = 0.3  # seconds of CPU time: a busy machine stretches wall time, not this

WALK = f"""
import importlib, pkgutil, sys
import dpd_runtime
names = [m.name for m in pkgutil.walk_packages(dpd_runtime.__path__, "dpd_runtime.")]
for name in names:
    importlib.import_module(name)
found = sorted(set({HEAVY}) & set(sys.modules))
print(len(names), *found)
sys.exit(bool(found))
"""

# sys.exit of the command must not hide what was imported
HELP = """
import sys
from dpd_cli.main import main
sys.argv = ["dpd", "--help"]
try:
    main()
except SystemExit as leaving:
    code = leaving.code
print(*sorted({"torch", "numpy", "onnxruntime", "PIL", "transformers"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def python(code: str, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def test_no_module_of_the_runtime_imports_a_framework(process_environment: dict[str, str], tmp_path: Path) -> None:
    done = python(WALK, process_environment, tmp_path)
    assert done.returncode == 0, f"imported: {done.stdout}{done.stderr}"
    assert int(done.stdout.split()[0]) >= 15, f"only {done.stdout.split()[0]} modules were looked at"


@pytest.mark.parametrize("name", ["torch", "dpd_train"])
def test_the_check_above_can_fail(name: str, process_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").touch()  # an empty stand-in: the check needs no PyTorch to be tested
    environment = process_environment | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{process_environment['PYTHONPATH']}"}
    done = python(f"import {name}\n{WALK}", environment, tmp_path)
    assert done.returncode == 1
    assert done.stdout.split()[1:] == [name]


def test_help_imports_no_numbers(process_environment: dict[str, str], tmp_path: Path) -> None:
    done = python(HELP, process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout
    assert done.stderr.strip() == "", f"dpd --help imported {done.stderr}"


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.wait4")
def test_help_is_quick(process_environment: dict[str, str], tmp_path: Path) -> None:
    def cpu_seconds() -> float:
        command = [sys.executable, "-m", "dpd_cli", "--help"]
        process = subprocess.Popen(command, env=process_environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    cpu_seconds()  # the first one may compile
    best = min(cpu_seconds() for _ in range(5))
    assert best <= HELP_LIMIT, f"dpd --help took {best:.2f} s of CPU time; python -X importtime -m dpd_cli --help"
