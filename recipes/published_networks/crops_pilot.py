"""Ways in which a published network watches codes, at equal core time (a pilot).

    python crops_pilot.py EUROSAT/train --arm whole --minutes 20 --watch W/lite0 --work W
    python crops_pilot.py EUROSAT/train --arm crops --minutes 20 --watch W/lite0 --work W
    python crops_pilot.py EUROSAT/train --arm linear --minutes 20 --watch W/lite0 --work W

The embedded bundle's first ten codes of each class are matched on through the shipped decoder (or --decoder), by the
published networks of --watch alone, one of them in each step (no own watchers: their training and statistics would take
45 minutes of one core). The core time counts the process's own CPU time, from before the statistics on; the rate falls
along a cosine over it, as in `match_codes`, whose views, weights and loss are used.

whole    today's statistics, of whole images enlarged to 224 px
crops    the same statistics, of one random crop of 112 px for each image, of the image enlarged to 224 px; the training
         images' statistics are those of crops too
linear   the gradient of random linear classifiers on the network's standardised features, of whole images; cosine
         distance to the gradient that the training images give (Cazenavette et al. 2025, 2511.16674)
linear-crops   the same on crops
--calibrate prints the time of two steps and ends. Codes go to W/ARM[-SUFFIX]-MINUTES.codes.safetensors.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pretrained_watcher import first_codes
from safetensors.torch import load_file, save_file
from scene_lists import read_parts
from torch.nn import functional as F

from dpd_eval.selection import random_subset
from dpd_runtime.bundle import load_bundle
from dpd_train import matching as statistics_module
from dpd_train.bases import frozen_decoder, load_base
from dpd_train.classifiers import labelled
from dpd_train.compute import step_generator
from dpd_train.matching import CALL, FIRST, LAST_RATE, Matching, Statistics, View, measure, moment_losses, ridge_loss
from dpd_train.published import open_published

SEED, SIDE, CROP, CLASSIFIERS = 0, 224, 112, 8
CPU = torch.device("cpu")
Features = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Target:
    """What codes are matched in: a network's features, and the training images' statistics or features in it."""

    features: Features
    statistics: Statistics
    real: torch.Tensor | None  # standardised [n, F], for linear classifiers
    labels: torch.Tensor


def seen_at(folder: str, crops: bool) -> Features:
    """Features of images [n, 3, H, W] in [-1, 1]: of them enlarged, or of one random crop of each enlarged image."""
    model = open_published(folder)
    model.colours.side = None
    drawn = torch.Generator().manual_seed(SEED)

    def see(images: torch.Tensor) -> torch.Tensor:
        large = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        if crops:
            corners = torch.randint(SIDE - CROP + 1, (len(images), 2), generator=drawn).tolist()
            large = torch.stack([x[:, i : i + CROP, j : j + CROP] for x, (i, j) in zip(large, corners, strict=True)])
        return model.features(large)

    return see


def gradients(z: torch.Tensor, labels: torch.Tensor, classifiers: torch.Tensor) -> torch.Tensor:
    """Gradients [classifiers, classes · (F + 1)] of the mean cross-entropy, each class with equal weight.

    Args:
        z: standardised features [n, F]. classifiers: [k, classes, F + 1].
    """
    z = torch.cat([z, z.new_ones(len(z), 1)], dim=1)
    count = classifiers.shape[1]
    wanted = F.one_hot(labels, count).float()
    weights = (1 / wanted.sum(0).clamp_min(1) / count)[labels][:, None]
    found = [((z @ w.T).softmax(1) - wanted).mul(weights).T @ z for w in classifiers]
    return torch.stack(found).flatten(1)


def linear_loss(z: torch.Tensor, labels: torch.Tensor, target: Target, generator: torch.Generator) -> torch.Tensor:
    """Mean cosine distance of the gradients that codes and training images give CLASSIFIERS random classifiers."""
    assert target.real is not None
    shape = (CLASSIFIERS, len(target.statistics.class_means), z.shape[1] + 1)
    classifiers = torch.randn(shape, generator=generator) / math.sqrt(z.shape[1])
    with torch.no_grad():
        wanted = gradients(target.real, target.labels, classifiers)
    return (1 - F.cosine_similarity(gradients(z, labels, classifiers), wanted, dim=1)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arm", choices=("whole", "crops", "linear", "linear-crops"), required=True)
    parser.add_argument("--minutes", type=float, required=True, help="of one core, statistics and all")
    parser.add_argument("--watch", required=True, help="folders, separated by commas")
    parser.add_argument("--per-class", type=int, default=100, help="training images behind the statistics")
    parser.add_argument("--views", type=int, default=1000, help="least number of views behind the statistics")
    parser.add_argument("--decoder", type=Path, help="weights that decoder_pilot.py wrote")
    parser.add_argument("--suffix", default="")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    statistics_module.VIEWS = args.views
    train, _ = read_parts(args.data, 100)
    base = load_base("nano")
    if args.decoder:
        base.vae.load_state_dict(base.vae.state_dict() | load_file(args.decoder))
    decode = frozen_decoder(base)
    start = first_codes(load_bundle()).flatten(0, 1)
    classes, matching = len(train.classes), Matching(steps=0, seed=SEED)
    labels = torch.arange(classes).repeat_interleave(len(start) // classes)
    images, owners = labelled(train)
    rows = torch.from_numpy(random_subset(train.labels, args.per_class, SEED))
    images, owners = images[rows], owners[rows]

    began, budget = time.process_time(), 60 * args.minutes
    targets = []
    for folder in args.watch.split(","):
        features = seen_at(folder, "crops" in args.arm)
        found, real = measure(features, images, owners, classes, SEED, CPU), None
        if "linear" in args.arm:
            with torch.no_grad():
                view = View(step_generator(SEED, 10**6), len(images), images.shape[-1], CPU)
                shown = view(images)
                real = torch.cat([found.standard(features(part)) for part in shown.split(50)])
        targets.append(Target(features, found, real, owners))
    counted = time.process_time() - began
    print(f"statistics: {counted:.0f} s of core time", flush=True)

    free, step = start.clone().requires_grad_(), 0
    optimizer = torch.optim.Adam([free], betas=(0.9, 0.95))
    while (share := (time.process_time() - began) / budget) < 1:
        while (args.work.parent / "PAUSE").exists():
            time.sleep(5)
        generator = step_generator(SEED, step)
        target = targets[int(torch.randint(len(targets), (1,), generator=generator))]
        at = time.process_time()
        shown = torch.cat([decode(part) for part in free.split(CALL)]).clamp(-1, 1)
        seen = shown.detach().requires_grad_()
        view = View(generator, len(seen), seen.shape[-1], CPU)
        z = target.statistics.standard(target.features(view(seen)))
        if target.real is not None:
            loss = linear_loss(z, labels, target, generator)
        else:
            by_class = z.unflatten(0, (classes, -1))
            means, deviations = moment_losses(by_class, target.statistics)
            loss = FIRST.means * means + FIRST.deviations * deviations
            loss = loss + FIRST.ridge * ridge_loss(by_class, target.statistics)
        loss.backward()  # type: ignore[no-untyped-call]
        near = FIRST.near_start * F.mse_loss(free, start)
        optimizer.zero_grad()
        torch.autograd.backward([shown, near], [seen.grad, None])
        cosine = 0.5 + 0.5 * math.cos(math.pi * share)
        for group in optimizer.param_groups:
            group["lr"] = matching.rate * (LAST_RATE + (1 - LAST_RATE) * cosine)
        optimizer.step()
        step += 1
        spent = time.process_time() - at
        print(f"{args.arm}: step {step}, {100 * share:.0f} %, loss {float(loss):.4f}, {spent:.1f} s", flush=True)
        if args.calibrate and step == 2:
            return
    label = f"{args.arm}{args.suffix}-{args.minutes:g}"
    save_file({"codes": free.detach().unflatten(0, (classes, -1))}, args.work / f"{label}.codes.safetensors")
    record = {"arm": args.arm, "arguments": {k: str(v) for k, v in vars(args).items()}, "steps": step}
    record |= {"statistics_core_seconds": round(counted, 1), "seed": SEED, "last loss": round(float(loss), 4)}
    (args.work / f"{label}.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
