"""`dpd report`: whose signature counts, and a folder of `dpd distill` as an argument."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("jinja2")
from dpd_distill.distillation import Asked, Distillation
from dpd_distill.plan import full_plan
from dpd_eval.report import write_report
from dpd_private.request import PrivateRequest
from tests.commands import Done, dpd
from tests.drawn import quick_bundle
from tests.drawn_results import evaluation, write_json, write_set

RUN = {"config": {}, "data": {"images": 20}, "prototypes": {}, "metrics": {}, "versions": {}, "seconds": 1.0}


def report(folder: Path, environment: dict[str, str], *arguments: str) -> Done:
    return dpd(["report", *arguments, "--out", "page.html", "--json"], environment, folder)


def planned(folder: Path, *, quick: bool = False, out: str = "site") -> Distillation:
    """A distillation that has its plan and nothing else."""
    asked = Asked(data=str(folder / "scenes"), out=str(folder / out), quick=quick)
    made = Distillation(
        folder=folder / f"{out}-run", asked=asked, threads=1, ipc=2, codes_only=True, images=20, classes=6,
        judged_ipc=2, notes=(), plan=full_plan(1, 1),
    )  # fmt: skip
    made.store()
    return made


def finish(made: Distillation, *results: str) -> None:
    for what in results:
        if what == "evaluation":
            write_json(made.folder / "evaluation.json", evaluation().to_dict())
        elif what == "set":
            write_set(made.folder / "set")
        elif what == "training run":
            made.training.mkdir()
            write_json(made.training / "run.json", RUN)
        else:
            quick_bundle(made.out if what == "bundle" else made.unaudited)


def test_a_bundle_is_signed_by_the_keys_that_are_given(tmp_path: Path, process_environment: dict[str, str]) -> None:
    quick_bundle(tmp_path / "site")
    for name in ("lab", "other"):
        assert dpd(["keygen", name], process_environment, tmp_path).returncode == 0
    assert dpd(["sign", "site", "--key", "lab.key"], process_environment, tmp_path).returncode == 0
    for keys, words in (
        ([], "Signature: signed by unknown key"),
        (["--trusted-key", "other.pub"], "Signature: signed by unknown key"),
        (["--trusted-key", "other.pub", "--trusted-key", "lab.pub"], "Signature: signed by trusted key lab ("),
    ):
        done = report(tmp_path, process_environment, "site", *keys)
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert words in page
        assert ("which no trusted key signed" in page) == ("unknown" in words)
    write_set(tmp_path / "set0")
    useless = report(tmp_path, process_environment, "set0", "--trusted-key", "lab.pub")
    assert useless.returncode == 2
    assert "--trusted-key has no effect: none of the paths is a bundle" in useless.stderr


@pytest.mark.parametrize("quick", [False, pytest.param(True, marks=pytest.mark.full)])
def test_the_folder_of_a_distillation_is_its_report(
    quick: bool, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    made = planned(tmp_path, quick=quick)
    finish(made, "evaluation", "set", "bundle", "training run")
    write_report(list(made.results.values()), tmp_path / "own.html")
    for given in (["site-run"], ["site-run", "site"]):
        done = report(tmp_path, process_environment, *given)
        assert done.returncode == 0, done.stderr
        assert "missing" not in json.loads(done.stdout)
        assert done.stderr == ""
    done = report(tmp_path, process_environment, "site-run")
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "own.html").read_bytes(), "as dpd distill writes it"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("site-run", "site"):
        (tmp_path / name).rename(moved / name)
    assert report(moved, process_environment, "site-run").returncode == 0


def test_an_unfinished_distillation_says_what_is_not_there(tmp_path: Path, process_environment: dict[str, str]) -> None:
    made = planned(tmp_path)
    nothing = report(tmp_path, process_environment, "site-run")
    assert nothing.returncode == 2
    assert nothing.stderr.splitlines()[-1].endswith(
        f"site-run: nothing of this distillation is finished; continue it: dpd distill --resume --out {made.out}"
    )
    (made.folder / "set").mkdir()  # begun
    (made.folder / "set" / "state.json").write_text("{}")
    finish(made, "training run", "unaudited bundle")
    done = report(tmp_path, process_environment, "site-run")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["missing"] == [
        "site-run: there is no evaluation yet",
        "site-run: there is no set yet",
        "site-run: its bundle is not audited yet",
    ]
    assert done.stderr.splitlines() == said["missing"]
    assert "models" in said["sections"]


def test_a_private_distillation_shows_its_bundle(tmp_path: Path, process_environment: dict[str, str]) -> None:
    asked = PrivateRequest(data=str(tmp_path / "scenes"), out=str(tmp_path / "safe"), epsilon=10.0)
    asked.store()
    nothing = report(tmp_path, process_environment, "safe-run")
    assert nothing.returncode == 2
    assert nothing.stderr.splitlines()[-1].endswith(f"continue it: dpd private --resume --out {tmp_path / 'safe'}")
    quick_bundle(tmp_path / "safe")
    done = report(tmp_path, process_environment, "safe-run")
    assert done.returncode == 0, done.stderr
    assert "Bundle safe" in (tmp_path / "page.html").read_text(encoding="utf-8")
