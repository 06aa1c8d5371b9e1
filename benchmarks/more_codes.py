"""More codes, or more generated images? Sampled images that short matching turns into further codes.

    python benchmarks/more_codes.py EUROSAT/train --base THIRD --samples PLAIN.npy --work W --out more_codes.json

The embedded bundle's codes stay the first fifty of each class. Further ones begin as images that a base sampled
(`benchmarks/samplers.py`), encoded, and are matched in blocks of ten a class, each block alone, as many blocks as
there are. Students see the first images of each class, as in samplers.py; a code has one byte for each of its values
where it is stored.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from pilots import image_metrics, named_right, student_accuracies
from pixel_sets import trained_watchers
from result_file import tell
from scene_lists import read_parts

from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.bases.base import Base, decode_in_parts, frozen_decoder, load_base
from dpd_train.bases.latents import encode
from dpd_train.config import WATCHER_STEPS
from dpd_train.images import SceneSet
from dpd_train.prototypes.matching import Matching, Watcher, match_codes
from dpd_train.prototypes.matching.codes import LATER

CODES, SEED = 50, 0


def further(base: Base, watchers: list[Watcher], start: torch.Tensor, steps: int, work: Path) -> np.ndarray:
    """Scaled codes [classes, n, C, h, w] from a start of that shape."""
    decode = frozen_decoder(base)
    for number in range(start.shape[1] // BLOCK):
        path = work / f"block-{steps}-{number}.npy"
        if not path.exists():
            part = start[:, number * BLOCK : (number + 1) * BLOCK]
            settings = Matching(steps=steps, first=LATER, seed=SEED + 1 + number)
            state = work / f"block-{steps}-{number}.safetensors"
            found = match_codes(part, decode, watchers, settings, state=state)
            np.save(path, found.numpy())
            print("block", number, flush=True)
    return np.concatenate([np.load(work / f"block-{steps}-{n}.npy") for n in range(start.shape[1] // BLOCK)], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="nano")
    parser.add_argument("--samples", type=Path, required=True, help="uint8 [10 · n, H, W, 3], class by class")
    parser.add_argument("--steps", type=int, default=30, help="of each block")
    parser.add_argument("--longest", type=int, default=WATCHER_STEPS // 4, help="steps of the longest watchers")
    parser.add_argument("--ipc", default="100,200")
    parser.add_argument("--odd", action="store_true", help="judge by the images of odd number")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    train, held = read_parts(args.data, 100)
    base, bundle, classes = load_base(args.base), load_bundle(), len(train.classes)
    sizes = [int(size) for size in args.ipc.split(",")]
    samples = np.load(args.samples)
    samples = samples.reshape(classes, -1, *samples.shape[1:])[:, CODES : max(sizes)]
    start = encode(base.vae, np.concatenate(samples)) * float(base.vae.config.scaling_factor)
    start = start.reshape(classes, -1, *start.shape[1:])
    watchers = trained_watchers(args.work / f"watchers-{args.longest}", train, held, SEED, args.longest)
    codes = further(base, watchers, start, args.steps, args.work)
    first = np.stack([c.prototypes[np.arange(CODES) % len(c.prototypes)].astype(np.float32) for c in bundle.classes])
    together = np.concatenate([first, codes], axis=1)
    pixels = decode_in_parts(base, together.reshape(-1, *together.shape[2:]))
    np.save(args.work / f"images-{args.steps}.npy", pixels)
    images = SceneSet(train.classes, pixels, np.repeat(np.arange(classes), together.shape[1]), (), ())
    judges = held.only(np.arange(1 if args.odd else 0, len(held.images), 2))
    found = {
        "students": {str(ipc): student_accuracies("codes", ipc, images, judges) for ipc in sizes},
        "named right by the teacher": named_right(images),
        **image_metrics("codes", together.shape[1], images, train, judges),
    }
    print(json.dumps(found), flush=True)
    tell({"base": Path(args.base).name, "steps of a block": args.steps, "half": "odd" if args.odd else "even"} | found,
         args.out)  # fmt: skip


if __name__ == "__main__":
    main()
