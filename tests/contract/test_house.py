"""The structure of the code: floors and cycles by import-linter, with controls."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpd_runtime.versions import RELEASED, __version__

pytest.importorskip("importlinter")
ROOT = Path(__file__).parents[2]
ROOMS = {
    "dpd_runtime": ROOT,
    "dpd_train": ROOT,
    "dpd_eval": ROOT,
    "dpd_distill": ROOT,
    "dpd_private": ROOT,
    "dpd_export": ROOT / "export",
    "dpd_cli": ROOT / "cli",
    "dpd_neighbours": ROOT / "neighbours",
}


def lint(folder: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the rooms under `folder`."""
    paths = os.pathsep.join(str(folder / part) for part in ("", "export", "cli", "neighbours"))
    chosen = [word for contract in contracts for word in ("--contract", contract)]
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--config", str(ROOT / "pyproject.toml"), "--no-cache", *chosen],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The rooms' sources, to be spoilt."""
    for room, base in ROOMS.items():
        target = tmp_path / base.relative_to(ROOT) / room
        shutil.copytree(base / room, target, ignore=lambda _, names: [n for n in names if n.endswith((".dpd", "nano"))])
    return tmp_path


def spoil(path: Path, module: str) -> None:
    """Add a function that imports `module` when it is called."""
    path.write_text(path.read_text() + f"\n\ndef later() -> None:\n    import {module}  # noqa: F401\n")


@pytest.mark.parametrize(
    ("contract", "place", "module"),
    [
        ("rooms", "dpd_train/compute.py", "dpd_eval.statistics"),
        ("light", "dpd_runtime/sampling.py", "torch"),
        ("runtime", "dpd_runtime/engines.py", "dpd_runtime.bundle"),
        ("train", "dpd_train/vae.py", "dpd_train.denoiser"),
        ("eval", "dpd_eval/statistics.py", "dpd_eval.recipe"),
        ("export", "export/dpd_export/packing.py", "dpd_export.compile"),
        ("cli", "cli/dpd_cli/terminal.py", "dpd_cli.main"),
        ("rooms", "dpd_eval/statistics.py", "dpd_neighbours.students"),
        ("rooms", "cli/dpd_cli/terminal.py", "dpd_neighbours.students"),
        ("rooms", "dpd_distill/plan.py", "dpd_private.request"),
        ("private", "dpd_private/budget.py", "dpd_private.release"),
        ("acyclic", "dpd_runtime/solvers.py", "dpd_runtime.sampling"),
    ],
)
def test_a_planted_import_breaks_its_contract(copy: Path, contract: str, place: str, module: str) -> None:
    spoil(copy / place, module)
    found = lint(copy, contract)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "1 broken" in found.stdout
    assert module.rpartition(".")[2] in found.stdout


def test_the_contracts_hold() -> None:
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for room, base in ROOMS.items():
        for path in (base / room).rglob("*.py"):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Top-level packages that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name, part in extras.items() if name != "dev" for line in part)]
    declared = {re.split(r"[\[<>=;]", line)[0].lower().replace("-", "_") for line in lines}
    names = {"PIL": "pillow", "sklearn": "scikit_learn", "grpc": "grpcio"}
    found = {name for _, tree in sources() for name in imported(tree)} - set(sys.stdlib_module_names) - set(ROOMS)
    assert {names.get(name, name).lower() for name in found} - declared == set()


def test_one_version_stands_everywhere() -> None:
    """Where a release changes it (CONTRIBUTING.md)."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert __version__ == version
    coming, dev, _ = version.partition(".dev")
    news = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest, day = re.findall(r"^## \[(\d[\d.]*)\] - (\S+)$", news, re.M)[0]
    assert day == RELEASED
    assert f"\nversion: {newest}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [Unreleased], which will be {coming}\n" in news if dev else newest == version


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    """Rule 14 of CONTRIBUTING.md: results and scripts name data by words such as EUROSAT, and folders by WORK."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode()
    if not listed:
        pytest.skip("no git checkout")
    local, found = re.compile(r"/work/|/var/tmp/dpd|/home/\w+/|/Users/"), []
    for name in listed.split("\0")[:-1]:
        path = ROOT / name  # tests name such folders to find them in reports and bundles
        if not name.startswith("tests/") and path.suffix not in {".png", ".dpd", ".safetensors"} and path.is_file():
            found += [name] if local.search(path.read_text("utf-8", "replace")) else []
    assert found == []


def test_every_folder_says_what_it_holds() -> None:
    silent = [str(path) for path, tree in sources() if path.name == "__init__.py" and not ast.get_docstring(tree)]
    assert silent == []
