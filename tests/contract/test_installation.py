"""What a message says to install works where this package came from, and never takes a stranger's from an index."""

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dpd_runtime import installation
from dpd_runtime.errors import MissingExtraError
from dpd_runtime.installation import install_command

ROOT = Path(__file__).parents[2]
CHECKOUT = '[project]\nname = "dpd-distill"\n'


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Installs this package from somewhere, as pip notes it (PEP 610)."""
    monkeypatch.setattr(installation, "HERE", tmp_path / "site-packages")

    def came(content: object) -> None:
        folder = tmp_path / "dpd_distill-1.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text("Name: dpd-distill\nVersion: 1\n")
        (folder / "direct_url.json").unlink(missing_ok=True)
        if content is not None:
            (folder / "direct_url.json").write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(folder))

    return came


def test_a_checkout_is_installed_again() -> None:
    if not (ROOT / "pyproject.toml").is_file() or Path(installation.__file__).parents[1] != ROOT:
        pytest.skip("this package is not a checkout")
    assert install_command("train,cpu") == f'pip install -e "{ROOT}[train,cpu]"'


@pytest.mark.parametrize("editable", [False, True])
def test_a_folder_is_named_as_it_was(editable: bool, origin: Any, tmp_path: Path) -> None:
    folder = tmp_path / "my work"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(CHECKOUT)
    origin({"url": folder.as_uri(), "dir_info": {"editable": editable} if editable else {}})
    assert install_command("geo") == f'pip install {"-e " * editable}"{folder}[geo]"'


def test_a_wheel_is_named_by_its_file(origin: Any, tmp_path: Path) -> None:
    wheel = tmp_path / "dpd_distill-0.2.0-py3-none-any.whl"
    wheel.write_bytes(b"")
    origin({"url": wheel.as_uri(), "archive_info": {}})
    assert install_command("cpu") == f'pip install "dpd-distill[cpu] @ file://{wheel}"'
    wheel.unlink()
    assert "--no-index" in install_command("cpu"), "the file is not there any more"


def test_a_repository_is_named_with_its_commit(origin: Any) -> None:
    origin({"url": "https://host/dpd.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}})
    assert install_command("cpu") == 'pip install "dpd-distill[cpu] @ git+https://host/dpd.git@ab12"'


@pytest.mark.parametrize("content", [None, "", "{", "[]", {"url": "file:///gone", "dir_info": {"editable": True}}])
def test_without_a_known_place_no_index_is_asked(content: object, origin: Any) -> None:
    origin(content)
    assert install_command("trt").startswith('pip install --no-index --find-links WHEELS "dpd-distill[trt]", where')


@pytest.mark.parametrize("name", ["plain", "with space", "do$lar", 'quo"te', "back`tick"])
def test_a_shell_reads_the_place_as_one_word(name: str, origin: Any, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "pyproject.toml").write_text(CHECKOUT)
    origin({"url": folder.as_uri(), "dir_info": {}})
    assert shlex.split(install_command("cpu")) == ["pip", "install", f"{folder}[cpu]"]
    said = subprocess.run(["sh", "-c", install_command("cpu").replace("pip install", "echo")], capture_output=True)
    assert said.stdout.decode() == f"{folder}[cpu]\n"


def test_missing_packages_are_named_at_once() -> None:
    one, two = MissingExtraError("ray", "ray"), MissingExtraError(["onnx", "scipy"], "export,train")
    assert str(one) == f"ray is not installed: {install_command('ray')}"
    assert str(two) == f"onnx, scipy are not installed: {install_command('export,train')}"


@pytest.mark.parametrize(("system", "told"), [("linux", True), ("darwin", False), ("win32", False)])
def test_pytorch_for_the_cpu_comes_first_where_an_index_gives_another(
    system: str, told: bool, origin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(CHECKOUT)
    origin({"url": tmp_path.as_uri(), "dir_info": {}})
    monkeypatch.setattr("sys.platform", system)
    said = str(MissingExtraError(["torch", "onnx"], "train,export"))
    assert said.startswith(f"torch, onnx are not installed: {install_command('train,export')}")
    assert said.endswith("pip install torch --index-url https://download.pytorch.org/whl/cpu") == told


def test_a_site_without_an_index_is_sent_to_none(origin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    origin({})
    assert "https://" not in str(MissingExtraError("torch", "train"))


def test_a_command_names_all_extras_in_one_line(process_environment: dict[str, str], tmp_path: Path) -> None:
    absent = ("torch", "sklearn", "onnx", "onnxruntime", "rasterio", "pyarrow")
    program = (
        "import importlib.util as u, sys; real = u.find_spec\n"
        f"u.find_spec = lambda name, *more: None if name in {absent!r} else real(name, *more)\n"
        "from dpd_cli.main import main; main()"
    )
    (tmp_path / "set").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, "fit", "set", "--out", "model", "--own", "own.parquet", "--bands", "4,3,2"],
        **{"cwd": tmp_path, "env": process_environment, "capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.splitlines()
    named = line.removeprefix("dpd: ").split(" are not installed")[0].split(", ")
    assert set(absent) <= set(named)
    assert re.search(r"pip install .*\[train,export,cpu,geo,parquet\]", line)


def test_no_text_of_ours_takes_the_name_from_an_index() -> None:
    """Only the forms of `install_command` name it together with extras."""
    if not (ROOT / "README.md").is_file():
        pytest.skip("a wheel has no pages")
    sources = [
        path for room in ("dpd_*", "cli", "export", "neighbours", "examples") for path in ROOT.glob(f"{room}/**/*")
    ]
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *(p for p in sources if p.suffix in (".py", ".ipynb", ".yaml")),
    ]
    assert len(pages) > 100
    found = [p.name for p in pages if re.search(r"pip install [\\]*[\"']?dpd-distill", p.read_text(encoding="utf-8"))]
    assert found == []
