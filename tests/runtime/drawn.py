"""A generation whose pixels are drawn by a formula instead of networks, so that tests of everything else are fast."""

import json
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dpd_runtime import Bundle, Generation, Image, Output, embedded_bundle, load_bundle, write_set
from dpd_runtime.annotations import Pixels
from dpd_runtime.dataset.write import DistilledSet
from dpd_runtime.generation.block import Block
from dpd_runtime.generation.compute import BlockComputer

SIDE = 64
CLASSES = ("SeaLake", "Forest")


def pixels_of(label: int, index: int) -> Pixels:
    """Smooth waves that depend on label and index. No symmetry leaves them unchanged."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    phase = (index + 1) * x + (label + 2) * y * y + 0.3 * index
    return np.stack([127.5 + 120 * np.sin(phase + shift) for shift in (0, label, 2)], axis=-1).astype(np.uint8)


def draw(block: Block) -> list[Image]:
    scene = block.scene_class
    return [
        Image(pixels_of(scene.label, i), scene.name, scene.label, i, i % 3, f"{scene.name}, {i}", i % 2, 0.25 * i)
        for i in block.indices
    ]


class Drawn(Generation):
    """A Generation of the embedded bundle whose blocks are drawn by `draw`; `blocks_computed` counts them."""

    blocks_computed = 0

    def load(self) -> BlockComputer:
        drawing = self

        class Computer(BlockComputer):
            def __init__(self) -> None:
                pass

            def noise(self, block: Block) -> npt.NDArray[np.float32]:
                return np.zeros(0, np.float32)

            def images(self, block: Block, noise: npt.NDArray[np.float32]) -> list[Image]:
                drawing.blocks_computed += 1
                return draw(block)

        return Computer()


@lru_cache
def opened() -> Bundle:
    return load_bundle(embedded_bundle())


def drawn(ipc: int = 3, classes: tuple[str, ...] = CLASSES) -> Drawn:
    pytest.importorskip("onnxruntime")
    return Drawn(opened(), ipc=ipc, seed=7, classes=classes, provider="cpu", threads=1)


def write(out: Path, output: Output, ipc: int = 3, classes: tuple[str, ...] = CLASSES) -> DistilledSet:
    return write_set(drawn(ipc, classes), out, output=output)


def quick_bundle(folder: Path) -> Path:
    """The embedded bundle as a folder that samples all images, in one step with one candidate and the guidance of its
    golden images. The networks are the real ones."""
    with zipfile.ZipFile(embedded_bundle()) as archive:
        archive.extractall(folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    drawing = manifest["sampler"]["guidance"][-1] | {"from_block": 0}
    manifest["sampler"] |= {"steps": 1, "candidates": 1, "guidance": [drawing]}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def need(name: str) -> None:
    """Skip the test if the package that a format needs is not installed."""
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
