"""What `dpd evaluate` prints: every figure where a reader looks for it."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from dpd_cli.commands.evaluate import print_evaluation
from dpd_eval import ArmResult, Evaluation, SetMetrics, StudentInfo, load_recipe
from dpd_eval.evaluation import differences, verdicts
from dpd_eval.results import Repeats

PAIRS = Repeats(("",))


def arm(name: str, student: str, *runs: float, steps: int = 1000) -> ArmResult:
    spread = 0.0123 if len(runs) > 1 else None
    return ArmResult(
        arm=name,
        student=student,
        ipc=10,
        images=20,
        oa_mean=sum(runs) / len(runs),
        oa_std=spread,
        oa_runs=runs,
        aa=0.5,
        kappa=0.25,
        class_accuracy={"a": 0.5, "b": 0.5},
        confusion=((1, 1), (1, 1)),
        steps=steps,
        seeds=tuple(range(len(runs))),
        cached=0,
        seconds=1.0,
    )


def evaluation(*arms: ArmResult) -> Evaluation:
    metrics = SetMetrics("set", 10, 20, "own: x", 0.0321, 0.001, 0.5, 0.4, 0.3, 0.2, 0.91, 0.11, 0.875, {"a": 1.0})
    return Evaluation(
        sets=("one",),
        train="train",
        test="test",
        test_part="test",
        classes=("a", "b"),
        train_images=100,
        test_images=4,
        val_per_class=None,
        split="content",
        groups=None,
        resolution=64,
        reading=None,
        labels="soft",
        teacher="own: y [beta]",
        extractor="own: x",
        recipe=load_recipe("quick"),
        students={student: StudentInfo(1, 1) for student in dict.fromkeys(row.student for row in arms)},
        arms=arms,
        repeated=PAIRS.unit,
        differences=differences(arms, PAIRS),
        at_least=0.9,
        verdicts=verdicts(arms, PAIRS, 0.9),
        metrics=(metrics,),
        detail=(),
        notes=("two [files] left out",),
        fingerprints={},
        versions={},
        seconds=5.0,
    )


def test_tables_and_verdicts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_evaluation(
        evaluation(
            arm("set", "convnet", 0.8, 0.8),
            arm("random", "convnet", 0.6, 0.6),
            arm("set", "vit-tiny", 0.5, 0.7),
            arm("random", "vit-tiny", 0.8, 0.6),
            arm("full", "convnet", 0.9, 0.9, steps=4000),
            arm("full", "vit-tiny", 0.9, 0.9, steps=4000),
        )
    )
    shown = capsys.readouterr().out
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    assert ["set", "convnet", "10", "20", "1000", "2", "80.00", "1.23", "50.00", "0.250"] in rows
    assert ["full", "vit-tiny", "10", "20", "4000", "2", "90.00", "1.23", "50.00", "0.250"] in rows
    assert ["random", "60.00 ± 1.23", "70.00 ± 1.23"] in rows  # by student
    for metric in ["KID", "0.0321 ± 0.0010"], ["precision", "0.500"], ["max cosine", "0.910"], ["teacher %", "87.5"]:
        assert metric in rows
    assert "set − random (convnet, IPC 10): +20.00 points, 95 % interval +20.00 to +20.00 over 2 pairs, ratio" in shown
    assert "at least 0.9 × random: met" in shown
    assert "at least 0.9 × random: not resolved" in shown
    for line in (
        "soft labels",
        "soft labels: own: y [beta]",
        "features: own: x",
        "note: two [files] left out",
        "64 px",
    ):
        assert line in shown


def test_one_student_and_one_pair_need_no_second_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(evaluation(arm("set", "convnet", 0.8), arm("random", "convnet", 0.6)))
    shown = capsys.readouterr().out
    assert "by student" not in shown
    assert "one pair, no interval" in shown
    assert "convnet, 1000 steps, soft labels" in " ".join(shown.split())
    assert ["set", "10", "20", "1", "80.00", "50.00", "0.250"] in [line.split() for line in shown.splitlines()]


def test_a_model_in_a_folder_has_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    models = (f"probe:hf:{tmp_path}/net", "convnet")
    print_evaluation(evaluation(*(arm(name, model, 0.8, 0.7) for model in models for name in ("set", "random"))))
    print_evaluation(evaluation(*(arm(name, models[0], 0.8, 0.7) for name in ("set", "random"))))
    shown = capsys.readouterr().out
    assert str(tmp_path) not in "".join(shown.split())
    assert "set − random (probe:hf:net, IPC 10)" in shown
    assert ["set", "probe:hf:net"] in [line.split()[:2] for line in shown.splitlines()]
