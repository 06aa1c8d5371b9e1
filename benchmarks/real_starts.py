"""Codes matched from latents of real images: can the attack on codes tell which images they began as?

    python benchmarks/real_starts.py EUROSAT/train --val-per-class 100 --work W --out real_starts.json

A positive control of the audit's test of prototypes: matching begins at ten random training images of each class, with
the watchers of a run of this seed, and moves them as `dpd train` moves sampled images (which then replaces codes that
are too near to an image). The attack is asked about those images before, where it finds each code's own latent, and
after, where it must FAIL them. Others are the validation part.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import digest
from pixel_sets import trained_watchers
from result_file import tell
from scene_lists import read_parts

from dpd_eval.audit.membership import Scores, membership_tests
from dpd_eval.audit.network_scores import prototype_score
from dpd_runtime.annotations import Float32
from dpd_train.bases.base import frozen_decoder, load_base
from dpd_train.bases.folder import SHIPPED_BASE
from dpd_train.bases.latents import encode_cached, weights_hash
from dpd_train.compute.device import hardware
from dpd_train.images import fingerprint
from dpd_train.prototypes.matching import Matching, match_codes

IPC = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-per-class", type=int)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="private: holds latents of real images")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, held = read_parts(args.data, args.val_per_class)
    base, cache = load_base(str(SHIPPED_BASE)), args.work / "latents"
    latents, others = (encode_cached(base.vae, s.images, s.hashes, cache).numpy() for s in (train, held))
    rng, classes = np.random.default_rng(args.seed), len(train.classes)
    rows = [np.sort(rng.permutation(np.flatnonzero(train.labels == label))[:IPC]) for label in range(classes)]
    start: Float32 = np.stack([latents[of_class] for of_class in rows])
    setting = Matching(steps=args.steps, seed=args.seed)
    key = {
        "setting": asdict(setting),
        "base": weights_hash(base.vae),
        "data": fingerprint(train),
        "rows": np.stack(rows).tolist(),
    }
    codes = match_codes(
        torch.from_numpy(start),
        frozen_decoder(base),
        trained_watchers(args.work / f"watchers{args.seed}", train, held, args.seed),
        setting,
        lambda step, steps: print(step, steps, flush=True) if step % 50 == 0 else None,
        state=args.work / f"real-starts-{digest(key)}.safetensors",
    ).numpy()
    known, owners = np.concatenate(rows), np.repeat(np.arange(classes), IPC)

    def asked(moment: str, now: Float32) -> dict[str, Any]:
        flat = now.reshape(-1, *now.shape[2:])
        members = prototype_score(latents[known], owners, flat, owners)
        scores = Scores(members, prototype_score(others, held.labels, flat, owners))
        tests = membership_tests("prototypes", {"correlation": scores})
        return {"moment": moment, "tests": [test.to_dict() for test in tests]}

    result = {
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "hardware": hardware(torch.device("cpu")),
        "moved": float(np.sqrt(np.square(codes - start).mean() / np.square(start).mean())),
        "moments": [asked("before", start), asked("after", codes)],
    }
    tell(result, args.out)


if __name__ == "__main__":
    main()
