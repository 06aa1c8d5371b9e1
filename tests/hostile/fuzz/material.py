"""The tiny bundle in pieces, and how an attacker puts pieces together: with hashes that hold."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from dpd_runtime.archive import write_zip
from dpd_runtime.bundle import load_bundle
from dpd_runtime.classifier import ClassifierRecord, write_classifier
from dpd_runtime.files import parse_json
from dpd_runtime.manifest import FileEntry
from tests.hostile.fuzz.wire import unvarint

Files = dict[str, bytes]
METADATA = 14  # field of onnx.ModelProto
LEFT_OUT = ("classifier/", "text_encoder/", "tokenizer/", "MODEL_CARD.md")  # nothing of them is parsed at a site


@dataclass(frozen=True)
class Material:
    """Args:
    files: every file but bundle.json. manifest: the content of that, whose `files` is made anew.
    teacher: the graph of its classifier, which a site's classifier is made of; empty where it has none.
    """

    files: Files
    manifest: dict[str, Any]
    teacher: bytes = b""

    def sealed(self) -> Files:
        """All files of the bundle; the manifest lists what is there."""
        listed = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in self.files.items()}
        return {"bundle.json": json.dumps(self.manifest | {"files": listed}).encode(), **self.files}

    def with_file(self, name: str, content: bytes) -> "Material":
        return replace(self, files=self.files | {name: content})

    def json_of(self, name: str) -> Any:
        return parse_json(self.files[name], name)

    def with_json(self, name: str, content: object) -> "Material":
        return self.with_file(name, json.dumps(content).encode())


def without_metadata(graph: bytes) -> bytes:
    """What an attacker sends: a graph whose metadata contradict a changed file would be refused for that alone."""
    kept, at = bytearray(), 0
    while at < len(graph):
        begin = at
        tag, at = unvarint(graph, at)
        value, at = unvarint(graph, at)  # a model has numbers, and bytes with their size
        at += value if tag & 7 == 2 else 0
        if tag >> 3 != METADATA:
            kept += graph[begin:at]
    return bytes(kept)


def read_material(bundle: Path) -> Material:
    opened = load_bundle(bundle)
    files = {name: bytes(c) for name, c in opened.files.items() if not name.startswith(LEFT_OUT)}
    files |= {name: without_metadata(content) for name, content in files.items() if name.endswith(".onnx")}
    manifest: dict[str, Any] = parse_json(opened.manifest.to_json(), "bundle.json")
    sampler = manifest["sampler"] | {"steps": 2, "candidates": 1, "compute_batch": 2}
    teacher = bytes(opened.files.get("classifier/model.onnx", b""))
    return Material(files, manifest | {"sampler": sampler}, without_metadata(teacher) if teacher else b"")


def as_zip(folder: Path, files: Files) -> Path:
    write_zip(folder / "hostile.dpd", files)
    return folder / "hostile.dpd"


def as_folder(folder: Path, files: Files) -> Path:
    """Raises:
    OSError, ValueError: names that no file can have.
    """
    root = folder / "hostile"
    root.mkdir()
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def as_classifier(folder: Path, graph: bytes, classes: tuple[str, ...], side: int) -> Path:
    """A folder as `dpd fit` writes it, beside one image for it."""
    record = ClassifierRecord(
        classes=classes,
        side=side,
        graph=FileEntry(hashlib.sha256(graph).hexdigest(), len(graph)),
        network="teacher",
        training={"set": {"images": 5, "sha256": "0" * 64}, "recipe": {"name": "quick"}, "seed": 0},
    )
    write_classifier(folder / "hostile", graph, record, "")
    (folder / "images").mkdir()
    Image.new("RGB", (side, side), (90, 120, 60)).save(folder / "images" / "a.png")
    return folder / "hostile"
