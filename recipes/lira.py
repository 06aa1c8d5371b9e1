"""Likelihood-ratio attack on the codes of four shadow runs, each from a random half of the training images.

    python recipes/lira.py EUROSAT/train --work W --out lira.json
    python recipes/lira.py EUROSAT/train --work W --prototypes medoid --out lira_medoid.json

Shadow runs are trained on random halves (Carlini et al. 2022, 2112.03570, algorithm 1). Each run is the target once,
and the others are its shadows. Two scores: the correlation of an image's latent with a code of its class, and the
log-odds of its class by students of the decoded codes. Base and seed are the same for all runs: the attacker knows
both, and what the base knows from its own training does not count. The interval is over images, not over runs. With
`--prototypes medoid` codes are real images and only those images are asked for: a control, of which the score by codes
says only that the wiring works. Runs and scores in --work, which is private, are used again; a killed run goes on. `dpd
data fetch` makes the networks that watch.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from result_file import tell
from scene_lists import entries, write_list

from dpd_eval.attacks import (
    FALSE_POSITIVES,
    REPLICATES,
    LabelledImages,
    area_under_curve,
    generators,
    log_odds,
    percentile_ends,
    prototype_score,
    resampled,
    students_of,
    true_positive_rate,
    widened,
)
from dpd_eval.audited_run import model_of_run
from dpd_runtime.annotations import Int64
from dpd_runtime.files import write_atomically
from dpd_train.bases import encode, load_base, weights_hash
from dpd_train.compute import hardware
from dpd_train.config import TrainConfig
from dpd_train.reading import HeldOut
from dpd_train.run import STORED, further_watchers, open_run
from dpd_train.scene_set import SceneSet, fingerprint
from dpd_train.scenes import open_scenes

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
RUNS = 4  # an even number: each image is in half of them
TRAINING = ["--ipc", "10", "--steps", "0", "--no-tune-vae", "--set", "teacher_steps=600", "--keep-near-duplicates"]
MATCHED = ["--prototypes", "matched", "--watchers", "own,hf:efficientnet-lite0,hf:efficientnet-lite1"]
COPIED = 0.999  # correlation from which a medoid is the image itself


def balanced_parts(labels: Int64, seed: int) -> Bool:
    """Members [RUNS, n]: each image is in half of the runs, chosen at random; each run has half of each class."""
    rng, members = np.random.default_rng(seed), np.zeros((RUNS, len(labels)), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        for pair in range(0, len(rows), 2):
            inside = rng.permutation(RUNS) < RUNS // 2
            for row, part in zip(rows[pair : pair + 2], (inside, ~inside), strict=False):
                members[:, row] = part
    return members


def run_scores(
    folder: Path, data: Path, scenes: SceneSet, held: SceneSet, inside: Int64, options: list[str]
) -> dict[str, Float]:
    """Both scores [n] of every image of `scenes` by what a run of the images `inside` releases."""
    run, store = folder / "run", folder / "scores.npz"
    if not store.exists():
        if not (run / "run.json").exists():
            rows = [(*entry, "train") for entry in entries(scenes, inside)]
            rows += [(*entry, "val") for entry in entries(held, np.arange(len(held.labels)))]
            write_list(folder / "list.csv", data, rows)
            begun = (run / STORED).exists()
            if not begun:  # stopped before it wrote what it is
                shutil.rmtree(run, ignore_errors=True)
            words = ["--resume"] if begun else [str(folder / "list.csv"), *TRAINING, *options]
            command = [sys.executable, "-m", "dpd_cli", "train", *words, "--out", str(run), "--threads", "1"]
            subprocess.run(command, check=True)
        model = model_of_run(open_run(run))
        codes, owners = model.prototypes()
        students = students_of(LabelledImages(model.decode(codes), owners), len(scenes.classes))
        latents = encode(load_base(str(run / "pipeline")).vae.eval(), scenes.images).numpy()
        found = {
            "codes": prototype_score(latents, scenes.labels, codes, owners),
            "students": log_odds(students, LabelledImages(scenes.images, scenes.labels)),
        }
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **found)
        write_atomically(store, content.getvalue())
    with np.load(store) as stored:
        return {name: stored[name] for name in stored.files}


def check_same(path: Path, about: dict[str, Any]) -> None:
    """Keep in `path` what the runs beside it are made of, and end where they are made of something else."""
    text = json.dumps(about, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        sys.exit(f"{path}: the runs beside it were made of other images or by other options; give another --work")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, text.encode())


def standard(scores: Float, labels: Int64) -> Float:
    """Scores [RUNS, n] with mean 0 and deviation 1 in each class of each run, as runs differ in more than images."""
    scores = scores.copy()
    for label in np.unique(labels):
        part = scores[:, labels == label]
        scores[:, labels == label] = (part - part.mean(1, keepdims=True)) / (part.std(1, keepdims=True) + 1e-6)
    return scores


def expected(scores: Float, part: Bool, labels: Int64, rng: np.random.Generator) -> tuple[Float, Float]:
    """Mean and variance [n] of a new score of the kind that `scores` [S, n] are where `part` [S, n] is true.

    With so few runs one variance is taken for all images of a class (§VI.C of the paper). On both sides of every image
    one run is used: without the target there is one fewer on the side of the truth, which would give it away.
    """
    used = RUNS // 2 - 1
    chosen = np.argsort(np.where(part, rng.random(part.shape), 2.0), axis=0)[:used]
    mean = np.take_along_axis(scores, chosen, axis=0).mean(axis=0)
    count = part.sum(axis=0)
    own = np.where(part, scores, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(part, np.square(scores - own), 0.0).sum(axis=0)
    variance = np.empty(len(labels))
    for label in np.unique(labels):
        rows = labels == label
        free = int(np.maximum(count[rows] - 1, 0).sum())
        variance[rows] = max(squares[rows].sum() / max(1, free), 1e-12)
    return mean, variance * (1 + 1 / used)


def attacks(scores: Float, members: Bool, labels: Int64, seed: int = 0) -> dict[str, Float]:
    """Two attacks [RUNS, n], each run judged by the others, higher for likely members.

    `likelihood ratio` is ln p(score | member) − ln p(score | not a member), both normal. `off-line` is by how many
    standard deviations a score is above those of runs without the image.
    """
    scores, rng = standard(scores, labels), np.random.default_rng(seed)
    found = {"likelihood ratio": np.empty_like(scores), "off-line": np.empty_like(scores)}
    for target, score in enumerate(scores):
        shadows = np.arange(RUNS) != target
        (mean, variance), (other, spread) = (
            expected(scores[shadows], part[shadows], labels, rng) for part in (members, ~members)
        )
        inside = np.square(score - mean) / variance + np.log(variance)
        outside = np.square(score - other) / spread + np.log(spread)
        found["likelihood ratio"][target] = 0.5 * (outside - inside)
        found["off-line"][target] = (score - other) / np.sqrt(spread)
    return found


def summary(scores: Float, asked: Bool, others: Bool) -> dict[str, object]:
    """TPR at 1 % FPR, the mean over runs, with its 95 % interval over images, and the AUC of each run.

    Args:
        asked: [RUNS, n], members that should be recognised. others: [RUNS, n], images that the run did not see.
    """

    def rate(rows: Int64) -> float:
        drawn = zip(scores[:, rows], asked[:, rows], others[:, rows], strict=True)
        return float(np.mean([true_positive_rate(run[a], run[o], FALSE_POSITIVES) for run, a, o in drawn]))

    count = scores.shape[1]
    found, members = rate(np.arange(count)), int(asked.sum(axis=1).min())
    drawn = percentile_ends(np.array([rate(resampled(count, draw)) for draw in generators(0, REPLICATES)]))
    ends = widened(drawn, round(found * members), members)  # of one run, as the others may judge the same images
    areas = [area_under_curve(run[a], run[o]) for run, a, o in zip(scores, asked, others, strict=True)]
    return {"tpr": found, "interval": ends, "aucs": areas}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--prototypes", choices=("matched", "medoid"), default="matched")
    parser.add_argument("--work", type=Path, required=True, help="private: holds runs on real images")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    opened = open_scenes(args.data, HeldOut(val_per_class=100, split="names"))
    scenes, held = opened.part("train"), opened.part("val")
    members = balanced_parts(scenes.labels, seed=0)
    options = MATCHED if args.prototypes == "matched" else ["--prototypes", args.prototypes, "--watchers", "own"]
    order = hashlib.sha256("\n".join(scenes.hashes).encode()).hexdigest()  # members are drawn by it
    config = TrainConfig(watchers=options[options.index("--watchers") + 1])
    watchers = [{name: one[name] for name in ("name", "weights_sha256")} for one in further_watchers(config)]
    about = {"data": fingerprint(scenes), "order": order, "training": [*TRAINING, *options]}
    base = load_base(config.base)
    about |= {"base": [weights_hash(part) for part in (base.vae, base.unet, base.text_encoder)], "watchers": watchers}
    check_same(args.work / f"{args.prototypes}.json", about)
    of_runs = []
    for number, inside in enumerate(members):
        folder = args.work / f"{args.prototypes}-{number}"
        of_runs.append(run_scores(folder, args.data, scenes, held, np.flatnonzero(inside), options))
        print(folder.name, flush=True)
    scores = {name: np.stack([run[name] for run in of_runs]) for name in ("codes", "students")}
    asked = members if args.prototypes == "matched" else members & (scores["codes"] > COPIED)
    result = {
        "command": f"python recipes/lira.py DATA --prototypes {args.prototypes} --work W --out {args.out.name}",
        "hardware": hardware(torch.device("cpu")),
        **about,
        "asked": int(asked.sum()),
        "attacks": [
            {"score": score, "attack": attack} | summary(found, asked, ~members)
            for score, values in scores.items()
            for attack, found in attacks(values, members, scenes.labels).items()
        ],
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
