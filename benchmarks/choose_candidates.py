"""Which of several sampled candidates should a set keep? Sets chosen by several rules, judged on the validation part.

    dpd train DATA --out RUN --val-per-class 100 --prototypes pooled; dpd export RUN --out RUN.dpd
    python benchmarks/choose_candidates.py RUN.dpd RUN DATA --val-per-class 100 --blocks 4 --candidates 10 \
        --rules best:1,best:3,best:10,floor:10,herding:10 --work W --out choose.json

best:N      of N candidates of each index the one with the best margin, as `dpd generate` does.
floor:N     the first of N candidates whose margin four of five real images of its class reach; else the best.
herding:N   of all N candidates above that floor those whose mean feature is nearest to the mean of the real class.

A set has all blocks: 10 images per class and block. Sampled candidates in --work are reused.
"""

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from result_file import tell

from dpd_eval import EvaluateConfig, evaluate
from dpd_eval.extractors.extractor import Extractor
from dpd_eval.extractors.own import own_extractor
from dpd_runtime import Bundle, load_bundle
from dpd_runtime.annotations import Float32, Images
from dpd_runtime.engines.engine import Provider
from dpd_runtime.generation.block import Block
from dpd_runtime.generation.compute import BlockComputer
from dpd_runtime.generation.decode import decode_latents
from dpd_runtime.generation.networks import load_networks
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.bases.base import load_base
from dpd_train.bases.latents import encode
from dpd_train.classifiers.network import load_classifier
from dpd_train.diffusion.consistency import real_floors
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, read_scenes
from dpd_train.images.structure import unit
from dpd_train.prototypes.herding import herded


@dataclass(frozen=True)
class Pool:
    """One class: images [candidates, n, H, W, 3] and margins [candidates, n]; the floor; features of real images."""

    images: Images
    margins: Float32
    floor: float
    real: Float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("run", type=Path, help="the run that the bundle was exported from")
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--rules", default="best:1,best:3,best:10,floor:10,herding:10")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(args.bundle)
    side = bundle.manifest.image_shape[0]
    scenes = read_scenes(
        args.data, part="train", resolution=side, held_out=HeldOut(val_per_class=args.val_per_class, split="names")
    )
    extractor = own_extractor(scenes)
    pools = judged_pools(args, bundle, scenes, extractor)
    config = EvaluateConfig(
        ipc=(args.blocks * BLOCK,), pairs=args.pairs, val_per_class=args.val_per_class, split="names", metrics=False
    )
    rows = {}
    for rule in args.rules.split(","):
        folder = args.work / rule.replace(":", "-")
        for name, pool in zip(scenes.classes, pools, strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number, pixels in enumerate(chosen(rule, pool, extractor)):
                Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
        result = evaluate([folder], config, train=args.data, test="val")
        rows[rule] = {arm.arm: list(arm.oa_runs) for arm in result.arms} | asdict(result.differences[0].difference)
    tell({"tested_on": "val", "ipc": args.blocks * BLOCK, "rules": rows}, args.out)


def judged_pools(args: argparse.Namespace, bundle: Bundle, scenes: SceneSet, extractor: Extractor) -> list[Pool]:
    base, judge = load_base(str(args.run / "pipeline")), load_classifier(args.run / "latent_classifier")
    latents = encode(base.vae, scenes.images) * float(base.vae.config.scaling_factor)
    floors = real_floors(judge, latents, torch.from_numpy(scenes.labels), len(scenes.classes))
    sampler = replace(bundle.manifest.sampler.sampled(), candidates=args.candidates)
    networks = load_networks(bundle, Provider("cpu", "asked for"), 1)
    computer, pools = BlockComputer(bundle, sampler, networks, 0), []
    for scene in bundle.classes:
        parts = []
        for block in (Block(scene, number) for number in range(args.blocks)):
            path = args.work / f"{scene.label}_{block.number}.npz"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = computer.noise(block)
                assert noise is not None, "a sampled block has noise"
                found, margins = computer._candidates([block], noise)
                calls = [found[first : first + BLOCK] for first in range(0, len(found), BLOCK)]
                images = [
                    decode_latents(part, block.rows(), bundle, networks.decoder, sampler.compute_batch, 0)
                    for part in calls
                ]
                np.savez(path, images=np.stack(images), margins=margins.reshape(args.candidates, BLOCK))
            parts.append(np.load(path))
        images, margins = (np.concatenate([part[key] for part in parts], axis=1) for key in ("images", "margins"))
        real = extractor.features(scenes.images[scenes.labels == scene.label])
        pools.append(Pool(images, margins, float(floors[scene.label]), real))
    return pools


def chosen(rule: str, pool: Pool, extractor: Extractor) -> Images:
    """The images [n, H, W, 3] that a rule keeps."""
    kind, _, count = rule.partition(":")
    images, margins = pool.images[: int(count)], pool.margins[: int(count)]
    columns = np.arange(margins.shape[1])
    if kind == "best":
        return images[margins.argmax(axis=0), columns]
    passes = margins >= pool.floor
    if kind == "floor":
        first = np.where(passes.any(axis=0), passes.argmax(axis=0), margins.argmax(axis=0))
        return images[first, columns]
    rows = np.flatnonzero(passes)
    if len(rows) < len(columns):
        rows = margins.ravel().argsort()[::-1][: len(columns)]
    flat = images.reshape(-1, *images.shape[2:])[rows]
    return flat[herded(unit(extractor.features(flat)), unit(pool.real).mean(axis=0), len(columns))]


if __name__ == "__main__":
    main()
