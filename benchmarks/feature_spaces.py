"""The feature spaces of `features.py`: each extractor's features of both parts, and what a base has seen of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_probes import scaled
from kept import digest, kept_arrays

from dpd_eval.extractors.cache import images_hash
from dpd_eval.extractors.choice import build_extractor
from dpd_runtime.annotations import Float32
from dpd_train.bases.folder import SHIPPED_BASE, base_folder
from dpd_train.images import SceneSet, fingerprint

MDFL = "mdfl"


@dataclass(frozen=True)
class Space:
    """One feature space: the parts' features [n, D] and [m, D], scaled. key: hash of the network and both parts."""

    train: Float32
    held: Float32
    description: str
    key: str


def spaces_of(names: dict[str, list[str]], train: SceneSet, held: SceneSet, work: Path) -> dict[str, list[Space]]:
    """Features by row, one space for each of its extractors."""
    parts = hashes(train, held)
    found: dict[str, list[Space]] = {}
    for row, own in names.items():
        found[row] = []
        for number, name in enumerate(own):
            extractor = build_extractor(name, train, cache=work / "extractors")
            key = {"extractor": extractor.description, **parts}
            arrays = kept_arrays(
                work / "spaces",
                f"{row}-{number}",
                key,
                lambda seen=extractor: {"train": seen.features(train.images), "held": seen.features(held.images)},
            )
            both = scaled(arrays["train"], arrays["held"])
            found[row].append(Space(*both, extractor.description, digest(key)))
    return found


def hashes(train: SceneSet, held: SceneSet) -> dict[str, str]:
    """Hashes of the pixels and labels of both parts."""
    return {name: images_hash(part.images, part.labels) for name, part in (("train", train), ("held", held))}


def base_record(name: str, train: SceneSet) -> dict[str, Any]:
    """What the base of `mdfl` was trained on, with labels in captions.

    exactly_these_images: null where it was trained on several sources, whose hash is that of all of them together.
    """
    base = name.removeprefix(MDFL).removeprefix(":") or SHIPPED_BASE
    path = base_folder(base) / "pretrain.json"
    data = json.loads(path.read_text(encoding="utf-8"))["data"] if path.is_file() else None
    pooled = data is None or len(data.get("sources") or ()) > 1
    same = None if pooled else data["sha256"] == fingerprint(train)["sha256"]
    return {"base": Path(base).name, "trained_on": data, "exactly_these_images": same}
