"""The runtime imports no heavy packages. Checked in new processes, because this one has imported them already."""

import os
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "onnx", "dpd_train", "dpd_eval", "dpd_export", "dpd_cli")
MODULES_OF_HELP = 300  # 284 with typer 0.29 where pydantic is installed, which it imports; numpy adds more than 100

WALK = f"""
import importlib, pkgutil, sys
import dpd_runtime
names = [m.name for m in pkgutil.walk_packages(dpd_runtime.__path__, "dpd_runtime.")]
names.remove("dpd_runtime.torch")  # the one module for those who have PyTorch
for name in names:
    importlib.import_module(name)
found = sorted(set({HEAVY}) & set(sys.modules))
print(len(names), *found)
sys.exit(bool(found))
"""

# sys.exit of the command must not hide what was imported
HELP = """
import sys
before = set(sys.modules)
from dpd_cli.main import main
try:
    main()
except SystemExit as leaving:
    code = leaving.code
found = set(sys.modules) - before
print(len(found), *sorted({"torch", "numpy", "onnxruntime", "PIL", "rich", "transformers"} & found), file=sys.stderr)
sys.exit(code)
"""


def python(code: str, environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def test_no_module_of_the_runtime_imports_a_framework(process_environment: dict[str, str], tmp_path: Path) -> None:
    done = python(WALK, process_environment, tmp_path)
    assert done.returncode == 0, f"imported: {done.stdout}{done.stderr}"
    assert int(done.stdout.split()[0]) >= 15, f"only {done.stdout.split()[0]} modules were looked at"


def test_a_site_generates_with_the_python_api(process_environment: dict[str, str], tmp_path: Path) -> None:
    code = """
import sys
import dpd_distill as dpd
images = list(dpd.generate(ipc=1, classes=["Forest"], provider="cpu", threads=1))
dpd.predict, dpd.write_set, dpd.open_scenes
print(len(images), images[0].class_name, *{"torch", "diffusers", "transformers", "typer"} & set(sys.modules))
"""
    done = python(code, process_environment, tmp_path)
    assert done.stdout == "1 Forest\n", done.stderr


@pytest.mark.parametrize("name", ["torch", "dpd_train"])
def test_the_check_above_can_fail(name: str, process_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").touch()  # an empty stand-in: the check needs no PyTorch to be tested
    environment = process_environment | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{process_environment['PYTHONPATH']}"}
    done = python(f"import {name}\n{WALK}", environment, tmp_path)
    assert done.returncode == 1
    assert done.stdout.split()[1:] == [name]


def test_the_module_for_pytorch_says_what_to_install(process_environment: dict[str, str], tmp_path: Path) -> None:
    absent = "import sys; sys.modules['torch'] = None; import dpd_runtime.torch"  # None: as if it were not installed
    done = python(absent, process_environment, tmp_path)
    assert done.returncode == 1
    assert "torch is not installed: pip install" in done.stderr
    assert '[train]"' in done.stderr


@pytest.mark.parametrize(
    ("line", "extras"),
    [("from dpd_eval import evaluate", "train,eval"), ("from dpd_export import export_run", "train,export")],
)
def test_a_public_name_says_what_to_install(
    line: str, extras: str, process_environment: dict[str, str], tmp_path: Path
) -> None:
    done = python(f"import sys; sys.modules['torch'] = None; {line}", process_environment, tmp_path)
    assert done.returncode == 1
    assert re.search(r"\w+ is not installed: pip install", done.stderr), done.stderr
    assert f"[{extras}]" in done.stderr


def test_public_names_are_shown_before_anything_is_imported(
    process_environment: dict[str, str], tmp_path: Path
) -> None:
    shown = "import dpd_runtime, sys; print(*dir(dpd_runtime)); print('numpy' in sys.modules)"
    listed = "import dpd_runtime; print([getattr(dpd_runtime, n) for n in dir(dpd_runtime)] != [])"
    names, loaded = python(shown, process_environment, tmp_path).stdout.splitlines()
    assert loaded == "False"
    public = ["Bundle", "DistilledSet", "DpdError", "Generation", "Image", "Output", "embedded_bundle", "generate"]
    assert set(names.split()) == {*public, "load_bundle", "write_set", "__version__", "__doc__"}
    assert python(listed, process_environment, tmp_path).stdout == "True\n"
    judges = python("import dpd_eval; print(*dir(dpd_eval), *dpd_eval.__all__)", process_environment, tmp_path).stdout
    assert Counter(judges.split()) == Counter(dict.fromkeys(judges.split(), 2) | {"__doc__": 1})


@pytest.mark.skipif(
    tuple(map(int, version("typer").split(".")[:2])) < (0, 29), reason="older versions of typer load rich for help"
)
@pytest.mark.parametrize("command", ["", "train", "evaluate", "private", "federate", "swimdiff"])
def test_help_imports_little(command: str, process_environment: dict[str, str], tmp_path: Path) -> None:
    done = python(HELP, process_environment, tmp_path, *command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
    count, *heavy = done.stderr.split()
    assert heavy == [], f"dpd {command} --help imported {heavy}"
    assert int(count) <= MODULES_OF_HELP, "see python -X importtime -m dpd_cli --help"
