"""Each package imports, when it is imported, only what its extras bring."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytest.importorskip("torch")  # whose packages are those that are looked for
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENOUGH = {  # docs/guides/classify.md, docs/guides/evaluate.md: dpd fit, dpd evaluate and dpd audit need no report
    "dpd_train": ("train",),
    "dpd_eval": ("train", "cpu"),
    "export/dpd_export": ("export",),
    "dpd_distill": ("export", "cpu"),
    "dpd_runtime": (),
    "neighbours/dpd_neighbours": ("train", "cpu"),
    "dpd_private": ("export", "cpu", "dp"),
}
BY_OPTION = {
    "dpd_eval/report": "eval",
    "neighbours/dpd_neighbours/federated": "fed",
    "neighbours/dpd_neighbours/pruning": "export",
}
"""Folders whose commands ask for a further extra."""
NOT_INSTALLED = {"grpc": ["grpcio"]}  # distributions of packages that a test environment may lack


def brought(*extras: str) -> set[str]:
    """The distributions that pyproject.toml names for these extras and the base install."""
    found = set()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        assert name is not None
        if name[0] == "dpd-distill":
            found |= brought(*line.partition("[")[2].partition("]")[0].split(","))
        else:
            found.add(name[0].lower().replace("_", "-"))
    return found


def imported_at_once(source: str) -> set[str]:
    """The packages that a module imports outside functions and TYPE_CHECKING."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
        skipped = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Try) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if not skipped:
            waiting += ast.iter_child_nodes(node)
    return {name for name in found if name not in sys.stdlib_module_names and not name.startswith("dpd_")}


def missing(package: str, extras: tuple[str, ...]) -> set[str]:
    """What modules of a package import and the extras do not bring, as "file: package"."""
    distributions, found = NOT_INSTALLED | packages_distributions(), set()
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        further = [more for folder, more in BY_OPTION.items() if name.startswith(folder)]
        there = brought(*extras, *further)
        for module in imported_at_once(path.read_text(encoding="utf-8")):
            if not {owner.lower().replace("_", "-") for owner in distributions.get(module, [module])} & there:
                found.add(f"{name}: {module}")
    return found


@pytest.mark.parametrize("package", ENOUGH)
def test_a_package_imports_what_its_extras_bring(package: str) -> None:
    assert missing(package, ENOUGH[package]) == set()


def test_the_check_above_can_fail() -> None:
    assert "dpd_eval/results.py: torch" not in missing("dpd_eval", ("train", "cpu"))
    assert any(line.endswith(": torch") for line in missing("dpd_eval", ("cpu",)))
    source = "import a\nif TYPE_CHECKING:\n import b\ndef f():\n import c\nfrom d.e import f"
    assert imported_at_once(source) == {"a", "d"}
