"""Thin lines at long training: what other later blocks of two classes' codes are worth (a pilot).

    python benchmarks/late_blocks.py EUROSAT/train --arms stored,moments,kurtosis --work W --out late_blocks.json

The codes of the embedded bundle, fifty of each class. Those of --classes beyond the first ten are matched on, block by
block; all other codes stay. Watchers are trained for a quarter of their usual steps and kept in --work.

stored      as they are
moments     class means and deviations alone: no opinion of networks that see whether a code is clear
kurtosis    the same, and at each step a further watcher, which sees log energy and log kurtosis of three octaves

Students (`convnet`) of --steps see all fifty; every second validation image judges, so that figures of what wins can
come from the others. `random` are as many random real images, other ones for each student.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pixel_sets import trained_watchers
from result_file import tell
from scene_lists import read_parts
from torch.nn import functional as F

from dpd_eval.comparison.plan import Training, run_plan
from dpd_eval.selection.methods import random_subset
from dpd_eval.students.cache import default_folder
from dpd_eval.students.recipe import load_recipe
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.bases.base import decode_in_parts, frozen_decoder, load_base
from dpd_train.classifiers.training import labelled
from dpd_train.compute.checkpoint import save_state
from dpd_train.compute.device import hardware
from dpd_train.config import WATCHER_STEPS
from dpd_train.images import SceneSet
from dpd_train.prototypes.matching import Matching, Standard, Statistics, Watcher, match_codes
from dpd_train.prototypes.matching.codes import LATER

CODES, SEED, OCTAVES = 50, 0, 3
MOMENTS = replace(LATER, opinion=0.0, ridge=0.0)  # the ridge needs codes of all classes


def lines(images: torch.Tensor) -> torch.Tensor:
    """Log energy and log kurtosis of each octave's fine details [n, 2 · OCTAVES] of images [n, 3, H, W]."""
    grey, found = images.mean(1, keepdim=True), []
    for _ in range(OCTAVES):
        smaller = F.avg_pool2d(grey, 2)
        details = grey - F.interpolate(smaller, scale_factor=2.0, mode="bilinear")
        energy, fourth = details.square().mean((1, 2, 3)) + 1e-6, details.pow(4).mean((1, 2, 3)) + 1e-9
        found += [energy.log(), (fourth / energy.square()).log()]
        grey = smaller
    return torch.stack(found, dim=1)


def seen_lines(images: torch.Tensor, labels: torch.Tensor, of: list[int]) -> Watcher:
    """The watcher of lines, with statistics of training images [n, 3, H, W] of the classes `of`."""
    values = torch.cat([lines(part) for part in images.split(500)])
    scale, mean = torch.std_mean(values, dim=0)
    z = [((values - mean) / scale)[labels == label] for label in of]
    moment = torch.stack([part.T @ part / len(part) for part in z]).mean(0)
    standard = Standard(mean, scale)
    statistics = Statistics(standard, torch.stack([p.mean(0) for p in z]), torch.stack([p.std(0) for p in z]), moment)
    return Watcher(lambda shown: (lines(shown), None), statistics, extra=True)


def of_classes(watcher: Watcher, rows: list[int]) -> Watcher:
    """The same without its opinion, for codes of these classes alone."""
    own = watcher.statistics
    some = replace(own, class_means=own.class_means[rows], class_deviations=own.class_deviations[rows])
    return Watcher(lambda images: (watcher.see(images)[0], None), some, watcher.extra)


def matched_on(codes: np.ndarray, rows: list[int], watchers: list[Watcher], steps: int, state: Path) -> np.ndarray:
    """Scaled codes [classes, CODES, C, h, w] whose later blocks of the classes `rows` are matched on."""
    start = torch.from_numpy(codes[rows])
    if not state.exists():
        save_state(state, {"codes": start}, {"step": steps})  # the first block is done
    settings = Matching(steps=steps, first=MOMENTS, later=MOMENTS, seed=SEED)
    found = match_codes(start, frozen_decoder(load_base("nano")), watchers, settings, state=state)
    changed = codes.copy()
    changed[rows] = found.numpy()
    return changed


def judged(name: str, parts: list[SceneSet], held: SceneSet, steps: int) -> dict[str, Any]:
    """Accuracy of one student for each of `parts`, by class and in all."""
    recipe = replace(load_recipe("quick"), steps=steps)
    rows = np.arange(len(parts[0].labels))
    plan = [Training(name, "convnet", CODES, seed, ((part, rows),)) for seed, part in enumerate(parts)]
    outcomes, _ = run_plan(plan, held, recipe, 1, default_folder(), lambda *_: None)
    right = np.stack([outcome.confusion.diagonal() / outcome.confusion.sum(1) for outcome in outcomes])
    return {"all": right.mean(1).round(4).tolist(), "mean": round(float(right.mean()), 4)} | dict(
        zip(held.classes, right.mean(0).round(4).tolist(), strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arms", default="random,stored,moments,kurtosis")
    parser.add_argument("--classes", default="Highway,River")
    parser.add_argument("--matching-steps", type=int, default=75, help="of each block")
    parser.add_argument("--steps", type=int, default=4000, help="of a student")
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    train, held = read_parts(args.data, 100)
    rows = [train.classes.index(name) for name in args.classes.split(",")]
    of_class = [c.prototypes.astype(np.float32) for c in load_bundle().classes]
    stored = np.stack([np.resize(own, (CODES, *own.shape[1:])) for own in of_class])  # one has 48: the first two twice
    even = held.only(np.arange(0, len(held.labels), 2))
    result: dict[str, Any] = {
        "hardware": hardware(torch.device("cpu")),
        "blocks": f"{BLOCK} codes, {args.matching_steps} steps",
        "student steps": args.steps,
        "arms": {},
    }
    for arm in args.arms.split(","):
        if arm == "random":
            parts = [train.only(random_subset(train.labels, CODES, seed)) for seed in range(args.students)]
        else:
            codes = stored
            if arm != "stored":
                folder = args.work / f"watchers-{WATCHER_STEPS // 4}"
                watchers = trained_watchers(folder, train, held, SEED, WATCHER_STEPS // 4)
                watchers = [of_classes(watcher, rows) for watcher in watchers]
                watchers += [seen_lines(*labelled(train), rows)] if arm == "kurtosis" else []
                codes = matched_on(stored, rows, watchers, args.matching_steps, args.work / f"{arm}.safetensors")
            pixels = decode_in_parts(load_base("nano"), codes.reshape(-1, *codes.shape[2:]))
            labels = np.repeat(np.arange(len(stored)), CODES)
            parts = [SceneSet(train.classes, pixels, labels, (), ())] * args.students
        result["arms"][arm] = judged(arm, parts, even, args.steps)
        tell(result, args.out)


if __name__ == "__main__":
    main()
