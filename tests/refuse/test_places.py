"""Commands that are given nothing but what they work on: where their results go, and how many images there are."""

import json
from pathlib import Path

import pytest

from dpd_cli.options import named_after
from dpd_runtime.errors import InputError
from tests.commands import dpd
from tests.drawn import codes_only


def test_a_result_is_named_after_what_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scenes.v2").mkdir()
    (tmp_path / "list.csv").write_text("path,label\n")
    monkeypatch.chdir(tmp_path)
    assert named_after(Path("scenes.v2"), "-run") == Path("scenes.v2-run")
    assert named_after(Path("list.csv"), "-run") == Path("list-run")
    assert named_after(tmp_path / "scenes.v2-run", ".dpd") == Path("scenes.v2-run.dpd")
    monkeypatch.chdir(tmp_path / "scenes.v2")
    assert named_after(Path(), "-run") == tmp_path / "scenes.v2-run"
    with pytest.raises(InputError, match=r"^/: nothing lies beside it; say where the result goes, with --out"):
        named_after(Path("/"), "-run")


@pytest.mark.parametrize(("codes", "ipc"), [pytest.param(4, 4, marks=pytest.mark.full), (12, 10)])
def test_a_bundle_of_few_codes_makes_what_it_has(
    codes: int, ipc: int, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """It was refused with "ipc is 10", which nobody had typed."""
    pytest.importorskip("onnxruntime")
    codes_only(tmp_path / "site.dpd", codes)
    done = dpd(["generate", "site.dpd", "--json"], process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["images"] == 10 * ipc
    assert made["out"] == "distilled"
    assert f"--ipc {ipc} --out distilled" in dpd(["info", "site.dpd"], process_environment, tmp_path).stdout


def test_train_places_its_run_beside_the_scenes(tmp_path: Path, process_environment: dict[str, str]) -> None:
    """It is stopped by what stands at that place already, before anything heavy begins."""
    pytest.importorskip("torch")
    (tmp_path / "scenes-run").write_text("something else")
    for name in ("Forest", "River"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
    done = dpd(["train", "scenes"], process_environment, tmp_path)
    assert done.returncode == 2
    assert "scenes-run" in done.stderr
    done = dpd(["train", "--resume"], process_environment, tmp_path)
    assert done.returncode == 2
    assert "--out is missing" in done.stderr
