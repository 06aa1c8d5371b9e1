"""Share of a set's images which the bundle's teacher puts into their own class.

python benchmarks/agreement.py distilled dpd_runtime/data/eurosat64.dpd
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dpd_runtime import load_bundle
from dpd_runtime.engines import Provider


def main() -> None:
    out, bundle = Path(sys.argv[1]), load_bundle(sys.argv[2])
    teacher = bundle.engine("classifier/model.onnx", Provider("cpu", "benchmark"))
    agreement = {}
    for scene in bundle.classes:
        pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((out / scene.name).glob("*.png"))])
        inputs = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        agreement[scene.name] = float((teacher.run(images=inputs).argmax(axis=1) == scene.label).mean())
    print(json.dumps({"teacher_agreement": round(float(np.mean(list(agreement.values()))), 4), "classes": agreement}))


if __name__ == "__main__":
    main()
