"""What features without labels are worth: linear probes with few labels, and herding in each feature space.

    python benchmarks/features.py ../shared/data/eurosat_rgb/train --val-per-class 100 --work WORK --out features.json

Encoders, all of one shape, with the same steps, seed and views:
  swimdiff   both terms, keys of the query's scene are no negatives
  moco       plain momentum contrast: no diffusion loss, same-scene keys are negatives
  contrast   the contrast of swimdiff alone
  diffusion  the diffusion loss alone
  untrained  the first weights; a control
Also `own`, which was trained on ALL labels of the training part, so that its probes are no result with few labels, and
`mdfl`. `scratch` is the encoders' network, trained on the few labels alone.

Probe: logistic regression on features that are centred and divided by one number (their root mean square), its
strength of regularisation chosen by 3-fold cross-validation on the few labels (where a class has one label, it is 1).
The labelled images are the same for every row of a seed. Everything is measured on the validation part, once.

Herding: the images of each extractor at --ipc, students on them and on random subsets, by dpd_eval.

Everything is kept under --work: run the same command again to continue, also with --max-minutes.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_file import tell
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from dpd_eval.comparison.config import EvaluateConfig
from dpd_eval.comparison.evaluate import evaluate
from dpd_eval.extractors.choice import build_extractor
from dpd_eval.selection.methods import select
from dpd_eval.selection.real_set import select_set
from dpd_eval.statistics import paired_difference
from dpd_runtime.annotations import Float32, Int64
from dpd_runtime.machine.versions import package_versions
from dpd_train.classifiers.encoder import RECORD, save_encoder
from dpd_train.classifiers.network import ResNet, predict
from dpd_train.classifiers.training import ClassifierTraining, train_classifier
from dpd_train.compute.device import hardware
from dpd_train.images import SceneSet, read_scenes, to_float
from dpd_train.pretrain.crops import Crops
from dpd_train.pretrain.pool import Sources
from dpd_train.pretrain.swimdiff.config import SwimDiff
from dpd_train.pretrain.swimdiff.features import pretrain_features
from dpd_train.pretrain.swimdiff.training import encoder_shape

VARIANTS: dict[str, dict[str, Any]] = {
    "swimdiff": {},
    "moco": {"diffusion_weight": 0.0, "same_scene_negatives": True},
    "contrast": {"diffusion_weight": 0.0},
    "diffusion": {"contrast_weight": 0.0},
}
UNTRAINED, OWN, MDFL = "untrained", "own", "mdfl"
REFERENCES = ("scratch", "moco", "contrast", "diffusion", UNTRAINED, OWN, MDFL)
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C of scikit-learn, the inverse of the regularisation
SCRATCH_SEED = 500  # used by no teacher, judge, watcher, extractor or student


def encoder_folders(args: argparse.Namespace) -> dict[str, Path]:
    """Train what is not there yet. Ends the program where time is up."""
    training = SwimDiff(steps=args.steps, seed=args.seed)
    if args.batch:
        training = replace(training, batch=args.batch)
    if args.lambda_diffusion is not None:
        training = replace(training, diffusion_weight=args.lambda_diffusion)
    sources = Sources(
        data=(str(args.data),),
        resolution=args.resolution,
        val_per_class=args.val_per_class,
        crops=Crops() if args.crops else None,
        seed=args.seed,
    )
    begun = time.monotonic()
    folders = {name: args.work / name for name in VARIANTS}
    for name, changes in VARIANTS.items():
        if (folders[name] / RECORD).is_file():
            continue
        left = None if args.max_minutes is None else args.max_minutes - (time.monotonic() - begun) / 60
        made = pretrain_features(
            sources,
            folders[name],
            args.work / "state" / name,
            replace(training, **changes),
            said(name),
            max_minutes=None if left is None else max(0.0, left),
        )
        if "unfinished" in made:
            sys.exit(f"{name}: {made['unfinished']}; run the same command again to continue")
        (args.work / f"{name}.seconds.json").write_text(json.dumps(made["timing"]), encoding="utf-8")
    folders[UNTRAINED] = args.work / UNTRAINED
    if not (folders[UNTRAINED] / RECORD).is_file():
        torch.manual_seed(args.seed)
        save_encoder(ResNet(encoder_shape()), folders[UNTRAINED], {"resolution": args.resolution, "training": None})
    return folders


def said(name: str) -> Callable[[int, int], None]:
    return lambda done, total: print(f"{name}: {done} of {total}", file=sys.stderr) if done % 100 == 0 else None


def scaled(train: Float32, held: Float32) -> tuple[Float32, Float32]:
    """Centre both by the mean of `train`, and divide by the root mean square of what is left of it."""
    mean = train.mean(axis=0)
    scale = float(np.sqrt(np.square(train - mean).mean())) or 1.0
    return (train - mean) / scale, (held - mean) / scale


def probe(features: Float32, labels: Int64, held: Float32, truth: Int64) -> float:
    """Accuracy on `held` of a logistic regression on `features` [n, D]."""
    model = LogisticRegression(max_iter=1000)
    folds = min(3, int(np.bincount(labels).min()))
    if folds > 1:
        model = GridSearchCV(model, {"C": STRENGTHS}, cv=folds)
    return float((model.fit(features, labels).predict(held) == truth).mean())


def scratch(train: SceneSet, rows: Int64, held: SceneSet, steps: int, seed: int) -> float:
    """Accuracy on `held` of the encoders' network after a training on the rows of `train`, after the last step."""
    images, labels = to_float(torch.from_numpy(train.images[rows])), torch.from_numpy(train.labels[rows])
    shape = replace(encoder_shape(), num_classes=len(train.classes), dropout=0.1)
    training = ClassifierTraining(steps=steps, validate_every=steps, seed=SCRATCH_SEED + seed)
    trained = train_classifier(images, labels, (images[:1], labels[:1]), shape, training)
    logits = predict(trained.model, to_float(torch.from_numpy(held.images)))
    return float((logits.argmax(1).numpy() == held.labels).mean())


def features_of(
    names: dict[str, str], train: SceneSet, held: SceneSet, cache: Path
) -> dict[str, tuple[Float32, Float32]]:
    """Features of both parts by extractor, from --work where they are there."""
    found = {}
    for row, name in names.items():
        path = cache / f"{row}.features.npz"
        if not path.exists():
            extractor = build_extractor(name, train, cache=cache / "extractors")
            np.savez(path, train=extractor.features(train.images), held=extractor.features(held.images))
        with np.load(path) as stored:
            found[row] = scaled(stored["train"], stored["held"])
    return found


def probes(args: argparse.Namespace, names: dict[str, str], train: SceneSet, held: SceneSet) -> list[dict[str, Any]]:
    """One entry for each share of the labels: accuracies of every row over the seeds, and swimdiff's differences."""
    features = features_of(names, train, held, args.work)
    smallest, entries = int(np.bincount(train.labels).min()), []
    for share in args.shares:
        each = max(1, round(share * smallest))
        runs: dict[str, list[float]] = {row: [] for row in (*features, "scratch")}
        for seed in range(args.seeds):
            rows = select("random", train, each, seed)
            for row, (known, asked) in features.items():
                runs[row].append(probe(known[rows], train.labels[rows], asked, held.labels))
            runs["scratch"].append(scratch(train, rows, held, args.scratch_steps, seed))
            print(f"{share:g}, seed {seed}: { ({row: round(v[-1], 4) for row, v in runs.items()}) }", file=sys.stderr)
        entries.append(
            {
                "share": share,
                "labels_per_class": each,
                "accuracy": {row: {"mean": float(np.mean(values)), "runs": values} for row, values in runs.items()},
                "swimdiff_minus": {
                    row: asdict(paired_difference(runs["swimdiff"], runs[row])) for row in REFERENCES if row in runs
                },
            }
        )
    return entries


def herding(args: argparse.Namespace, names: dict[str, str]) -> list[dict[str, Any]]:
    """Accuracy of students on the herded images of each extractor, beside the same random subsets."""
    config = EvaluateConfig(
        students=tuple(args.students.split(",")),
        baselines=("random",),
        ipc=(args.ipc,),
        pairs=args.pairs,
        recipe=args.recipe,
        metrics=False,
        val_per_class=args.val_per_class,
        resolution=args.resolution,
    )
    entries: list[dict[str, Any]] = []
    for row, name in names.items():
        out = args.work / f"herding-{row}"
        select_set(
            args.data,
            out,
            method="herding",
            ipc=args.ipc,
            extractor=name,
            val_per_class=args.val_per_class,
            resolution=args.resolution,
            cache=args.work / "extractors",
        )
        found = evaluate([out], config, train=args.data, test="val", cache=args.work / "students")
        for arm in found.arms:
            known = {"extractor": row if arm.arm != "random" else None, "student": arm.student}
            if arm.arm != "random" or not any(known.items() <= entry.items() for entry in entries):
                entries.append({**known, "oa_mean": arm.oa_mean, "oa_runs": arm.oa_runs})
    for entry in entries:
        own = next(e for e in entries if (e["extractor"], e["student"]) == (OWN, entry["student"]))
        entry["minus_own"] = asdict(paired_difference(entry["oa_runs"], own["oa_runs"]))
    return entries


def encoder_record(folder: Path) -> dict[str, Any]:
    """Settings, last losses and seconds of an encoder. Seconds are of the last session alone."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    timed = folder.parent / f"{folder.name}.seconds.json"
    timing = json.loads(timed.read_text(encoding="utf-8")) if timed.exists() else None
    kept = {name: record.get(name) for name in ("training", "weights_sha256", "data", "hardware")}
    losses = record.get("losses") or [None]
    return {**kept, "first_losses": losses[0], "last_losses": losses[-1], "timing": timing}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is kept")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--crops", action="store_true", help="also train encoders on crops of larger images")
    parser.add_argument("--steps", type=int, default=SwimDiff().steps)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lambda-diffusion", type=float, help="of swimdiff and diffusion")
    parser.add_argument("--seed", type=int, default=0, help="of the encoders")
    parser.add_argument("--max-minutes", type=float, help="stop training encoders after this time")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1], help="of the training labels")
    parser.add_argument("--seeds", type=int, default=5, help="subsets of labels")
    parser.add_argument("--scratch-steps", type=int, default=1000)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--students", default="convnet")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--without", nargs="*", default=[], choices=["probes", "herding"], help="parts to leave out")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    folders = encoder_folders(args)
    names = {row: f"swimdiff:{folder}" for row, folder in folders.items()} | {OWN: OWN, MDFL: MDFL}
    train, held = (
        read_scenes(args.data, part=part, resolution=args.resolution, val_per_class=args.val_per_class)
        for part in ("train", "val")
    )
    result = {
        "data": {"train_images": len(train.labels), "validation_images": len(held.labels), "classes": train.classes},
        "encoders": {row: encoder_record(folder) for row, folder in folders.items()},
        "probes": [] if "probes" in args.without else probes(args, names, train, held),
        "herding": [] if "herding" in args.without else herding(args, names),
        "ipc": args.ipc,
        "versions": package_versions("dpd-distill", "torch", "numpy", "scikit-learn"),
        "hardware": hardware(torch.device("cpu")),
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
