"""A generation whose pixels are drawn by a formula instead of networks, so that tests of everything else are fast."""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save

from dpd_runtime import Bundle, Generation, Image, Output, embedded_bundle, load_bundle, write_set
from dpd_runtime.annotations import Pixels
from dpd_runtime.archive import write_zip
from dpd_runtime.dataset import DistilledSet
from dpd_runtime.generation import BlockComputer
from dpd_runtime.networks import Block

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

            def together(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
                return ([block] for block in blocks)

            def images(self, blocks: Sequence[Block], noises: object) -> Iterator[list[Image]]:
                drawing.blocks_computed += len(blocks)
                yield from map(draw, blocks)

        return Computer()


@lru_cache
def opened() -> Bundle:
    return load_bundle(embedded_bundle())


def of_fewer_classes(count: int) -> Bundle:
    """The embedded bundle with its first classes alone, beside graphs of all that do not say so, as older ones."""
    bundle = opened()
    silent = {name: replace(graph, facts={}) for name, graph in bundle.graphs.items()}  # else refused for what they say
    return replace(bundle, graphs=silent, classes=bundle.classes[:count])


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


def codes_only_parts(codes: int = 12) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest without files, and files, of a codes-only bundle with the first codes of the embedded one.

    Its golden images are what the embedded bundle makes of its codes 0, through ONNX Runtime called here by hand.
    """
    import onnxruntime

    bundle = opened()
    kept = {f"class.{c.label}": c.prototypes[:codes].astype(np.float16) for c in bundle.classes}
    table = json.loads(bytes(bundle.files["classes.json"]))
    classes = [{**e, "prompt_rows": [], "prototype_counts": e["prototype_counts"][:codes]} for e in table["classes"]]
    decoder = "vae_decoder/model.onnx"
    session = onnxruntime.InferenceSession(bytes(bundle.files[decoder]), providers=["CPUExecutionProvider"])
    labels = np.array([0, 5], np.int64)
    first = np.stack([kept[f"class.{label}"][0] for label in labels]).astype(np.float32)
    (found,) = session.run(None, {"latent_sample": first / np.float32(bundle.manifest.scaling_factor)})
    images = np.rint((np.clip(found, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    files = {
        decoder: bytes(bundle.files[decoder]),
        "scheduler/scheduler_config.json": bytes(bundle.files["scheduler/scheduler_config.json"]),
        "classes.json": json.dumps(table | {"prompts": [], "classes": classes}).encode(),
        "prototypes.safetensors": save(kept),
        "golden.safetensors": save({"images": np.ascontiguousarray(images), "labels": labels}),
    }
    manifest = json.loads(bundle.manifest.to_json())
    decoding = {"from_block": 0, "prototype_scale": 1.0, "prototype_until": 1.0}
    sampler = manifest["sampler"] | {"candidates": 1, "guidance": [decoding]}
    changes = {"name": "codes", "codes_only": True, "format_version": 2, "audit": "unaudited", "sampler": sampler}
    return manifest | changes, files


def codes_only(path: Path, codes: int = 12) -> Path:
    """The same as a .dpd file at `path`."""
    manifest, content = codes_only_parts(codes)
    manifest["files"] = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in content.items()}
    write_zip(path, {"bundle.json": json.dumps(manifest).encode(), **content})
    return path


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def need(name: str) -> None:
    """Skip the test if the package that a format needs is not installed."""
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
