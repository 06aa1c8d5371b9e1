"""Doors: the example package is installed and used; what cannot be loaded is one sentence."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpd_eval.pretrained import check_student
from dpd_runtime.errors import InputError
from dpd_train.doors import offered_names, offering_package, open_door, open_named
from dpd_train.samples import Look
from dpd_train.scene_set import SceneSet

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
look = Look(None, scenes, None, None, None)
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
    assert "mine" in offered_names("dpd.students")
    assert offering_package("dpd.students", "mine") == "first 1.0"
    with pytest.raises(InputError, match=r"mine: first 1.0 offers it, but no_such_module:mine cannot be loaded"):
        check_student("mine")
    offer(tmp_path / "b", "second", "builtins:print")
    monkeypatch.syspath_prepend(str(tmp_path / "b"))
    with pytest.raises(InputError, match=r"mine: second 1.0 and first 1.0 offer it"):
        check_student("mine:x")
    with pytest.raises(InputError, match="no installed package offers it"):
        open_door("dpd.extractors", "nothing")


COMMAND = """
from pathlib import Path

import typer


def count(data: Path, twice: bool = False, steps: int = 1) -> None:
    \"\"\"Count the folders of DATA.\"\"\"
    typer.echo(len(list(data.iterdir())) * (1 + twice) * steps)
"""


def test_a_package_adds_a_command(tmp_path: Path, process_environment: dict[str, str]) -> None:
    """It has the help of ours, reads --config, and is suggested; without its package it is unknown."""
    place = tmp_path / "counting-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text("[dpd.commands]\ncount = counting:count\n")
    (tmp_path / "counting.py").write_text(COMMAND)
    (tmp_path / "steps.toml").write_text("steps = 10\n")

    def dpd(*words: str, known: bool = True) -> tuple[int, str]:
        path = process_environment["PYTHONPATH"] + (f":{tmp_path}" if known else "")
        environment = process_environment | {"PYTHONPATH": path}
        command = [sys.executable, "-m", "dpd_cli", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    (tmp_path / "scenes" / "Forest").mkdir(parents=True)
    assert dpd("count", str(tmp_path / "scenes"), "--twice") == (0, "2\n")
    assert dpd("count", str(tmp_path / "scenes"), "--config", str(tmp_path / "steps.toml")) == (0, "10\n")
    assert "Count the folders of DATA." in dpd("count", "--help")[1]
    assert dpd("coun")[1] == "dpd: no such command 'coun'; did you mean count?; see dpd --help\n"
    assert dpd("count", ".", known=False)[1].startswith("dpd: no such command 'count'")


def test_a_named_door_is_opened_or_says_what_there_is() -> None:
    with pytest.raises(
        InputError, match=r"--x 'no:1': 'no' is unknown; no installed package offers any \(dpd.nothing\)"
    ):
        open_named("dpd.nothing", "no:1", "--x")
    with pytest.raises(InputError, match=r"--x 'no': 'no' is unknown; give dsdnet, groups"):
        open_named("dpd.students", "no", "--x")
    assert callable(open_named("dpd.students", "dsdnet:convnet", "--x"))


def test_the_sample_of_the_guide_does_what_it_says(tmp_path: Path) -> None:
    guide = (EXAMPLE.parents[1] / "docs/guides/extend.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    written: dict[str, Any] = {}
    exec(source, written)
    images = np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    train = SceneSet(("a",), images, np.zeros(7, np.int64), tuple("abcdefg"), tuple("ABCDEFG"))
    look = Look(scenes=None, train=train, seed=0, cache=tmp_path, device="cpu", stage=lambda title: None)  # type: ignore[arg-type]
    taken = written["every"]("3").take(look)
    assert taken.train.images[:, 0, 0, 0].tolist() == [0, 3, 6]
    for wrong in ("", "0", "a", "-1"):
        with pytest.raises(InputError, match="--samples every:"):
            written["every"](wrong)
