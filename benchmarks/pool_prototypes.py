"""A bundle with the block means of its centroids for prototypes: what `dpd train --prototypes pooled` would have left.

    python benchmarks/pool_prototypes.py dpd_runtime/data/eurosat64.dpd pooled.dpd

All else, clusters and prompts included, stays, so that a difference between sets of the two is the prototypes' alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from dpd_runtime import load_bundle
from dpd_runtime.seal.reseal import write_changed
from dpd_train.prototypes import block_means, pooled_side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    table = json.loads(bundle.files["classes.json"])
    if table["prototype_kind"] != "centroid":
        parser.error(f"its prototypes are of kind {table['prototype_kind']!r}, not 'centroid'")
    pooled = {
        name: block_means(latents.astype(np.float32), pooled_side(latents.shape[2])).astype(latents.dtype)
        for name, latents in load(bundle.files["prototypes.safetensors"]).items()
    }
    classes = (json.dumps(table | {"prototype_kind": "pooled"}, indent=1) + "\n").encode()
    print(write_changed(bundle, args.out, {"prototypes.safetensors": save(pooled), "classes.json": classes}))


if __name__ == "__main__":
    main()
