"""A distillation that goes on looks at what is at --out before it takes it for its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
from dpd_distill.distillation import Asked, Distillation, check_carries, check_repeated, distil, folder_of, repeating
from dpd_distill.plan import Task
from dpd_runtime.bundle import load_bundle
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.sampler import PrototypeKind
from dpd_runtime.sealing import write_audited
from tests.drawn_results import audit, write_json
from tests.path.test_report_inputs import finish, planned
from tests.tiny import drawn_scenes


def trained(folder: Path, *, quick: bool) -> Distillation:
    made = planned(folder, quick=quick)
    finish(made, "training run")
    write_json(made.training / "classes.json", {"prototype_kind": "matched", "classes": [], "prompts": []})
    return made


def go_on(made: Distillation) -> None:
    distil(made, lambda title: lambda done, total: None, lambda line: None)


@pytest.mark.parametrize("quick", [False, True])
def test_a_bundle_of_somebody_else_is_left_alone(quick: bool, tmp_path: Path) -> None:
    made = trained(tmp_path, quick=quick)
    made.out.write_text("mine")
    with pytest.raises(InputError, match=r"--out .*site exists and is not of this distillation; move it away"):
        go_on(made)
    assert made.out.read_text() == "mine"
    assert not (made.folder / "result.json").exists()


def test_an_audited_bundle_that_is_gone_is_asked_for(tmp_path: Path) -> None:
    made = trained(tmp_path, quick=False)
    write_json(made.audit, audit())
    with pytest.raises(InputError, match=r"the bundle of this distillation was there and is gone; put it back"):
        go_on(made)


def test_only_the_bundle_that_carries_the_audit_is_taken_for_the_audited_one(tmp_path: Path) -> None:
    made = trained(tmp_path, quick=False)
    finish(made, "unaudited bundle")
    write_json(made.audit, audit())
    bundle, free = load_bundle(made.unaudited), r"--out .*site exists and is not of this distillation; move it away"
    write_audited(bundle, made.out, audit() | {"tests": []}, "WARN")
    with pytest.raises(InputError, match=free):
        check_carries(made.audit, made.out)
    write_audited(bundle, made.out, audit(), "WARN")
    check_carries(made.audit, made.out)
    (made.out / "bundle.json").write_text("mine")
    with pytest.raises(InputError, match=free):
        check_carries(made.audit, made.out)


def test_a_finished_one_is_read_again(tmp_path: Path) -> None:
    made = planned(tmp_path)
    write_json(made.folder / "result.json", {"verdict": "WARN"})
    told = list[str]()
    assert distil(made, lambda title: lambda done, total: None, told.append) == {"verdict": "WARN"}
    assert told == []
    assert json.loads((made.folder / "plan.json").read_text())["ipc"] == 2


def test_a_second_one_does_not_replace_the_plan_of_the_first(tmp_path: Path) -> None:
    made = planned(tmp_path)
    stored = (made.folder / "plan.json").read_bytes()
    with pytest.raises(InputError, match="another dpd distill began there meanwhile; choose another --out"):
        replace(made, ipc=3).store()
    assert (made.folder / "plan.json").read_bytes() == stored


def test_a_run_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(tmp_path)
    monkeypatch.chdir(made.folder)
    assert folder_of(Path("../" + made.out.name).absolute()).samefile(made.folder)
    assert folder_of(Path()).name == made.folder.name + "-run", "the folder itself is no bundle"


@pytest.mark.parametrize(
    ("prototypes", "smallest", "own_vae", "why"),
    [
        ("pooled", 60, False, "its run matched no codes"),
        (None, 12, False, "its run matched codes, for which a class has too few images now"),
        (None, 60, True, "its run was of red, green and blue alone"),
    ],
)
def test_a_plan_for_other_stages_is_not_repeated(
    tmp_path: Path, prototypes: PrototypeKind | None, smallest: int, own_vae: bool, why: str
) -> None:
    made = replace(planned(tmp_path), prototypes=prototypes)
    task = Task(classes=2, images=2 * smallest, smallest=smallest, ipc=2, own_vae=own_vae)
    with pytest.raises(InputError, match=rf"--plan .*: {why}, .*leave --plan out"):
        check_repeated(made, task)
    check_repeated(replace(made, prototypes=None), Task(classes=2, images=120, smallest=60, ipc=2))


def test_a_repeated_plan_brings_what_its_run_was_asked(tmp_path: Path) -> None:
    quick = planned(tmp_path, quick=True)
    request = Asked(data=str(tmp_path), out=str(tmp_path / "again.dpd"), plan=str(quick.folder))
    repeated, run = repeating(request, ("plan",))
    assert run is not None
    assert run.plan == quick.plan
    assert (repeated.quick, repeated.ipc, repeated.threads) == (True, quick.ipc, quick.threads)
    assert repeating(replace(request, threads=7), ())[0].threads == quick.threads
    for given in ("minutes", "ipc", "threads", "quick", "holdout"):
        with pytest.raises(InputError, match=f"--{given} has no effect with --plan"):
            repeating(request, (given,))
    plain = replace(request, plan=None)
    assert repeating(plain, ("ipc",)) == (plain, None)


def test_other_images_than_those_of_the_training_are_not_judged(tmp_path: Path) -> None:
    made = trained(tmp_path, quick=False)
    finish(made, "unaudited bundle")
    drawn_scenes(tmp_path / "scenes", per_class=4)
    record = json.loads((made.training / "run.json").read_text())
    write_json(made.training / "run.json", record | {"data": {"images": 20, "sha256": "0" * 64}})
    with pytest.raises(DataError, match=r"its training images are not those of .*training, as images came, went or"):
        go_on(made)
    assert not made.results["set"].exists()
