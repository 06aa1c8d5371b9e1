"""Extension points: the example package is installed and used; what cannot be loaded is one sentence."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpd_eval.extensions import extension_names, extension_version, load_extension
from dpd_eval.pretrained import check_student
from dpd_runtime.errors import InputError

EXAMPLE = Path(__file__).parents[3] / "examples" / "extension"
USED = """
import numpy as np, torch
from dpd_eval.selection import select
from dpd_eval.students import build_student, student_identity
from dpd_train.scene_set import SceneSet
model = build_student("linear:4", 3, 0)
print(tuple(model(torch.zeros(2, 3, 64, 64)).shape), sum(p.numel() for p in model.parameters()))
again = build_student("linear:4", 3, 0)
print(torch.equal(model[2].weight, again[2].weight), student_identity("linear:4").split()[-2:])
from dpd_eval.selection import Look, find_method
images = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
scenes = SceneSet(("a", "b"), images, np.array([0, 0, 0, 1, 1, 1]), (), ())
look = Look(None, scenes, None, None, None, None)
seen = find_method("brightest").look(look)
print(select("brightest", seen.scenes, 2, 0, seen.features).tolist())
"""


def offer(folder: Path, package: str, value: str) -> None:
    """Metadata of an installed package that offers the student `mine`."""
    place = folder / f"{package}-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text(f"[dpd.students]\nmine = {value}\n")


@pytest.mark.full
def test_the_example_is_installed_and_used(tmp_path: Path, process_environment: dict[str, str]) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "source")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    install += ["--disable-pip-version-check", "--target", str(tmp_path / "site"), str(tmp_path / "source")]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    environment = process_environment | {"PYTHONPATH": f"{process_environment['PYTHONPATH']}:{tmp_path / 'site'}"}
    done = subprocess.run([sys.executable, "-c", USED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "(2, 3) 147",
        "True ['dpd-example-extension', '1.0']",
        "[2, 1, 5, 4]",
    ]


def test_an_unknown_name_lists_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"no student 'mine': there are convnet, .*, groups, swimdiff:FOLDER and hf:"):
        check_student("mine")
    with pytest.raises(InputError, match=r"no student 'dsdnet:vit': there are dsdnet:convnet"):
        check_student("dsdnet:vit")


def test_what_cannot_be_loaded_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path / "a", "first", "no_such_module:mine")
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    assert "mine" in extension_names("dpd.students")
    assert extension_version("dpd.students", "mine") == "first 1.0"
    with pytest.raises(InputError, match=r"mine: first 1.0 offers it, but no_such_module:mine cannot be loaded"):
        check_student("mine")
    offer(tmp_path / "b", "second", "builtins:print")
    monkeypatch.syspath_prepend(str(tmp_path / "b"))
    with pytest.raises(InputError, match=r"mine: second 1.0 and first 1.0 offer it"):
        check_student("mine:x")
    with pytest.raises(InputError, match="no installed package offers it"):
        load_extension("dpd.extractors", "nothing")
