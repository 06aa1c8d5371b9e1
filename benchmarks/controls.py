"""Check that `dpd evaluate` gives known results on real images.

    python benchmarks/controls.py ../shared/data/eurosat_rgb/train --val-per-class 100 --work /var/tmp/controls \
        --out controls.json

- *Disjoint* sets of real images, given as SETs, must equal the baseline `random`: the paired interval contains 0.
- *Shuffled* labels must score at chance: the interval of OA contains 1 / classes.
- *Twice*: the same command with two empty caches must give the same figures.

All on the validation part. The real images are copied to --work as class folders.
"""

import argparse
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpd_eval import EvaluateConfig, Evaluation, evaluate
from dpd_eval.statistics import paired_difference


def folders(data: Path, classes: dict[str, list[Path]], ipc: int, count: int, work: Path) -> dict[str, list[Path]]:
    """`count` sets of each kind: disjoint sets share no image, and shuffled sets have permuted labels."""
    generator = np.random.default_rng(20261120)
    orders = {name: generator.permutation(len(files)) for name, files in classes.items()}
    made: dict[str, list[Path]] = {"disjoint": [], "shuffled": []}
    for number in range(count):
        chosen = [(name, classes[name][row]) for name in classes for row in orders[name][number * ipc :][:ipc]]
        moved = generator.permutation([name for name, _ in chosen])
        for kind, labels in (("disjoint", [name for name, _ in chosen]), ("shuffled", moved)):
            out = work / f"{kind}{number}"
            shutil.rmtree(out, ignore_errors=True)
            for label, (_, file) in zip(labels, chosen, strict=True):
                (out / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, out / label / f"{file.parent.name}_{file.name}")
            made[kind].append(out)
    return made


def of_set(result: Evaluation) -> list[float]:
    return [oa for arm in result.arms if arm.arm == "set" for oa in arm.oa_runs]


def figures(result: Evaluation) -> list[Any]:
    return [(asdict(arm)["confusion"], list(arm.oa_runs)) for arm in result.arms]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-per-class", type=int, required=True)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    classes = {folder.name: sorted(folder.glob("*"))[: -args.val_per_class] for folder in sorted(args.data.iterdir())}
    made = folders(args.data, classes, args.ipc, args.pairs, args.work)
    config = EvaluateConfig(
        ipc=(args.ipc,), val_per_class=args.val_per_class, split="names", resolution=args.resolution, metrics=False,
        jobs=args.jobs, pairs=args.pairs,
    )  # fmt: skip
    images: dict[str, Any] = {"train": args.data, "test": "val"}
    disjoint = evaluate(made["disjoint"], config, **images)
    shuffled = evaluate(made["shuffled"], replace(config, baselines=()), **images)
    twice = []
    for number in range(2):
        cache = args.work / f"cache{number}"
        shutil.rmtree(cache, ignore_errors=True)
        twice.append(figures(evaluate(made["disjoint"][:1], replace(config, pairs=1), cache=cache, **images)))
    chance = paired_difference(of_set(shuffled), [1 / len(classes)] * args.pairs)
    report = {
        "tested_on": "validation",
        "ipc": args.ipc,
        "disjoint real subsets against random": asdict(disjoint.differences[0].difference),
        "oa of disjoint subsets": of_set(disjoint),
        "oa of random": [oa for arm in disjoint.arms if arm.arm == "random" for oa in arm.oa_runs],
        "shuffled labels against chance": asdict(chance),
        "oa of shuffled labels": of_set(shuffled),
        "the same command twice is equal": twice[0] == twice[1],
        "versions": disjoint.versions,
    }
    text = json.dumps(report, indent=1)
    args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
