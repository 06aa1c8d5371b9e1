"""Does an audit tell a hold-out that is comparable from one that is not? Splits of one data set with a known answer.

    python benchmarks/holdouts.py ../shared/data/ucmerced/train ../shared/data/aid10/train --out holdouts.json
    python benchmarks/holdouts.py EUROSAT/train --beside EUROSAT/test --val-per-class 100 --out embedded.json

Of each class a share is held out: at random (five draws), the last file names, the brightest images, the reddest ones,
and random ones of which the middle is enlarged, so that they look taken from nearer by. With --beside nothing is split:
the images of that folder are the hold-out, as in the audit of the embedded bundle.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from result_file import tell

from dpd_eval.audit.comparable import LIMIT, comparable_test, two_samples
from dpd_eval.audit.data import read_data
from dpd_eval.extractors.untrained import untrained_extractor
from dpd_runtime.annotations import Images
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, check_files, read_scenes

DRAWS = 5
SCALES = (0.5, 0.7, 0.85)  # share of the side that is enlarged
SIDE = 64


def held_out(labels: np.ndarray, scores: np.ndarray, share: float) -> np.ndarray:
    """Rows with the highest scores of each class."""
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([r[np.argsort(scores[r], kind="stable")[-max(1, int(len(r) * share)) :]] for r in rows])


def enlarged(images: Images, scale: float) -> Images:
    side = images.shape[1]
    width = int(side * scale)
    edge = (side - width) // 2
    middles = (Image.fromarray(image[edge : edge + width, edge : edge + width]) for image in images)
    return np.stack([np.asarray(middle.resize((side, side), Image.Resampling.LANCZOS)) for middle in middles])


def splits_of(scenes: SceneSet, share: float, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, float]]:
    """Name → rows that are held out, and the share of their side that they show."""
    labels, count = scenes.labels, len(scenes.labels)
    colours = scenes.images.mean(axis=(1, 2))
    scores = {f"random, draw {draw}": rng.random(count) for draw in range(DRAWS)}
    scores |= {"last names": np.arange(count), "brightest": colours.mean(axis=1)}
    scores |= {"reddest": colours[:, 0] / (colours.sum(axis=1) + 1)}
    found = {name: (held_out(labels, score, share), 1.0) for name, score in scores.items()}
    some = held_out(labels, rng.random(count), share)
    return found | {f"{scale} of the side": (some, scale) for scale in SCALES}


def judged(scenes: SceneSet, share: float) -> dict[str, Any]:
    rng = np.random.default_rng(round(100 * share))
    extractor = untrained_extractor(scenes)
    features, labels = extractor.features(scenes.images), scenes.labels
    result = {}
    for name, (rows, scale) in splits_of(scenes, share, rng).items():
        held = features[rows] if scale == 1 else extractor.features(enlarged(scenes.images[rows], scale))
        rest = np.setdiff1d(np.arange(len(labels)), rows)
        same = [rng.permutation(rest[labels[rest] == c])[: (labels[rows] == c).sum()] for c in np.unique(labels)]
        members = np.concatenate(same)
        order = np.argsort(labels[rows], kind="stable")
        found = two_samples(features[members], held[order], (labels[members], labels[rows][order]))
        result[name] = {
            "auc": round(found.auc, 4),
            "chance_reaches": round(found.reach, 4),
            "images_of_each_side": found.images,
            "comparable": not found.auc > max(LIMIT, found.reach),
        }
        print(share, name, result[name], flush=True)
    return result


def beside(data: Path, holdout: Path, val_per_class: int | None) -> dict[str, Any]:
    """What an audit says of a hold-out of its own."""
    classes = tuple(check_files(data, "train"))
    own = HeldOut(val_per_class=val_per_class, split="names")
    read = read_data(data, holdout, classes=classes, resolution=SIDE, held_out=own)
    outcome, comparable = comparable_test(read, untrained_extractor(read.train))
    return {"holdout": holdout.parts[-1], **outcome.to_dict(), "comparable": comparable}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"limit": LIMIT, "resolution": SIDE}
    for data in args.data:
        if args.beside:
            result["/".join(data.resolve().parts[-2:])] = beside(data, args.beside, args.val_per_class)
            continue
        scenes = read_scenes(data, part="all", resolution=SIDE)
        result["/".join(data.resolve().parts[-2:])] = {str(share): judged(scenes, share) for share in args.shares}
    tell(result, args.out)


if __name__ == "__main__":
    main()
