"""Likelihood-ratio attack on the codes of shadow runs, each from a random half of the training images.

    python benchmarks/lira.py EUROSAT/train --val-per-class 100 --work W --out lira.json
    python benchmarks/lira.py EUROSAT/train --val-per-class 100 --prototypes medoid --work W --out lira_medoid.json

Every image is in half of the runs. Two scores: the correlation of its latent with a code of its class, and the log-odds
of its class by students of the decoded codes. Each run is the target once. Base and seed are the same for all runs: the
attacker knows both, and what the base knows from its own training does not count. The interval is over images, not over
runs. With `--prototypes medoid`, which are real images, only those images are asked for: a control, of which the score
by codes says only that the wiring works. Runs, latents and scores in --work, which is private, are used again; a run
whose scores are there is not needed.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import digest, kept_arrays
from likelihood_ratio import Bool, Float, Runs, balanced_parts, excesses, rate_of, ratios
from result_file import tell
from scene_lists import entries, read_parts, write_list

from dpd_eval.audit.membership import area_under_curve
from dpd_eval.audit.network_scores import prototype_score
from dpd_eval.audit.run_model import open_run
from dpd_eval.audit.student_attack import RECIPE, STUDENTS, LabelledImages, log_odds, students_of
from dpd_runtime.annotations import Float32
from dpd_train.bases.base import load_base
from dpd_train.bases.folder import SHIPPED_BASE
from dpd_train.bases.latents import encode_cached, weights_hash
from dpd_train.compute.device import hardware
from dpd_train.config import TrainConfig
from dpd_train.images import SceneSet, fingerprint
from dpd_train.train import train

ATTACKS = {"likelihood ratio": ratios, "off-line": excesses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--prototypes", choices=("matched", "medoid"), default="matched")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="private: holds runs and latents of real images")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes, held = read_parts(args.data, args.val_per_class)
    members = balanced_parts(scenes.labels, args.runs, args.seed)
    config = TrainConfig(
        steps=0, tune_vae=False, prototypes=args.prototypes, ipc=args.ipc, teacher_steps=600, keep_near_duplicates=True
    )
    base = weights_hash(load_base(SHIPPED_BASE).unet)
    found: dict[str, list[Float]] = {"codes": [], "students": [], "same": []}
    for number, inside in enumerate(members):
        key = {"config": asdict(config), "base": base, "data": fingerprint(scenes.only(np.flatnonzero(inside)))}
        folder = args.work / f"{args.prototypes}-{number}-{digest(key)}"
        rows = [(*entry, "train") for entry in entries(scenes, np.flatnonzero(inside))]
        rows += [(*entry, "val") for entry in entries(held, np.arange(len(held.labels)))]
        make = partial(run_scores, folder, rows, config, scenes, args)
        asking = {"data": fingerprint(scenes), "recipe": RECIPE.to_dict(), "students": STUDENTS}
        scores = kept_arrays(folder, "scores", asking, make)
        for score in found:
            found[score].append(scores[score])
        print(folder.name, flush=True)
    copied = np.stack(found.pop("same")).astype(bool) & members
    asked = members if args.prototypes == "matched" else copied
    result = {
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "hardware": hardware(torch.device("cpu")),
        "data": fingerprint(scenes),
        "config": asdict(config),
        "asked": int(asked.sum()),
        "attacks": [
            summary(score, attack, Runs(np.stack(values), members, scenes.labels), asked)
            for score, values in found.items()
            for attack in ATTACKS
        ],
    }
    tell(result, args.out)


def run_scores(
    folder: Path, rows: Sequence[Sequence[str]], config: TrainConfig, scenes: SceneSet, args: argparse.Namespace
) -> dict[str, Any]:
    """Both scores [n] of every image by what a run releases, and whether one of its codes is the image.

    Args:
        folder: holds the run, which is made if it is not there.
        rows: images of the run.
    """
    run, work = folder / "run", args.work
    if not (run / "run.json").exists():
        write_list(folder / "list.csv", args.data, rows)
        train(folder / "list.csv", run, config, cache=work / "cache", resume=True)
    model = open_run(run)
    codes, owners = model.prototypes()
    latents: Float32 = encode_cached(
        load_base(str(run / "pipeline")).vae.eval(), scenes.images, scenes.hashes, work / "latents"
    ).numpy()
    images, classes = model.decode(codes), len(scenes.classes)
    students = students_of(LabelledImages(images, owners), classes)
    by_codes = prototype_score(latents, scenes.labels, codes, owners)
    by_students = log_odds(students, LabelledImages(scenes.images, scenes.labels))
    return {"codes": by_codes, "students": by_students, "same": by_codes > 0.999}


def summary(score: str, attack: str, runs: Runs, asked: Bool) -> dict[str, Any]:
    found = ATTACKS[attack](runs)
    rate, ends = rate_of(found, asked, ~runs.members)
    areas = [area_under_curve(f[a], f[~m]) for f, a, m in zip(found, asked, runs.members, strict=True)]
    return {"score": score, "attack": attack, "tpr": rate, "interval": ends, "aucs": areas}


if __name__ == "__main__":
    main()
