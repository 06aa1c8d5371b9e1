"""Scenes of any number of bands whose classes differ in the last band alone."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from dpd_runtime.bands import Band, physical
from dpd_train.scene_set import SceneSet

COUNTS = (1, 2, 4, 13)
CLASSES = ("Dark", "Light", "Middle")
LEVELS = np.array([50, 200, 125])


def bands_of(count: int) -> tuple[Band, ...]:
    return tuple(Band(f"B{number}", 0.0, 1000.0 * number) for number in range(1, count + 1))


def scenes(count: int, of_class: int, side: int = 16, seed: int = 0) -> SceneSet:
    """Noise around grey in every band but the last, and around the class's level in that one."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CLASSES)), of_class)
    centres = np.full((len(labels), 1, 1, count), 128)
    centres[..., -1] = LEVELS[labels][:, None, None]
    images = rng.normal(centres, 20, (len(labels), side, side, count)).clip(0, 255).astype(np.uint8)
    return SceneSet(CLASSES, images, labels, tuple(f"{seed} {row}" for row in range(len(labels))), ())


def write_real(root: Path, count: int, of_class: int, seed: int) -> Path:
    """Class folders of GeoTIFFs as a satellite's product has them: uint16, ten times the grey levels of `scenes`."""
    drawn = scenes(count, of_class, seed=seed)
    for row, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
        values = np.moveaxis(image.astype(np.uint16) * 10, -1, 0)
        _write(root / CLASSES[label] / f"{CLASSES[label]}_{row:05d}.tif", values, bands_of(count))
    return root


def write_distilled(root: Path, bands: Sequence[Band], of_class: int, seed: int) -> Path:
    """A set as `dpd generate` writes it: float32 of physical values, and dataset.json with the bands."""
    drawn = scenes(len(bands), of_class, seed=seed)
    for row, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
        values = np.moveaxis(physical(image, bands), -1, 0)
        _write(root / CLASSES[label] / f"{CLASSES[label]}_{row % of_class:05d}.tif", values, bands)
    counts = dict.fromkeys(CLASSES, of_class)
    record = {"set_hash": "0" * 64, "counts": counts, "bands": [band.to_dict() for band in bands]}
    (root / "dataset.json").write_text(json.dumps(record))
    return root


def _write(path: Path, values: npt.NDArray[Any], bands: Sequence[Band]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, side, _ = values.shape
    form = {"driver": "GTiff", "width": side, "height": side, "count": count, "dtype": values.dtype}
    with warnings.catch_warnings(action="ignore"), rasterio.open(path, "w", **form) as file:
        file.write(values)
        file.descriptions = [band.name for band in bands]
