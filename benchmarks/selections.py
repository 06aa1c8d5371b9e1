"""Herding, k-means and k-center by several extractors that differ in their seed alone, and the students' accuracy.

    python benchmarks/selections.py DATA --val-per-class 100 --ipc 10,50 --seeds 0,1,2 --work W --out selections.json

A subset by one extractor says nothing about what another training of the extractor would choose. So student pairs are
averaged for each extractor, and the interval is over extractors. `--test` names the test part; without it students are
judged on the validation part.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_file import tell

from dpd_eval import EvaluateConfig, evaluate
from dpd_eval.extractors.own import SEED, own_extractor
from dpd_eval.selection.folder import write_folder
from dpd_eval.selection.methods import select
from dpd_eval.statistics import t_interval
from dpd_train.compute.device import hardware
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, read_scenes

METHODS = ("herding", "k-means", "k-center")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--ipc", default="10,50")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--students", default="convnet")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    seeds, counts = ([int(word) for word in words.split(",")] for words in (args.seeds, args.ipc))
    train = read_scenes(
        args.data,
        part="train",
        resolution=args.resolution,
        held_out=HeldOut(val_per_class=args.val_per_class, split="names"),
    )
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        extractor = own_extractor(train, args.work / "extractors", seed=SEED + seed)
        features = extractor.features(train.images)
        for method in METHODS:
            for ipc in counts:
                out = args.work / f"{method}-{ipc}-{seed}"
                about = {"method": method, "ipc": ipc, "extractor": extractor.description}
                write_folder(train, select(method, train, ipc, 0, features), out, about)
                rows += judged(args, train, out, {"method": method, "ipc": ipc, "seed": seed})
                print(rows[-1], flush=True)
    result = {
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "hardware": hardware(torch.device("cpu")),
        "extractors": rows,
        "over_extractors": [summary for method in METHODS for ipc in counts for summary in means(rows, method, ipc)],
    }
    tell(result, args.out)


def judged(args: argparse.Namespace, train: SceneSet, images: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """For each student the accuracies with these images."""
    config = EvaluateConfig(
        students=tuple(args.students.split(",")),
        ipc=(about["ipc"],),
        pairs=args.pairs,
        val_per_class=args.val_per_class,
        split="names",
        resolution=train.images.shape[1],
        baselines=(),
        metrics=False,
    )
    arms = evaluate([images], config, train=args.data, test=args.test or "val").arms
    return [about | {"student": arm.student, "oa": list(arm.oa_runs)} for arm in arms if arm.arm == "set"]


def means(rows: list[dict[str, Any]], method: str, ipc: int) -> list[dict[str, Any]]:
    """For each student the mean over extractors of their pairs' means, with its interval."""
    found = []
    for student in sorted({row["student"] for row in rows}):
        own = [row for row in rows if (row["method"], row["ipc"], row["student"]) == (method, ipc, student)]
        oa = [float(np.mean(row["oa"])) for row in own]
        interval = asdict(t_interval(oa)) if len(oa) > 1 else None
        found.append({"method": method, "ipc": ipc, "student": student, "oa": oa, "interval": interval})
    return found


if __name__ == "__main__":
    main()
