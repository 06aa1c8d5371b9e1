"""Skies with masks: what the VAE costs, and what codes are worth that know where something lies (a pilot).

    python -m dpd_neighbours.masks pack TRAIN/images TRAIN/masks --values 0,1,2 --out scenes
    dpd train scenes --bands all --stretch 0:255 --ipc 17 ... --out run
    python benchmarks/mask_places.py scenes --run run --real TRAIN/images TRAIN/masks --values 0,1,2 --work W --out O

real       random real pairs
decoded    the same pairs through the run's VAE: no code does better
start      Gaussian codes around the mean latents of a class at each place, and no matching
placed     codes that begin there and are matched; a further watcher sees the mean of each cell of a 4 x 4 grid
grid       the same from Gaussian codes without places

Segmenters learn from --numbers pairs and are tested on the training images that the run held out, so that nothing is
chosen by test images.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pixel_sets import trained_watchers
from result_file import tell
from torch.nn import functional as F

from dpd_eval.statistics import t_interval
from dpd_neighbours.masks import Masks, mask_values, mean_iou, parted
from dpd_neighbours.segmenter import segment, train_segmenter
from dpd_runtime.annotations import Images
from dpd_train.bases.base import decode_in_parts, load_base
from dpd_train.bases.latents import encode
from dpd_train.classifiers.training import labelled
from dpd_train.compute.device import hardware
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, read_scenes
from dpd_train.prototypes.matching import Matching, Standard, Statistics, Watcher, gaussian_codes, match_codes
from dpd_train.reading import parse_reading

GRID, SEED = 4, 0


def places(images: torch.Tensor) -> torch.Tensor:
    """The mean of each cell [n, C · GRID²] of images [n, C, H, W]."""
    return F.adaptive_avg_pool2d(images, GRID).flatten(1)


def seen_places(images: torch.Tensor, labels: torch.Tensor, classes: int) -> Watcher:
    """The watcher of places, with statistics of training images [n, C, H, W]."""
    values = places(images)
    scale, mean = torch.std_mean(values, dim=0)
    z = [((values - mean) / (scale + 1e-3))[labels == label] for label in range(classes)]
    moment = torch.stack([part.T @ part / len(part) for part in z]).mean(0)
    statistics = Statistics(
        Standard(mean, scale + 1e-3), torch.stack([p.mean(0) for p in z]), torch.stack([p.std(0) for p in z]), moment
    )
    return Watcher(lambda shown: (places(shown), None), statistics, extra=True)


def around_means(latents: torch.Tensor, labels: torch.Tensor, classes: int, count: int) -> torch.Tensor:
    """Gaussian codes [classes, count, C, h, w] whose mean is that of a class at each place."""
    means = torch.stack([latents[labels == label].mean(0) for label in range(classes)])
    return means[:, None] + gaussian_codes(latents - means[labels], labels, classes, count, SEED)


def matched(base: Any, start: torch.Tensor, watchers: list[Watcher], steps: int, state: Path) -> torch.Tensor:
    scale = float(base.vae.config.scaling_factor)
    setting = Matching(steps=steps, seed=SEED)
    return match_codes(start, lambda z: base.vae.decode(z / scale).sample, watchers, setting, state=state)


def judged(pairs: list[tuple[Images, Masks]], held: tuple[Images, Masks], count: int) -> dict[str, Any]:
    """Mean IoU in %, a segmenter for each of `pairs`."""
    scores = [
        100 * mean_iou(held[1], segment(train_segmenter(*one, count, 1000, seed), held[0]), count)
        for seed, one in enumerate(pairs)
    ]
    interval = t_interval(scores)
    return {"iou": scores, "mean": interval.mean, "low": interval.low, "high": interval.high}


def first_of_each(codes: torch.Tensor) -> np.ndarray:
    """[classes, count, ...] → the first of each class, then the second ones."""
    return codes.transpose(0, 1).flatten(0, 1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--values", required=True)
    parser.add_argument("--count", type=int, default=17, help="codes of each class")
    parser.add_argument("--numbers", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--matching-steps", type=int, default=200, help="of each block")
    parser.add_argument("--watcher-steps", type=int, default=150)
    parser.add_argument("--segmenters", type=int, default=5)
    parser.add_argument("--arms", default="real,decoded,start,placed,grid")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    values, base = mask_values(args.values), load_base(str(args.run / "pipeline"))
    base.vae.requires_grad_(False)
    reading = parse_reading("all", "0:255")
    train, held = (
        read_scenes(args.scenes, part=part, resolution=64, held_out=HeldOut(), reading=reading)
        for part in ("train", "val")
    )
    classes, labels = len(train.classes), torch.from_numpy(train.labels)
    scale = float(base.vae.config.scaling_factor)

    def random(count: int) -> list[SceneSet]:
        drawn = [np.random.default_rng(seed).permutation(len(train.labels))[:count] for seed in range(args.segmenters)]
        return [train.only(rows.tolist()) for rows in drawn]

    def decoded(latents: np.ndarray) -> Images:
        return decode_in_parts(base, latents)

    latents = encode(base.vae, train.images) * scale
    starts = {
        "start": lambda: around_means(latents, labels, classes, args.count),
        "grid": lambda: gaussian_codes(latents, labels, classes, args.count, SEED),
    }
    codes: dict[str, Images] = {}
    result: dict[str, Any] = {"hardware": hardware(torch.device("cpu")), "arms": {}}
    for arm in args.arms.split(","):
        if arm in ("placed", "grid"):
            watchers = trained_watchers(args.work / "watchers", train, held, SEED, args.watcher_steps)
            watchers.append(seen_places(*labelled(train), classes))
            start, state = starts["grid" if arm == "grid" else "start"](), args.work / f"{arm}.safetensors"
            codes[arm] = decoded(first_of_each(matched(base, start, watchers, args.matching_steps, state)))
        elif arm == "start":
            codes[arm] = decoded(first_of_each(starts[arm]()))
        for number in args.numbers:
            if arm == "real":
                pairs = [parted(one.images) for one in random(number)]
            elif arm == "decoded":
                pairs = [parted(decoded((encode(base.vae, one.images) * scale).numpy())) for one in random(number)]
            else:
                pairs = [parted(codes[arm][:number])] * args.segmenters
            found = judged(pairs, parted(held.images), len(values))
            result["arms"].setdefault(arm, {})[str(number)] = found
            tell(result, args.out)


if __name__ == "__main__":
    main()
