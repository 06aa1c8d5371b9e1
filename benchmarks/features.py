"""What features without labels are worth: linear probes with few labels, and herding in each feature space.

    python benchmarks/features.py ../shared/data/eurosat_rgb/train --val-per-class 100 --work WORK --out features.json
    python benchmarks/features.py ../shared/data/ucmerced/train --val-per-class 10 --crops --work WORK --out crops.json

Encoders, all of one shape, with the same steps and views, each from --encoder-seeds seeds:
  swimdiff   both terms, keys of the query's scene are no negatives
  moco       plain momentum contrast: no diffusion loss, same-scene keys are negatives
  contrast   the contrast of swimdiff alone
  diffusion  the diffusion loss alone
  untrained  the first weights, with batch statistics from 300 steps at rate 0; a control
Without --crops a scene is one image, which an epoch has once: contrast and moco then differ little. With --crops a
scene is an image with all its crops.

Also `own`, which was trained on ALL labels of the training part, so that its probes are no result with few labels, and
`mdfl`, which is not without labels either: the base in this package learned captions that name EuroSAT's classes. AID,
or --mdfl mdfl:BASE with a base that has not seen the data, makes it a fair row. `scratch` is the encoders' network,
trained on the few labels alone.

Probe: logistic regression on features that are centred and divided by one number (their root mean square); 3-fold
cross-validation on the few labels chooses the strength of its regularisation. Folds of the same kind
choose the steps of `scratch` and whether it sees the views that encoders are trained on, once for each share, on the
first subset.
Where a class has one label, nothing is chosen: C is 1, and `scratch` takes the first of its settings.

Herding: the images of each extractor at --ipc, students on them and on random subsets, by dpd_eval.

Everything is measured on the validation part, which chooses nothing. Each encoder seed has subsets of labels, trainings
from scratch and students of its own, and intervals are over encoder seeds. `own` and `mdfl` are one network each, so
that an interval says nothing about another training of them.

Everything is kept under --work, under a hash of what decides it: run the same command again to continue, also with
--max-minutes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from feature_encoders import VARIANTS, encoder_record, planned, train_all
from feature_probes import SEED, Scratch, choose_scratch, probe, scratch
from feature_spaces import MDFL, Space, base_record, hashes, spaces_of
from kept import digest, kept
from result_file import tell

from dpd_eval.comparison.config import EvaluateConfig
from dpd_eval.comparison.evaluate import evaluate
from dpd_eval.selection.methods import select
from dpd_eval.selection.real_set import select_set
from dpd_eval.statistics import paired_difference
from dpd_runtime.machine.versions import package_versions
from dpd_train.classifiers.training import labelled
from dpd_train.compute.device import hardware
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, fingerprint, read_scenes, split_folders
from dpd_train.images.crops import Crops
from dpd_train.pretrain.pool import Sources
from dpd_train.pretrain.swimdiff.config import SwimDiff
from dpd_train.pretrain.swimdiff.training import encoder_shape

FORMAT = 3  # raise it when probes or networks from scratch give other accuracies
OWN, SCRATCH = "own", "scratch"
SEEDS = 3  # of encoders; an interval over them needs two


def over_seeds(first: Sequence[float], second: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """The paired difference with its interval over encoder seeds."""
    return asdict(paired_difference(first, second, groups=seeds))


def probes(
    args: argparse.Namespace, spaces: dict[str, list[Space]], train: SceneSet, held: SceneSet
) -> list[dict[str, Any]]:
    """One entry for each share of the labels: accuracies of every row over subsets, and swimdiff's differences."""
    smallest = int(np.bincount(train.labels).min())
    return [probe_share(args, spaces, train, held, max(1, round(share * smallest)), share) for share in args.shares]


def probe_share(
    args: argparse.Namespace,
    spaces: dict[str, list[Space]],
    train: SceneSet,
    held: SceneSet,
    each: int,
    share: float,
) -> dict[str, Any]:
    """Accuracies with `each` labels per class. Subset i belongs to encoder seed i // label seeds."""
    settings = [Scratch(*setting) for setting in product(args.scratch_steps, (True, False))]
    asked, truth = labelled(held), held.labels
    subsets = [select("random", train, each, seed) for seed in range(args.encoder_seeds * args.label_seeds)]
    seeds = [i // args.label_seeds for i in range(len(subsets))]
    decided = {"format": FORMAT, "shape": encoder_shape().to_dict(), "seed": SEED, "each": each, **hashes(train, held)}
    choice = kept(
        args.work / "scratch",
        f"choice-{each}",
        decided | {"settings": [asdict(setting) for setting in settings]},
        lambda: asdict(choose_scratch(labelled(train.only(subsets[0])), encoder_shape(), settings, 0)),
    )
    runs: dict[str, list[float]] = {row: [] for row in (*spaces, SCRATCH)}
    for i, rows in enumerate(subsets):
        for row, own in spaces.items():
            space = own[seeds[i] % len(own)]
            runs[row].append(
                kept(
                    args.work / "probes",
                    f"{row}-{each}-{i}",
                    {"format": FORMAT, "space": space.key, "rows": rows.tolist()},
                    lambda seen=space, known=rows: probe(seen.train[known], train.labels[known], seen.held, truth),
                )
            )
        runs[SCRATCH].append(
            kept(
                args.work / "scratch",
                f"{each}-{i}",
                decided | {"setting": choice, "rows": rows.tolist(), "subset": i},
                lambda known=rows, seed=i: scratch(
                    labelled(train.only(known)), asked, encoder_shape(), Scratch(**choice), seed
                ),
            )
        )
    return {
        "share": share,
        "labels_per_class": each,
        "encoder_seed_of_run": seeds,
        "scratch": choice,
        "accuracy": {row: {"mean": float(np.mean(values)), "runs": values} for row, values in runs.items()},
        "minus_scratch": {
            row: over_seeds(values, runs[SCRATCH], seeds) for row, values in runs.items() if row != SCRATCH
        },
        "swimdiff_minus": {
            row: over_seeds(runs["swimdiff"], values, seeds) for row, values in runs.items() if row != "swimdiff"
        },
    }


def herding(
    args: argparse.Namespace, names: dict[str, list[str]], spaces: dict[str, list[Space]]
) -> list[dict[str, Any]]:
    """Accuracy of students on the herded images of each row beside the same random subsets.

    Pair i has the encoder of seed i mod --encoder-seeds.
    """
    config = EvaluateConfig(
        students=tuple(args.students.split(",")),
        baselines=("random",),
        ipc=(args.ipc,),
        pairs=args.pairs,
        recipe=args.recipe,
        metrics=False,
        val_per_class=args.val_per_class,
        split=args.split,
        resolution=args.resolution,
    )
    chosen = {"val_per_class": args.val_per_class, "split": args.split, "resolution": args.resolution}
    runs: dict[tuple[str, str], Sequence[float]] = {}
    for row, own in names.items():
        sets = []
        for number, name in enumerate(own):
            key = {"space": spaces[row][number].key, "ipc": args.ipc, **chosen}
            sets.append(args.work / "herding" / f"{row}-{number}-{digest(key)}")
            sets[-1].parent.mkdir(parents=True, exist_ok=True)
            select_set(
                args.data,
                sets[-1],
                method="herding",
                ipc=args.ipc,
                extractor=name,
                cache=args.work / "extractors",
                **chosen,
            )
        for arm in evaluate(sets, config, train=args.data, test="val", cache=args.work / "students").arms:
            runs.setdefault((row if arm.arm != "random" else "random", arm.student), arm.oa_runs)
    seeds = [i % args.encoder_seeds for i in range(args.pairs)]
    return [
        {
            "extractor": row,
            "student": student,
            "oa_mean": float(np.mean(values)),
            "oa_runs": list(values),
            "minus_own": over_seeds(values, runs[OWN, student], seeds),
            "minus_random": over_seeds(values, runs["random", student], seeds),
        }
        for (row, student), values in runs.items()
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is kept")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--val-per-class", type=int, help="needed where DATA has no val/")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--crops", action="store_true", help="train encoders on crops of larger images too")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--encoder-seeds", type=int, default=SEEDS, help="encoders of each variant")
    parser.add_argument("--steps", type=int, default=SwimDiff().steps)
    parser.add_argument("--batch", type=int, default=SwimDiff().batch)
    parser.add_argument("--lambda-diffusion", type=float, default=SwimDiff().diffusion_weight, help="of swimdiff")
    parser.add_argument("--mdfl", default=MDFL, help="or mdfl:BASE, a base that has not seen DATA")
    parser.add_argument("--max-minutes", type=float, help="stop training encoders after this time")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1], help="of the training labels")
    parser.add_argument("--label-seeds", type=int, default=5, help="subsets of labels of each encoder seed")
    parser.add_argument("--scratch-steps", type=int, nargs="+", default=[1000, 300], help="folds choose one")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--students", default="convnet")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--without", nargs="*", default=[], choices=["probes", "herding"], help="parts to leave out")
    args = parser.parse_args()
    if args.val_per_class is None and "val" not in split_folders(args.data):
        parser.error("--val-per-class is missing: give what the base held out, 100 for EuroSAT, or 10")
    args.split = "content" if args.val_per_class is None else "names"
    if args.encoder_seeds < 1:
        parser.error(f"--encoder-seeds is {args.encoder_seeds}: give at least 1")
    if args.pairs % args.encoder_seeds:
        parser.error(f"--pairs is {args.pairs}: give a multiple of --encoder-seeds, {args.encoder_seeds}")
    if "swimdiff" not in args.variants:
        parser.error("--variants lacks swimdiff, which the others are compared with: add it")
    return args


def told(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments for the result, without local paths."""
    places = {"data": "/".join(args.data.resolve().parts[-2:]), "recipe": Path(args.recipe).name}
    places["mdfl"] = f"{MDFL}:{Path(args.mdfl).name}" if args.mdfl != MDFL else MDFL
    return {name: value for name, value in vars(args).items() if name not in ("work", "out")} | places


def main() -> None:
    args = arguments()
    begun = datetime.now(UTC)
    torch.set_num_threads(1)
    train, held = (
        read_scenes(
            args.data,
            part=part,
            resolution=args.resolution,
            held_out=HeldOut(val_per_class=args.val_per_class, split=args.split),
        )
        for part in ("train", "val")
    )
    training = SwimDiff(steps=args.steps, batch=args.batch, diffusion_weight=args.lambda_diffusion)
    crops = Crops() if args.crops else None
    sources = Sources(
        data=(str(args.data),),
        resolution=args.resolution,
        val_per_class=args.val_per_class,
        split=args.split,
        crops=crops,
    )
    images = str(fingerprint(train)["sha256"])
    plans = planned(args.variants, args.encoder_seeds, training, sources, images, args.work / "encoders")
    train_all(plans, args.max_minutes)
    names = {row: [f"swimdiff:{eyes.folder}" for eyes in plans if eyes.row == row] for row in args.variants}
    names |= {OWN: [OWN], MDFL: [args.mdfl]}
    spaces = spaces_of(names, train, held, args.work)
    result = {
        "arguments": told(args),
        "date": begun.date().isoformat(),
        "data": {"train": fingerprint(train), "validation": fingerprint(held)},
        "encoders": [encoder_record(eyes) for eyes in plans],
        "extractors": {row: [space.description for space in own] for row, own in spaces.items()},
        "mdfl": base_record(args.mdfl, train),
        "probes": [] if "probes" in args.without else probes(args, spaces, train, held),
        "herding": [] if "herding" in args.without else herding(args, names, spaces),
        "versions": package_versions("dpd-distill", "torch", "numpy", "scikit-learn"),
        "hardware": hardware(torch.device("cpu")),
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
