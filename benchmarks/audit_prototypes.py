"""Run the audit's prototype tests on each kind of prototype, with the shipped VAE.

python benchmarks/audit_prototypes.py EUROSAT/train --val-per-class 100 --out result.json

With --drop-too-near, prototypes that `dpd train` would drop are dropped first, medoids too.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from dpd_eval.audit.comparison import yardstick
from dpd_eval.audit.data import read_data
from dpd_eval.audit.encoder import find_encoder
from dpd_eval.audit.membership import Scores, membership_tests
from dpd_eval.audit.network_scores import prototype_score
from dpd_eval.audit.spaces import structure_space
from dpd_eval.audit.subject import open_subject
from dpd_runtime.bundle.bundle import embedded_bundle
from dpd_runtime.files import cache_folder
from dpd_train.bases.latents import encode_cached
from dpd_train.held_out import HeldOut
from dpd_train.prototypes.prototypes import at_full_size, find_prototypes
from dpd_train.prototypes.too_near import drop_too_near

CASES = (("centroid", 10), ("centroid", 100), ("pooled", 10), ("medoid", 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("--val-per-class", type=int, default=None)
    parser.add_argument("--ipc", type=int, default=50)
    parser.add_argument("--drop-too-near", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    subject = open_subject(embedded_bundle())
    encoder = find_encoder(subject, None)
    assert encoder is not None
    assert subject.model is not None
    data = read_data(
        given.train,
        None,
        classes=subject.classes,
        resolution=subject.side,
        held_out=HeldOut(val_per_class=given.val_per_class, split="names"),
    )
    both, cache = (data.train, data.held), cache_folder("latents")
    latents = [encode_cached(encoder.vae, s.images, s.hashes, cache).numpy() for s in both]
    ruler = yardstick(structure_space(), data)
    by_class = [latents[0][data.train.labels == label] for label in range(len(data.classes))]
    results = []
    for kind, k_min in CASES:
        found = find_prototypes(kind, by_class, count=given.ipc, k_min=k_min, seed=0)
        dropped = 0
        if given.drop_too_near:
            found, dropped = drop_too_near(found, *both, subject.model.decode, latents[0].shape[2])
        whole = [f.latents for f in found if f is not None]
        owners = np.repeat(np.arange(len(found)), [0 if f is None else len(f.latents) for f in found])
        prototypes = at_full_size(np.concatenate(whole), latents[0].shape[2])
        compared = ruler.compare(subject.model.decode(prototypes), owners)
        asked = [
            prototype_score(z[rows], s.labels[rows], prototypes, owners)
            for z, s, rows in zip(latents, both, data.members(4000), strict=True)
        ]
        tests = [ruler.replication(compared, "decoded prototypes"), ruler.nearer(compared, "decoded prototypes")]
        tests += membership_tests("prototypes", {"correlation": Scores(*asked)})
        results.append(
            {
                "kind": kind,
                "k_min": k_min,
                "prototypes": len(prototypes),
                "dropped": dropped,
                "tests": [t.to_dict() for t in tests],
            }
        )
        print(kind, k_min, *(f"{t.verdict} {t.value:.3f}" for t in tests if t.value is not None), flush=True)
    given.out.write_text(json.dumps({"cases": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
