"""Where little time is best spent: on training watchers, or on matching codes in them?

    python benchmarks/watcher_steps.py DATA PIPELINE --start START --arms 600:100,150:100,150:300 --work W --out O.json

An arm is the steps of the longest watchers (`dpd train --watcher-steps`; all others are in proportion) and of matching.
All arms begin at the codes in START, the file checkpoints/start.safetensors of an unfinished run, and are decoded by
the VAE of PIPELINE. Watchers and codes in --work are used again. One matching an arm; students (`convnet`, recipe
`quick`) are judged on the validation part. `random` are random real images, other ones for each student. Times are
those of this process, with whatever else the machine does.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from late_blocks import judged
from pixel_sets import trained_watchers
from result_file import tell
from safetensors.torch import load_file
from scene_lists import read_parts

from dpd_eval.selection.methods import random_subset
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.bases.base import Base, decode_in_parts, frozen_decoder, load_base
from dpd_train.compute.checkpoint import load_state
from dpd_train.compute.device import hardware
from dpd_train.images import SceneSet
from dpd_train.prototypes.matching import Matching, Watcher, match_codes

SEED, STEPS = 0, 1000  # of a student


def matched(base: Base, start: torch.Tensor, watchers: list[Watcher], steps: int, state: Path) -> np.ndarray:
    """Images [classes · K, H, W, 3] of codes [classes, K, C, h, w] that are matched for so many steps."""
    settings = Matching(steps=steps, seed=SEED)
    codes = match_codes(start, frozen_decoder(base), watchers, settings, state=state)
    return decode_in_parts(base, codes.flatten(0, 1).numpy())


def finished(state: Path, steps: int, ipc: int) -> bool:
    """Whether `state` holds codes of all steps in all blocks, which need no watchers."""
    return state.exists() and load_state(state)[1]["step"] == steps * -(-ipc // BLOCK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--val-per-class", type=int, help="where DATA has no validation part of its own")
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--arms", default="600:100,150:100,150:300")
    parser.add_argument("--students", type=int, default=4, help="of each arm")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    train, held = read_parts(args.data, args.val_per_class)
    start = load_file(args.start)["codes"]
    ipc = start.shape[1]
    labels = np.repeat(np.arange(len(train.classes)), ipc)
    result: dict[str, Any] = {
        "hardware": hardware(torch.device("cpu")),
        "images": {"train": len(train.labels), "validation": len(held.labels)},
        "ipc": ipc,
        "arms": {},
    }
    watchers: dict[int, list[Watcher]] = {}
    for arm in args.arms.split(","):
        longest, steps = map(int, arm.split(":"))
        state = args.work / f"{longest}-{steps}.safetensors"
        began, seconds = time.monotonic(), dict[str, int]()
        anew = not finished(state, steps, ipc)
        if anew and longest not in watchers:
            watchers[longest] = trained_watchers(args.work / f"watchers-{longest}", train, held, SEED, longest)
            seconds["watchers"] = round(time.monotonic() - began)
        began = time.monotonic()
        pixels = matched(load_base(str(args.pipeline)), start, watchers.get(longest, []), steps, state)
        if anew:
            seconds["matching"] = round(time.monotonic() - began)
        parts = [SceneSet(train.classes, pixels, labels, (), ())] * args.students
        result["arms"][arm] = judged(arm, parts, held, STEPS) | {"seconds": seconds}
        tell(result, args.out)
    real = [train.only(random_subset(train.labels, ipc, seed)) for seed in range(args.students)]
    result["arms"]["random"] = judged("random", real, held, STEPS)
    tell(result, args.out)


if __name__ == "__main__":
    main()
