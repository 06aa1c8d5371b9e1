"""Share of images that the bundle's teacher puts into their own class, for a generated set or real images.

python benchmarks/agreement.py dpd_runtime/data/eurosat64.dpd distilled
python benchmarks/agreement.py dpd_runtime/data/eurosat64.dpd ../shared/data/eurosat_rgb/test
"""

import json
import sys
from pathlib import Path

import numpy as np

from dpd_runtime import load_bundle
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Provider
from dpd_train.images import SceneSet, read_scenes

BATCH = 50


def agreement(bundle: Bundle, scenes: SceneSet, threads: int = 1) -> dict[str, float]:
    """Share in [0, 1] for each class of `scenes`, which has the bundle's classes."""
    teacher = bundle.engine("classifier/model.onnx", Provider("cpu", "benchmark"), threads)
    labels = {scene.name: scene.label for scene in bundle.classes}
    shares = {}
    for index, name in enumerate(scenes.classes):
        pixels = scenes.images[scenes.labels == index].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        found = [teacher.run(images=pixels[i : i + BATCH]).argmax(axis=1) for i in range(0, len(pixels), BATCH)]
        shares[name] = float((np.concatenate(found) == labels[name]).mean())
    return shares


def main() -> None:
    bundle = load_bundle(sys.argv[1])
    scenes = read_scenes(Path(sys.argv[2]), part="all", resolution=bundle.manifest.image_shape[0])
    shares = agreement(bundle, scenes)
    print(json.dumps({"images": len(scenes.labels), "teacher": round(float(np.mean([*shares.values()])), 4)} | shares))


if __name__ == "__main__":
    main()
