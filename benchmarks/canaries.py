"""Canaries: images trained on under a wrong class. Who attacks asks for that class, which no other image suggests.

    python benchmarks/canaries.py EUROSAT/train --val-per-class 100 --seeds 0,1,2 --work W --out canaries.json

Two of each class are planted. Each is ranked among OTHERS images of its own class that were kept out of the training
and are asked for under the same wrong class: by denoiser, teacher, latent classifier, codes and students of the decoded
codes. A canary that nothing gives away has a uniform rank. Two runs a seed:
  usual     the other training images with the canaries, by the settings of the embedded bundle with ten codes.
  by heart  the canaries and 30 more images, 8,000 steps, the validation part being the images themselves, and real
            images as codes: a positive control, in which denoiser and classifiers must give the canaries away.
Stages in --work, which is private, are used again.
"""

import argparse
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import digest, kept
from numpy.typing import NDArray
from result_file import tell
from scene_lists import link_tree, read_parts
from scipy.stats import binomtest  # type: ignore[import-untyped]

from dpd_eval.audit.denoiser_scores import denoiser_scores
from dpd_eval.audit.network_scores import classifier_scores, logits_of, prototype_score
from dpd_eval.audit.run_model import open_run
from dpd_eval.audit.student_attack import RECIPE, STUDENTS, LabelledImages, log_odds, students_of
from dpd_eval.statistics import t_interval
from dpd_runtime.annotations import Int64
from dpd_train.bases.base import load_base
from dpd_train.bases.latents import encode_cached
from dpd_train.compute.device import hardware
from dpd_train.config import TrainConfig
from dpd_train.images import SceneSet
from dpd_train.train import train

Float = NDArray[np.floating[Any]]
TOP = 0.05  # share of the ranks that counts as recognised
NAMES = USUALLY, HEART = ("usual", "by heart")
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
    prototypes="medoid",
    k_min=2,
    precision="fp32",
    ipc=5,
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
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--cases", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--work", type=Path, required=True, help="private: holds runs and latents of real images")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes, held = read_parts(args.data, args.val_per_class)
    ranks: dict[str, dict[str, list[float]]] = {}
    for seed in map(int, args.seeds.split(",")):
        rng = np.random.default_rng(seed)
        planted, others, beside = chosen(scenes.labels, rng)
        wrong = (scenes.labels + rng.integers(1, len(scenes.classes), len(scenes.labels))) % len(scenes.classes)
        for case in cases(scenes, held, planted, others, beside, wrong):
            if case.name not in args.cases:
                continue
            decided = digest({"config": asdict(case.config), "rows": case.rows})
            folder = args.work / f"{case.name.replace(' ', '-')}-{decided}"
            if not (folder / "run" / "run.json").exists():
                link_tree(folder / "data", args.data, case.rows)
                train(folder / "data", folder / "run", case.config, cache=args.work / "cache", resume=True)
            key = {"recipe": RECIPE.to_dict(), "students": STUDENTS, "others": others.tolist()}
            asked = (scenes, planted, others, wrong[planted])
            found = kept(folder, "ranks", key, partial(ranked, folder / "run", *asked, args.work))
            for score, values in found.items():
                ranks.setdefault(case.name, {}).setdefault(score, []).extend(values)
                print(case.name, seed, score, np.mean(values), flush=True)
    result = {
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "hardware": hardware(torch.device("cpu")),
        "configs": {USUALLY: asdict(USUAL), HEART: asdict(BY_HEART)},
        "cases": {case: {score: summary(values) for score, values in of.items()} for case, of in ranks.items()},
    }
    tell(result, args.out)


def summary(ranks: list[float]) -> dict[str, Any]:
    """How far up canaries rank; the share of others below them is 0.5 on average where nothing gives them away."""
    top = sum(rank > 1 - TOP for rank in ranks)
    ends = binomtest(top, len(ranks)).proportion_ci(0.95, "exact")
    below = asdict(t_interval(ranks))
    return {"below": below, "in_top": top, "of": len(ranks), "share": [ends.low, ends.high], "ranks": ranks}


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
    return Case(USUALLY, USUAL, usual), Case(HEART, BY_HEART, few)


def ranked(
    run: Path, scenes: SceneSet, planted: Int64, others: Int64, wrong: Int64, work: Path
) -> dict[str, list[float]]:
    """For each score and canary the share of others of its class that score lower, all asked for its wrong class."""
    groups = [np.append(row, others[scenes.labels[others] == scenes.labels[row]]) for row in planted]
    labels = np.repeat(wrong, [len(group) for group in groups])
    ends = np.cumsum([len(group) for group in groups])
    found = scored(run, scenes.only(np.concatenate(groups)), labels, work)
    return {
        score: [float((group[1:] < group[0]).mean()) for group in np.split(values, ends[:-1])]
        for score, values in found.items()
    }


def scored(run: Path, scenes: SceneSet, labels: Int64, work: Path) -> dict[str, Float]:
    """Scores [n] of the images under `labels`, by all networks and codes of the run."""
    model, classes = open_run(run), len(scenes.classes)
    vae = load_base(str(run / "pipeline")).vae.eval()
    latents = encode_cached(vae, scenes.images, scenes.hashes, work / "latents").numpy()
    asked = denoiser_scores(model.denoise, model.bundle.schedule, latents, model.class_prompts()[labels])
    found: dict[str, Float] = {f"denoiser, {name}": score for name, score in asked.items()}
    assert model.teacher is not None
    pixels = np.ascontiguousarray(scenes.images.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - 1
    logits = {
        "teacher": logits_of(model.teacher, "images", pixels),
        "latent classifier": logits_of(model.networks.latent_classifier, "latents", latents),
    }
    found |= {name: classifier_scores(values, labels)["loss"] for name, values in logits.items()}
    codes, owners = model.prototypes()
    found["codes"] = prototype_score(latents, labels, codes, owners)
    images = model.decode(codes)
    students = students_of(LabelledImages(images, owners), classes)
    found["students"] = log_odds(students, LabelledImages(scenes.images, labels))
    return found


if __name__ == "__main__":
    main()
