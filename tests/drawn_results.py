"""Invented results, built from the real result classes so that their form stays that of `dpd evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from dpd_eval.evaluation import differences, verdicts
from dpd_eval.metrics import SetDetail, SetMetrics
from dpd_eval.recipe import load_recipe
from dpd_eval.results import HELD_OUT, ArmResult, Evaluation, Repeats, StudentInfo
from dpd_eval.statistics import average_accuracy, class_accuracy, cohen_kappa, overall_accuracy

CLASSES = ("AnnualCrop", "Forest", "Highway", "Residential", "River", "SeaLake")
SKILL = {"set": 0.02, "random": 0.0, "herding": 0.01, "k-center": -0.05, "k-means": 0.03, "full": 0.2}

PAIRS = Repeats(("",))


def confusion(rng: np.random.Generator, accuracy: float, classes: int, images: int = 100) -> np.ndarray:
    """[true, predicted] counts of `images` test images per class."""
    wrong = rng.dirichlet(np.full(classes, 0.3), size=classes)
    shares = (1 - accuracy) * wrong + accuracy * np.eye(classes)
    return np.array([rng.multinomial(images, row / row.sum()) for row in shares])


def arm(name: str, student: str, ipc: int, pairs: int, classes: Sequence[str], bonus: float = 0.0) -> ArmResult:
    rng = np.random.default_rng([len(name), len(student), ipc, round(1000 * (bonus + 1))])
    base = 0.5 + 0.13 * np.log10(ipc) + {"convnet": 0.05, "resnet": 0.0, "vit-tiny": -0.06}.get(student, 0.0)
    accuracy = 0.93 if name == "full" else base + SKILL.get(name, 0.0) * (1 + (ipc > 20)) + bonus
    found = [confusion(rng, accuracy + rng.normal(0, 0.01), len(classes)) for _ in range(pairs)]
    oas = tuple(map(overall_accuracy, found))
    by_class = np.mean([class_accuracy(one) for one in found], axis=0).tolist()
    return ArmResult(
        arm=name,
        student=student,
        ipc=ipc,
        images=12000 if name == "full" else ipc * len(classes),
        oa_mean=float(np.mean(oas)),
        oa_std=float(np.std(oas, ddof=1)) if pairs > 1 else None,
        oa_runs=oas,
        aa=float(np.mean([average_accuracy(one) for one in found])),
        kappa=float(np.mean([cohen_kappa(one) for one in found])),
        class_accuracy=dict(zip(classes, by_class, strict=True)),
        confusion=tuple(map(tuple, np.sum(found, axis=0).tolist())),
        steps=1000,
        seeds=tuple(range(pairs)),
        cached=0,
        seconds=31.0 * pairs,
    )


def metrics(name: str, ipc: int, classes: Sequence[str]) -> SetMetrics:
    return SetMetrics(
        name, ipc, ipc * len(classes), "own: ResNet 32-64, weights 0123456789ab", 0.0123, 0.002, 0.8, 0.4, 0.9, 0.5,
        0.7, 0.3, 0.9, dict.fromkeys(classes, 0.9), 0.35,
    )  # fmt: skip


def detail(name: str, ipc: int | None, classes: Sequence[str]) -> SetDetail:
    """Half the power and three quarters of the fine contrast of the held-out real images."""
    power, contrast, kurtosis = (200.0, 8.0, 9.0) if name == HELD_OUT else (100.0, 6.0, 4.5)
    return SetDetail(
        name, ipc, 100, (power, power / 2), dict.fromkeys(classes, contrast), dict.fromkeys(classes, kurtosis)
    )


def evaluation(
    *,
    students: Sequence[str] = ("convnet",),
    baselines: Sequence[str] = ("random",),
    pairs: dict[int, int] | None = None,
    classes: Sequence[str] = CLASSES,
    bonus: float = 0.0,
) -> Evaluation:
    """A whole result; `bonus` is added to the accuracy of the set's arm."""
    sizes = pairs or {10: 8, 50: 5}
    arms = tuple(
        arm(name, student, ipc, count, classes, bonus if name == "set" else 0.0)
        for ipc, count in sizes.items()
        for student in students
        for name in ("set", *baselines)
    )
    details = [(HELD_OUT, None), *((name, ipc) for ipc in sizes for name in ("set", *baselines) if name != "full")]
    return Evaluation(
        sets=("/home/alice/my data/set0", "/home/alice/my data/set1"),
        train="/home/alice/eurosat/train",
        test="/home/alice/eurosat/test",
        test_part="test",
        classes=tuple(classes),
        train_images=12000,
        test_images=100 * len(classes),
        val_per_class=None,
        split="content",
        groups=None,
        resolution=64,
        reading=None,
        labels="hard",
        teacher=None,
        extractor="own: ResNet 32-64, weights 0123456789ab",
        recipe=load_recipe("quick"),
        students={name: StudentInfo(13_419_776, 329_946) for name in students},
        arms=arms,
        repeated=PAIRS.unit,
        differences=differences(arms, PAIRS),
        at_least=1.0,
        verdicts=verdicts(arms, PAIRS, 1.0),
        metrics=tuple(metrics(name, ipc, classes) for ipc in sizes for name in ("set", *baselines) if name != "full"),
        detail=tuple(detail(name, ipc, classes) for name, ipc in details),
        notes=("SET /home/alice/my data/set0: 2 files left out, first x.png: zero bytes",),
        fingerprints={"train": "a" * 64, "test": "b" * 64, "set 0": "c" * 64},
        versions={"python": "3.11.7", "torch": "2.13.0+cpu"},
        seconds=623.0,
    )


def soft(result: Evaluation) -> Evaluation:
    return replace(result, labels="soft", teacher="own: ResNet 32-64, weights 0123456789ab")


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return path


def write_set(folder: Path, classes: Sequence[str] = CLASSES, ipc: int = 3, **about: object) -> Path:
    """Write a distilled set's folder with noise as images."""
    rng = np.random.default_rng(0)
    lines = []
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(ipc):
            file = f"{name}/{name}_{index:05d}.png"
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / file)
            record = {"file_name": file, "label": label, "class": name, "index": index, "prototype": index}
            lines.append(json.dumps(record | {"margin": 1.5, "prompt": f"a satellite image of {name}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    guidance = [{"from_block": 0, "guidance_scale": 2.0, "prototype_scale": 0.1, "prototype_until": 0.5}]
    sampler = {"solver": "ddim", "steps": 7, "candidates": 2, "compute_batch": 10, "guidance": guidance}
    content = {
        "set_hash": "d" * 64,
        "bundle_hash": "e" * 64,
        "bundle_name": "site",
        "signature": "unsigned",
        "audit": "unaudited",
        "seed": 3,
        "ipc": ipc,
        "images": ipc * len(classes),
        "counts": dict.fromkeys(classes, ipc),
        "provider": "cpu",
        "versions": {"python": "3.11.7"},
        "config": {"ipc": ipc, "seed": 3, "provider": "cpu"},
        "made_with": {"sampler": sampler},
        "state": "complete",
    }
    write_json(folder / "dataset.json", content | about)
    return folder


def audit(verdict: str = "WARN") -> dict[str, object]:
    test = {"name": "replication", "value": 0.012, "interval": [0.001, 0.02], "threshold": 0.02, "verdict": "PASS"}
    weak = {"name": "membership of the teacher", "value": 0.57, "interval": None, "threshold": 0.6, "verdict": "WARN"}
    control = test | {"name": "a set that replays T", "value": 0.99, "verdict": "FAIL", "expected": "FAIL"}
    return {"verdict": verdict, "tests": [test, weak], "controls": [control]}
