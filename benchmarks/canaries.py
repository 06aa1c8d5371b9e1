"""Canaries: 20 images trained on under a wrong class. Who attacks asks for that class, which no other image suggests.

    python benchmarks/canaries.py EUROSAT/train --val-per-class 100 --work W --out canaries.json

Two of each class are planted; OTHERS more of each class are kept out of the training and asked for under wrong classes
too. Two runs:
  usual     the other training images with the canaries, by the settings of the embedded bundle with ten codes.
  by heart  the canaries and 30 more images, 8,000 steps without prototypes, the validation part being the images
            themselves: a positive control, in which the denoiser must give the canaries away.
Stages in --work, which is private, are used again.
"""

import argparse
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import kept
from result_file import tell
from scene_lists import link_tree

from dpd_eval.audit.membership import Scores, membership_tests
from dpd_eval.audit.model import Model
from dpd_eval.audit.network_scores import classifier_scores, logits_of, prototype_score
from dpd_eval.audit.network_tests import compare_denoiser
from dpd_eval.audit.run_model import open_run
from dpd_eval.audit.student_attack import RECIPE, STUDENT, STUDENTS, LabelledImages, log_odds
from dpd_eval.students.training import train_student
from dpd_runtime.annotations import Float32, Int64
from dpd_train.bases.base import load_base
from dpd_train.bases.latents import encode_cached
from dpd_train.compute.device import hardware
from dpd_train.config import TrainConfig
from dpd_train.images import SceneSet, fingerprint, read_scenes
from dpd_train.train import train

PLANTED, OTHERS, BESIDE = 2, 100, 3  # of each class: canaries, kept out, and further images in the run by heart
USUAL = TrainConfig(
    steps=300,
    peak_rate=2e-4,
    tune_vae=False,
    teacher_steps=4000,
    prototypes="matched",
    ipc=10,
    keep_near_duplicates=True,
)
BY_HEART = TrainConfig(
    steps=8000,
    peak_rate=1e-3,
    batch=8,
    tune_vae=False,
    teacher_steps=100,
    latent_classifier_steps=100,
    prototypes="none",
    precision="fp32",
    ipc=2,
    keep_near_duplicates=True,
)


@dataclass(frozen=True)
class Case:
    """A run, and its images as (path, class, part)."""

    name: str
    config: TrainConfig
    rows: list[tuple[str, str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="private: holds runs and latents of real images")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes, held = (
        read_scenes(args.data, part=part, resolution=64, val_per_class=args.val_per_class) for part in ("train", "val")
    )
    rng = np.random.default_rng(args.seed)
    planted, others, beside = chosen(scenes.labels, rng)
    wrong = (scenes.labels + rng.integers(1, len(scenes.classes), len(scenes.labels))) % len(scenes.classes)
    results = []
    for case in cases(scenes, held, planted, others, beside, wrong):
        folder = args.work / f"{case.name.replace(' ', '-')}-{args.seed}"
        if not (folder / "run" / "run.json").exists():
            link_tree(folder / "data", args.data, case.rows)
            train(folder / "data", folder / "run", case.config, cache=args.work / "cache", resume=True)
        sides = [scenes.only(rows) for rows in (planted, others)]
        key = {"config": asdict(case.config), "recipe": RECIPE.to_dict(), "data": fingerprint(scenes)}
        asked = [wrong[planted], wrong[others]]
        tests = kept(folder, "tests", key, partial(tested, folder / "run", sides, asked, args.work))
        results.append({"case": case.name, "config": asdict(case.config), "tests": tests})
        for test in tests:
            print(case.name, test["name"], test["value"], test["interval"], flush=True)
    result = {
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "hardware": hardware(torch.device("cpu")),
        "canaries": len(planted),
        "others": len(others),
        "cases": results,
    }
    tell(result, args.out)


def chosen(labels: Int64, rng: np.random.Generator) -> tuple[Int64, Int64, Int64]:
    """Rows of canaries, of images that are kept out, and of images beside the canaries in the run by heart."""
    parts: tuple[list[Int64], ...] = ([], [], [])
    ends = np.cumsum((PLANTED, OTHERS, BESIDE))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        for part, found in zip(parts, np.split(rows[: ends[-1]], ends[:-1]), strict=True):
            part.append(found)
    planted, others, beside = (np.sort(np.concatenate(part)) for part in parts)
    return planted, others, beside


def cases(
    scenes: SceneSet, held: SceneSet, planted: Int64, others: Int64, beside: Int64, wrong: Int64
) -> tuple[Case, Case]:
    """Both runs with their images."""

    def listed(of: SceneSet, rows: Int64, labels: Int64, part: str) -> list[tuple[str, str, str]]:
        return [(of.paths[row], of.classes[labels[row]], part) for row in rows]

    everything = np.arange(len(scenes.labels))
    plain = np.setdiff1d(everything, np.concatenate([planted, others]))
    usual = listed(scenes, plain, scenes.labels, "train") + listed(scenes, planted, wrong, "train")
    usual += listed(held, np.arange(len(held.labels)), held.labels, "val")
    few = listed(scenes, beside, scenes.labels, "train") + listed(scenes, planted, wrong, "train")
    few += [(path, label, "val") for path, label, _ in few]
    return Case("usual", USUAL, usual), Case("by heart", BY_HEART, few)


def tested(run: Path, sides: list[SceneSet], wrong: list[Int64], work: Path) -> list[dict[str, Any]]:
    """Membership tests of the canaries, by all that the run releases, when asked for under their wrong class."""
    model, vae = open_run(run), load_base(str(run / "pipeline")).vae.eval()
    latents: list[Float32] = [encode_cached(vae, s.images, s.hashes, work / "latents").numpy() for s in sides]
    prompts = model.class_prompts()
    asked = [(x, prompts[labels]) for x, labels in zip(latents, wrong, strict=True)]
    scores = compare_denoiser(model.denoise, model.bundle.schedule, asked, lambda done, total: None)
    tests = membership_tests("canaries by the denoiser", scores)
    tests += membership_tests("canaries by the latent classifier", by_classifier(model, latents, wrong))
    codes, owners = model.prototypes()
    if len(codes):
        pairs = zip(latents, wrong, strict=True)
        found = Scores(*(prototype_score(x, labels, codes, owners) for x, labels in pairs))
        tests += membership_tests("canaries by the codes", {"correlation": found})
        classes = len(sides[0].classes)
        images = model.decode(codes)
        students = [train_student(STUDENT, images, owners, classes, RECIPE, seed) for seed in range(STUDENTS)]
        parts = [LabelledImages(s.images, labels) for s, labels in zip(sides, wrong, strict=True)]
        found = Scores(*(log_odds(students, part) for part in parts))
        tests += membership_tests("canaries by students of the decoded codes", {"log-odds": found})
    return [test.to_dict() for test in tests]


def by_classifier(model: Model, latents: list[Float32], wrong: list[Int64]) -> dict[str, Scores]:
    """The loss alone: confidence does not ask for a class."""
    logits = [logits_of(model.networks.judge, "latents", x) for x in latents]
    return {"loss": Scores(*(classifier_scores(z, y)["loss"] for z, y in zip(logits, wrong, strict=True)))}


if __name__ == "__main__":
    main()
