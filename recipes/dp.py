"""Measure how useful codes with differential privacy are: student accuracy for each epsilon, beside random real images.

    python recipes/dp.py ../shared/data/eurosat_rgb/train --base recipes/public_base \\
        --public ../shared/data/ucmerced/train --work /var/tmp/dp --out dp.json

DATA is the private set. --base must not have seen it, nor the public images. Codes are made as `dpd private` makes
them, once for each run: run i has noise, watchers, images and a decoder of its own; epsilon inf has no noise. --first
lets another machine make further ones. Students are tested on the validation part of DATA, never on test/, and
intervals are over runs if there are several. Epsilon is for one image replaced by another of its class. The figures
tell about DATA, so they have no guarantee.

A second call with the same arguments goes on with what is in --work. OUT is written after each epsilon.
"""

import argparse
import hashlib
import json
import math
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from result_file import tell

from dpd_eval import evaluate
from dpd_eval.options import EvaluateConfig
from dpd_private import decoder
from dpd_private import public as watchers
from dpd_private.apart import check_base_apart, check_images_apart, check_places_apart
from dpd_private.budget import Budget, check_budget, noise_on_mean, sampling_error, spent, suited_width
from dpd_private.codes import PrivateInputs, private_codes
from dpd_private.public import drawn_images, read_public
from dpd_runtime.errors import DataError
from dpd_runtime.files import write_atomically
from dpd_runtime.set_state import DATASET_NAME
from dpd_runtime.versions import package_versions
from dpd_train.base_files import base_folder
from dpd_train.bases import Base, decode_in_parts, load_base
from dpd_train.classifiers import labelled
from dpd_train.compute import hardware, use_device
from dpd_train.reading import PLAIN, HeldOut
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import open_scenes, read_scenes


def write_set(codes: np.ndarray, images: np.ndarray, classes: tuple[str, ...], out: Path) -> None:
    """uint8 images [classes, k, H, W, 3] → class folders, complete or not there; the record has the codes' hash."""
    draft = out.with_suffix(".part")
    shutil.rmtree(draft, ignore_errors=True)
    for name, own in zip(classes, images, strict=True):
        (draft / name).mkdir(parents=True)
        for index, pixels in enumerate(own):
            Image.fromarray(pixels).save(draft / name / f"{index:05d}.png")
    record = {"prototypes_sha256": hashlib.sha256(codes.tobytes()).hexdigest()}
    write_atomically(draft / DATASET_NAME, json.dumps(record).encode())
    draft.rename(out)


def make_set(
    args: argparse.Namespace, base: Base, private: SceneSet, public: SceneSet, budget: Budget, run: int
) -> dict[str, Any]:
    """One release and its matched codes, decoded. Returns the place of the set and what was released."""
    place = args.work / f"epsilon-{budget.epsilon:g}-run-{run}"
    folder, out, made_of = place / "codes", place / "set", place / "release.json"
    if made_of.exists():
        found: dict[str, Any] = json.loads(made_of.read_text(encoding="utf-8"))
        return found
    folder.mkdir(parents=True, exist_ok=True)
    for trained in sorted(args.work.glob(f"*-run-{run}/codes/{watchers.NAME}*.safetensors")):  # equal for each epsilon
        if not (folder / trained.name).exists():
            shutil.copyfile(trained, folder / trained.name)
    counts = np.bincount(private.labels).tolist()
    inputs = PrivateInputs(
        private=lambda: labelled(private), counts=tuple(counts), public=public, base=base, folder=folder
    )
    begun = time.perf_counter()
    made = private_codes(inputs, budget, args.ipc, run, lambda title: lambda *_: None, device=use_device("auto"))
    images = decode_in_parts(made.base, made.codes.reshape(-1, *made.codes.shape[2:]))
    shutil.rmtree(out, ignore_errors=True)
    write_set(made.codes, images.reshape(len(counts), args.ipc, *images.shape[1:]), private.classes, out)
    noisy = math.isfinite(budget.epsilon)
    release = made.release
    found = {
        "set": str(out),
        "accountant_epsilon": spent(release.sensitivity, release.noise, budget.delta) if noisy else None,
        "noise": release.noise,
        "sensitivity": release.sensitivity,
        "seconds_of_last_session": round(time.perf_counter() - begun, 1),
    }
    write_atomically(made_of, json.dumps(found).encode())
    return found


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
    runs = [make_set(args, base, private, public, budget, run) for run in range(args.first, args.first + args.runs)]
    config = EvaluateConfig(
        ipc=(args.ipc,),
        pairs=args.pairs,
        recipe=args.recipe,
        val_per_class=args.val_per_class,
        split="names",
        metrics=False,
        jobs=args.jobs,
    )
    found = evaluate([Path(run["set"]) for run in runs], config, train=args.data, test="val").to_dict()
    width = suited_width(budget, fewest)
    return facts | {
        "width": width,
        "noise_on_mean": noise_on_mean(budget, fewest, width),
        "sampling_error_of_mean": sampling_error(fewest),
        "runs": [{name: value for name, value in run.items() if name != "set"} for run in runs],
        **{name: found[name] for name in ("repeated", "arms", "differences", "test_images", "recipe", "students")},
    }


def check_same(args: argparse.Namespace) -> None:
    """End the program if --work holds what other arguments made."""
    names = ("data", "base", "public", "delta", "ipc", "val_per_class")
    decided, path = {name: str(getattr(args, name)) for name in names}, args.work / "arguments.json"
    args.work.mkdir(parents=True, exist_ok=True)
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != decided:
        raise SystemExit(f"{path}: made with other arguments; give the same, or another --work")
    write_atomically(path, json.dumps(decided).encode())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="labelled private images")
    parser.add_argument("--base", required=True, help="that has not seen them: nano, a folder or a hub id")
    parser.add_argument("--public", type=Path, help="labelled public images; default: drawn scenes")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[math.inf, 10.0, 1.0])
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--ipc", type=int, default=200)
    parser.add_argument("--runs", type=int, default=1, help="releases of each epsilon")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--pairs", type=int, default=5, help="of students; a multiple of --runs")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--val-per-class", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="folder; a second call goes on with what is in it")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.pairs % args.runs:
        parser.error(f"--pairs is {args.pairs}: give a multiple of --runs, {args.runs}")
    return args


def main() -> None:
    args = arguments()
    check_same(args)
    torch.set_num_threads(args.threads)
    base = load_base(args.base)
    private = read_scenes(
        args.data,
        part="train",
        resolution=base.resolution,
        held_out=HeldOut(val_per_class=args.val_per_class, split="names"),
    )
    check_base_apart(args.base, base_folder(args.base), private.classes)
    if args.public is None:
        public = drawn_images(base.resolution, 0)
    else:
        check_places_apart(args.data, args.public)
        public = read_public(open_scenes(args.public, reading=PLAIN), base.resolution, 0)
        check_images_apart(args.public, private, public)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(torch.device("cpu")),
        "versions": package_versions("dpd-distill", "torch", "numpy", "dp-accounting"),
        "base": Path(args.base).name,
        "public": "drawn scenes" if args.public is None else "/".join(args.public.resolve().parts[-2:]),
        "public_rows": len(public.labels),
        "classes": len(private.classes),
        "side": base.resolution,
        "neighbours": "one image, replaced by another of its class",
        "delta": args.delta,
        "ipc": args.ipc,
        "watcher_steps": watchers.STEPS,
        "decoder_steps": decoder.STEPS,
        "tested_on": "validation",
        "epsilons": [],
    }
    for epsilon in args.epsilon:
        result["epsilons"].append(measure(args, base, private, public, epsilon))
        tell(result, args.out)


if __name__ == "__main__":
    main()
