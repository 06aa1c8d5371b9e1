"""How many images the classifier of a release names right: several releases of the same statistics for each epsilon.

    python benchmarks/released_classifier.py EUROSAT/train --base benchmarks/public_base --public UCMERCED/train \\
        --epsilon 10 1 --work W --out released_classifier.json

Watchers are trained on the public images once. The private images are measured once for each epsilon, as its width
decides the projections; then noise is drawn and added --releases times, each time as `dpd distill --dp` releases once.
Tested on the validation part of DATA (--val-per-class of the last names), in halves: of its images at even places, and
at odd ones. Nothing is chosen here; the earlier choices of settings looked at the whole part. The figures tell about
DATA, so they have no guarantee.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_file import tell

from dpd_eval.statistics import t_interval
from dpd_runtime.machine.versions import package_versions
from dpd_train.bases.base import load_base
from dpd_train.bases.folder import base_folder
from dpd_train.classifiers.training import labelled
from dpd_train.compute.device import hardware
from dpd_train.held_out import HeldOut
from dpd_train.images import read_scenes, to_float
from dpd_train.prototypes.private.apart import check_base_apart, check_images_apart, check_places_apart
from dpd_train.prototypes.private.budget import Budget, check_budget, spent
from dpd_train.prototypes.private.classifier import ReleasedClassifier
from dpd_train.prototypes.private.codes import suited_watchers
from dpd_train.prototypes.private.public import public_watchers, read_public
from dpd_train.prototypes.private.release import totals_of, with_noise

CALL = 100


@torch.no_grad()
def right(classifier: ReleasedClassifier, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Accuracy in % on all images [n, 3, H, W], and on either half of them."""
    named = torch.cat([classifier(part).argmax(1) for part in images.split(CALL)]) == labels
    halves = {"all": named, "even": named[::2], "odd": named[1::2]}
    return {name: round(100 * float(half.float().mean()), 2) for name, half in halves.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", required=True, help="that has not seen DATA; it gives the size of the images")
    parser.add_argument("--public", type=Path, required=True)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[10.0, 1.0])
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--releases", type=int, default=3)
    parser.add_argument("--val-per-class", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="folder for the watchers, which are kept")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    side, held_out = load_base(args.base).resolution, HeldOut(val_per_class=args.val_per_class, split="names")
    private, val = (read_scenes(args.data, part=p, resolution=side, held_out=held_out) for p in ("train", "val"))
    check_base_apart(args.base, base_folder(args.base), private.classes)
    check_places_apart(args.data, args.public)
    public, device = read_public(args.public, side, args.seed), torch.device("cpu")
    check_images_apart(args.public, private, public)
    args.work.mkdir(parents=True, exist_ok=True)
    networks = public_watchers(args.work, public, args.seed, lambda done, total: None, device=device)
    counts = torch.from_numpy(np.bincount(private.labels))
    tested = to_float(torch.from_numpy(val.images)), torch.from_numpy(val.labels)
    result: dict[str, Any] = {
        "hardware": hardware(device),
        "versions": package_versions("dpd-distill", "torch"),
        "public": "/".join(args.public.resolve().parts[-2:]),
        "images": len(private.labels),
        "tested_on": f"{len(val.labels)} validation images",
        "delta": args.delta,
        "seed": args.seed,
        "epsilons": [],
    }
    for epsilon in args.epsilon:
        budget = Budget(epsilon=epsilon, delta=args.delta)
        check_budget(budget, dict(zip(private.classes, counts.tolist(), strict=True)))
        watchers = suited_watchers(public, networks, budget, int(counts.min()), args.seed)
        totals, found = totals_of(watchers, *labelled(private), counts, lambda done, total: None), []
        for _ in range(args.releases):
            released = with_noise(watchers, totals, counts, budget)
            found.append(right(ReleasedClassifier(networks, released).eval(), *tested))
        interval = t_interval([one["all"] for one in found])
        result["epsilons"].append(
            {
                "epsilon": epsilon,
                "accountant_epsilon": spent(released.sensitivity, released.noise, args.delta),
                "releases": found,
                "mean": round(interval.mean, 2),
                "interval": [None if end is None else round(end, 2) for end in (interval.low, interval.high)],
            }
        )
        tell(result, args.out)


if __name__ == "__main__":
    main()
