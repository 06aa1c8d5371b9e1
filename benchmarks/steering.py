"""Measure whether prompts steer the images: two prompts of one class, the same noise, and the captioner's phrases.

    python benchmarks/steering.py ../shared/data/eurosat_rgb/train --base dpd_train/data/nano --out steering.json

For each class and each kind of attribute, the prompts name the two most frequent phrases of its training images.
Agreement is the share of images that have the phrase in their prompt. The control is the share that have it when the
prompt names the other phrase. If prompts have no effect, both shares are equal.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dpd_runtime.sampling.noise import NoiseStream
from dpd_runtime.sampling.sample import sample
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_train.bases.base import Base, decode_images, load_base, torch_denoise
from dpd_train.captions.attributes import COLOURS, STRUCTURES, TEXTURES, caption, describe_many
from dpd_train.captions.captions import embed
from dpd_train.held_out import HeldOut
from dpd_train.images import read_scenes

KINDS = {"colour": COLOURS, "texture": TEXTURES, "structure": STRUCTURES}


def frequent_pair(phrases: list[tuple[str, ...]], vocabulary: tuple[str, ...]) -> tuple[str, str] | None:
    """The two most frequent phrases of `vocabulary`, if a tenth of the images has each of them."""
    counts = Counter(word for words in phrases for word in words if word in vocabulary)
    common = [word for word, count in counts.most_common(2) if count >= 0.1 * len(phrases)]
    return (common[0], common[1]) if len(common) == 2 else None


def sampled(base: Base, name: str, prompt: str, count: int, guidance_scale: float, steps: int) -> npt.NDArray[np.uint8]:
    """`count` images whose noise depends only on class and index."""
    make_steps, advance = SOLVERS["dpm++2m"]
    table = embed(base.text_encoder, base.tokenizer, [prompt, ""]).numpy()
    shape = (base.unet.config.in_channels, base.unet.config.sample_size, base.unet.config.sample_size)
    latents = sample(
        torch_denoise(base),
        np.stack([NoiseStream(0, name, i, 0).normal(shape) for i in range(count)]),
        np.repeat(table[:1], count, axis=0),
        table[1],
        None,
        make_steps(base.schedule, steps),
        advance,
        base.schedule.prediction_type,
        BlockGuidance(guidance_scale=guidance_scale),
    )
    return decode_images(base, latents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="nano")
    parser.add_argument("--val-per-class", type=int, default=100)
    parser.add_argument("--images", type=int, default=20, help="per prompt")
    parser.add_argument("--guidance-scale", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(args.base)
    scenes = read_scenes(args.data, part="train", held_out=HeldOut(val_per_class=args.val_per_class, split="names"))
    words = describe_many(scenes.images)
    cases: list[dict[str, Any]] = []
    for label, name in enumerate(scenes.classes):
        own = [words[i] for i in np.flatnonzero(scenes.labels == label)]
        for kind, vocabulary in KINDS.items():
            pair = frequent_pair(own, vocabulary)
            if pair is None:
                continue
            images = [
                sampled(base, name, caption(name, (word,)), args.images, args.guidance_scale, args.steps)
                for word in pair
            ]
            found = [describe_many(part) for part in images]
            share = [[float(np.mean([word in phrases for phrases in part])) for part in found] for word in pair]
            cases.append(
                {
                    "class": name,
                    "kind": kind,
                    "phrases": pair,
                    "agreement": (share[0][0] + share[1][1]) / 2,
                    "control": (share[0][1] + share[1][0]) / 2,
                    "pixel_difference": float(np.abs(images[0].astype(float) - images[1]).mean()),
                }
            )
            print(json.dumps(cases[-1]), flush=True)
    result = {
        kind: {key: float(np.mean([case[key] for case in cases if case["kind"] == kind])) for key in keys}
        for keys in [("agreement", "control", "pixel_difference")]
        for kind in KINDS
        if any(case["kind"] == kind for case in cases)
    }
    text = json.dumps({"guidance_scale": args.guidance_scale, "kinds": result, "cases": cases}, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
