"""What a published backbone learns from codes, and what codes become when one watches them (a pilot).

    python benchmarks/imagenet_backbone.py W/lite0 && python benchmarks/imagenet_backbone.py W/lite1 --size 1
    python benchmarks/pretrained_watcher.py EUROSAT/train --watch W/lite0 --judges W/lite0,W/lite1 --work W --out o.json

Ten codes of each class, of the embedded bundle (matching 0) and of those in benchmarks/matched/ (1 to 4), the
validation part's every second image, students of 1,000 steps.

random   as many real images, other ones for each student
rebuilt  the same images, encoded and decoded by the base's VAE
stored   codes as they are, of each of --matchings
on       the same, matched on for --steps by the usual networks (trained for a quarter of their steps)
watched  the same, and at each step a backbone of --watch in place of one of them

Judges: linear probes on each backbone of --judges, and `convnet` from scratch.
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from late_blocks import judged
from pixel_sets import trained_watchers
from result_file import tell
from scene_lists import read_parts

from dpd_eval.selection.methods import random_subset
from dpd_eval.students.backbone import open_backbone
from dpd_eval.students.probe import HubBody, Probe
from dpd_runtime.annotations import Images
from dpd_runtime.bundle.bundle import Bundle, load_bundle
from dpd_train.bases.base import decode_in_parts, frozen_decoder, load_base
from dpd_train.bases.latents import encode
from dpd_train.bases.published import open_published
from dpd_train.classifiers.training import labelled
from dpd_train.compute.device import hardware
from dpd_train.config import WATCHER_STEPS
from dpd_train.images import SceneSet, to_float
from dpd_train.prototypes.matching import Matching, Watcher, match_codes, measure, seeing_only

IPC, SEED, CALL = 10, 0, 50
MATCHED = Path(__file__).parent / "matched"
CPU = torch.device("cpu")


def first_codes(bundle: Bundle) -> torch.Tensor:
    """Scaled codes [classes, IPC, C, h, w]."""
    return torch.stack([torch.from_numpy(c.prototypes[:IPC].astype(np.float32)) for c in bundle.classes])


def watching(folder: str, train: SceneSet, per_class: int, side: int | None) -> Watcher:
    """A backbone as a watcher, with statistics of views of `per_class` random training images of each class.

    Args:
        side: of the images that it sees; None for its own.
    """
    model, (images, labels) = open_published(folder), labelled(train)
    model.colours.side = side or model.colours.side
    rows = torch.from_numpy(random_subset(train.labels, per_class, SEED))
    statistics = measure(model.features, images[rows], labels[rows], len(train.classes), SEED, CPU)
    return Watcher(seeing_only(model.features), statistics, extra=True)


def probed(folder: str, parts: list[Images], labels: np.ndarray, held: SceneSet) -> list[float]:
    """Accuracy on `held` of a linear probe on the backbone, for each of `parts` [n, H, W, 3] with `labels` [n]."""
    backbone = open_backbone(folder, len(held.classes))
    found = []
    for images in parts:
        probe = Probe(HubBody(backbone), backbone.last.in_features, len(held.classes)).eval()
        probe.fit(images, labels, None)
        with torch.no_grad():
            features = known.setdefault(
                folder, torch.cat([probe.body(x) for x in to_float(torch.from_numpy(held.images)).split(CALL)])
            )
            guessed = probe.last(features).argmax(1).numpy()
        found.append(float((guessed == held.labels).mean()))
    return found


known: dict[str, torch.Tensor] = {}  # of each judge, the features of held images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--watch", default="", help="folders, separated by commas")
    parser.add_argument("--judges", required=True)
    parser.add_argument("--arms", default="random,rebuilt,stored,on,watched")
    parser.add_argument("--matchings", default="0")
    parser.add_argument("--steps", type=int, default=100, help="of matching")
    parser.add_argument("--per-class", type=int, default=300, help="images behind the backbone's statistics")
    parser.add_argument("--side", type=int, help="of the images that --watch sees, in pixels; its own unless given")
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, held = read_parts(args.data, 100)
    even = held.only(np.arange(0, len(held.labels), 2))
    base = load_base("nano")
    paths = [None, *sorted(MATCHED.glob("*.dpd"))]
    starts = {int(number): first_codes(load_bundle(paths[int(number)])) for number in args.matchings.split(",")}
    labels = np.repeat(np.arange(len(train.classes)), IPC)
    real = [train.images[random_subset(train.labels, IPC, seed)] for seed in range(args.students)]
    result: dict[str, Any] = {"hardware": hardware(CPU), "arms": {}}

    def matched_on(name: str, folders: list[str]) -> list[Images]:
        own = trained_watchers(args.work / f"watchers-{WATCHER_STEPS // 4}", train, held, SEED, WATCHER_STEPS // 4)
        watchers = [*own, *(watching(folder, train, args.per_class, args.side) for folder in folders)]
        sides = [str(args.side)] if folders and args.side else []
        name = "-".join([name, *(Path(folder).name for folder in folders), *sides])
        setting, decode, found = Matching(steps=args.steps, seed=SEED), frozen_decoder(base), []
        for number, start in starts.items():
            state = args.work / f"{name}-{number}-{args.steps}.safetensors"
            tell_step = partial(print, name, number, flush=True)
            found.append(match_codes(start, decode, watchers, setting, tell_step, state=state))
        return pixels(found)

    def pixels(sets: Iterable[torch.Tensor]) -> list[Images]:
        return [decode_in_parts(base, codes.flatten(0, 1).numpy()) for codes in sets]

    makers: dict[str, Callable[[], list[Images]]] = {
        "random": lambda: real,
        "rebuilt": lambda: [
            decode_in_parts(base, (encode(base.vae, part) * float(base.vae.config.scaling_factor)).numpy())
            for part in real
        ],
        "stored": lambda: pixels(starts.values()),
        "on": lambda: matched_on("on", []),
        "watched": lambda: matched_on("watched", args.watch.split(",")),
    }
    for arm in args.arms.split(","):
        parts = makers[arm]()
        judges = {Path(folder).name: probed(folder, parts, labels, even) for folder in args.judges.split(",")}
        sets = [SceneSet(train.classes, images, labels, (), ()) for images in parts]
        students = judged(arm, (sets * args.students)[: max(args.students, len(sets))], even, 1000)
        result["arms"][arm] = judges | {"convnet": students["all"]}
        print(arm, result["arms"][arm], flush=True)
        tell(result, args.out)


if __name__ == "__main__":
    main()
