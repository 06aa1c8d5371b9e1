"""Measure how useful codes with differential privacy are: student accuracy for each epsilon, beside random real images.

    python benchmarks/dp.py ../shared/data/eurosat_rgb/train --base benchmarks/public_base \\
        --public ../shared/data/ucmerced/train --work /var/tmp/dp --out dp.json

DATA is the private set. --base must not have seen it, nor the public images. Codes are made as `dpd distill --dp` makes
them, once for each run: run i has noise, watchers, starts and matching of its own; epsilon inf has no noise. Students
are tested on the validation part of DATA, never on test/. The figures tell about DATA, so they have no guarantee.
"""

import argparse
import math
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from result_file import tell

from dpd_eval import evaluate
from dpd_eval.comparison.config import EvaluateConfig
from dpd_runtime.errors import DataError
from dpd_train.bases.base import Base, decode_in_parts, load_base
from dpd_train.compute.device import use_device
from dpd_train.images import SceneSet, read_scenes
from dpd_train.prototypes.matching import Matching
from dpd_train.prototypes.private import public as watchers
from dpd_train.prototypes.private.budget import Budget, check_budget, noise_on_mean, spent, suited_width
from dpd_train.prototypes.private.codes import PrivateInputs, private_codes
from dpd_train.prototypes.private.public import drawn_images, labelled


def write_images(images: np.ndarray, classes: tuple[str, ...], out: Path) -> None:
    """uint8 [classes, k, H, W, 3] → class folders."""
    for name, own in zip(classes, images, strict=True):
        (out / name).mkdir(parents=True)
        for index, pixels in enumerate(own):
            Image.fromarray(pixels).save(out / name / f"{index:05d}.png")


def make_set(
    args: argparse.Namespace, base: Base, private: SceneSet, public: SceneSet, budget: Budget, run: int
) -> dict[str, Any]:
    """One release and its matched codes, decoded. Returns the place of the set and what was released."""
    place = args.work / f"epsilon-{budget.epsilon:g}-run-{run}"
    folder, out = place / "codes", place / "set"
    folder.mkdir(parents=True, exist_ok=True)
    for trained in sorted(args.work.glob(f"*-run-{run}/codes/{watchers.NAME}*.safetensors")):  # equal for each epsilon
        if not (folder / trained.name).exists():
            shutil.copyfile(trained, folder / trained.name)
    counts = np.bincount(private.labels).tolist()
    inputs = PrivateInputs(
        private=lambda: labelled(private), counts=tuple(counts), public=public, base=base, folder=folder
    )
    begun = time.perf_counter()
    matching = Matching(steps=args.steps, seed=run)
    made = private_codes(inputs, budget, matching, args.ipc, lambda title: lambda *_: None, device=use_device("auto"))
    if not out.exists():
        images = decode_in_parts(base, made.codes.reshape(-1, *made.codes.shape[2:]))
        write_images(images.reshape(len(counts), args.ipc, *images.shape[1:]), private.classes, out)
    noisy = math.isfinite(budget.epsilon)
    return {
        "set": str(out),
        "accountant_epsilon": spent(made.release.change, made.release.noise, budget.delta) if noisy else None,
        "noise": asdict(made.release.noise),
        "sensitivity": asdict(made.release.change),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def measure(
    args: argparse.Namespace, base: Base, private: SceneSet, public: SceneSet, epsilon: float
) -> dict[str, Any]:
    """Sets of one epsilon, and students on them; or why there are none."""
    budget = Budget(epsilon=epsilon, delta=args.delta)
    counts = dict(zip(private.classes, np.bincount(private.labels).tolist(), strict=True))
    fewest = min(counts.values())
    facts: dict[str, Any] = {"epsilon": None if math.isinf(epsilon) else epsilon, "fewest_images": fewest}
    if math.isfinite(epsilon):
        try:
            check_budget(budget, counts)
        except DataError as refused:
            return facts | {"refused": str(refused)}
    runs = [make_set(args, base, private, public, budget, run) for run in range(args.runs)]
    config = EvaluateConfig(
        ipc=(args.ipc,),
        pairs=args.pairs,
        recipe=args.recipe,
        val_per_class=args.val_per_class,
        metrics=False,
        jobs=args.jobs,
    )
    found = evaluate([Path(run["set"]) for run in runs], config, train=args.data, test="val").to_dict()
    width = suited_width(budget, fewest)
    return facts | {
        "width": width,
        "noise_on_mean": noise_on_mean(budget, fewest, width),
        "runs": runs,
        "arms": found["arms"],
        "differences": found["differences"],
        "test_images": found["test_images"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="labelled private images")
    parser.add_argument("--base", required=True, help="that has not seen them: nano, a folder or a hub id")
    parser.add_argument("--public", type=Path, help="labelled public images; default: drawn scenes")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[math.inf, 10.0, 1.0])
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--ipc", type=int, default=20)
    parser.add_argument("--runs", type=int, default=1, help="releases of each epsilon")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="of matching, for each ten codes of a class")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--val-per-class", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="folder; a second call goes on with what is in it")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = load_base(args.base)
    private = read_scenes(args.data, part="train", resolution=base.resolution, val_per_class=args.val_per_class)
    if args.public is None:
        public = drawn_images(base.resolution, 0)
    else:
        public = read_scenes(args.public, part="all", resolution=base.resolution)
    measured = [measure(args, base, private, public, epsilon) for epsilon in args.epsilon]
    result = {
        "base": Path(args.base).name,
        "public": "drawn scenes" if args.public is None else args.public.name,
        "public_images": len(public.labels),
        "classes": len(private.classes),
        "delta": args.delta,
        "ipc": args.ipc,
        "matching_steps": args.steps,
        "watcher_steps": list(watchers.LENGTHS),
        "tested_on": "validation",
        "epsilons": measured,
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
