"""Compare sampler settings or bundles by the validation accuracy of students trained on their sets.

    python benchmarks/sweep.py BUNDLE ../shared/data/eurosat_rgb/train --ipc 10 --pairs 4 --out sweep.json \
        --try "" --try guidance_scale=2 --try guidance_scale=2,guidance_from=0.2 --try candidates=1,prototype_scale=0
    python benchmarks/sweep.py FLOAT INT8 ../shared/data/eurosat_rgb/train --ipc 10 --pairs 20 --out int8.json

Each --try changes the bundle's own sampler, as `dpd export --sampler` does: steps, solver, candidates, timestep_power,
mean_noise_gain, and in the blocks from --from-block on guidance_scale, guidance_from, guidance_until, prototype_scale,
prototype_until. Pair i has generation seed i and student seed i in every setting, so that each setting is compared in
pairs with the first one. The teacher is the bundle's own. Results that --out already holds are reused.
"""

import argparse
import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import agreement

from dpd_eval.comparison.plan import Training, run_plan
from dpd_eval.statistics import overall_accuracy, paired_difference
from dpd_eval.students.cache import default_folder
from dpd_eval.students.recipe import load_recipe
from dpd_export.options import changed_sampler
from dpd_runtime.bundle.bundle import Bundle, load_bundle
from dpd_runtime.generation.generate import generate
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.held_out import HeldOut
from dpd_train.images import SceneSet, read_scenes


def regenerate(bundle: Bundle, sampler: Sampler, ipc: int, seed: int) -> SceneSet:
    images = list(generate(bundle, ipc=ipc, seed=seed, sampler=sampler, provider="cpu", threads=1))
    return SceneSet(
        classes=tuple(scene.name for scene in bundle.classes),
        images=np.stack([image.pixels for image in images]),
        labels=np.array([image.label for image in images], np.int64),
        hashes=(),
        rejected=(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-per-class", type=int, default=100)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--from-block", type=int, default=0)
    parser.add_argument("--try", dest="tries", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    held = read_scenes(args.data, part="val", held_out=HeldOut(val_per_class=args.val_per_class, split="names"))
    rows: dict[str, dict[str, Any]] = json.loads(args.out.read_text()) if args.out.exists() else {}
    for path, text in product(args.bundles, args.tries or [""]):
        bundle = load_bundle(path)
        sampler = changed_sampler(bundle.manifest.sampler, text, args.from_block)
        key = f"{path.name}, ipc {args.ipc}, blocks from {args.from_block}: {text or 'as the bundle has it'}"
        row = rows.setdefault(key, {"sampler": asdict(sampler), "bundle": bundle.hash, "oa": [], "agreement": []})
        for seed in range(len(row["oa"]), args.pairs):
            scenes = regenerate(bundle, sampler, args.ipc, seed)
            plan = [Training("set", "convnet", args.ipc, seed, ((scenes, np.arange(len(scenes.labels))),))]
            outcomes, _ = run_plan(plan, held, load_recipe("quick"), 1, default_folder(), lambda *_: None)
            row["oa"].append(overall_accuracy(outcomes[0].confusion))
            row["agreement"].append(float(np.mean([*agreement(bundle, scenes).values()])))
        row["evaluations_per_image"] = sampler.candidates * sampler.evaluations_per_latent(args.from_block)
        first = next(iter(rows.values()))
        pairs = min(len(first["oa"]), len(row["oa"]))
        row["against_first"] = asdict(paired_difference(row["oa"][:pairs], first["oa"][:pairs]))
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(f"{key}: OA {np.mean(row['oa']):.4f}, agreement {np.mean(row['agreement']):.3f}", flush=True)


if __name__ == "__main__":
    main()
