"""The folder of a classifier that `dpd fit` made: its graph, and model.json with classes and how it was trained.

The graph takes `images`, float32 [n, 3, side, side] in [-1, 1], and gives logits [n, classes]. It passes the check that
a bundle's graphs pass without a signature, and runs in a process of its own as they do.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dpd_runtime.bundle.archive import refuse_holes
from dpd_runtime.bundle.graph_check import check_graph
from dpd_runtime.bundle.manifest import FileEntry
from dpd_runtime.engines.apart import apart
from dpd_runtime.engines.engine import Engine, Provider
from dpd_runtime.engines.execution_providers import Compilation
from dpd_runtime.engines.host import Host
from dpd_runtime.errors import InputError, ModelError
from dpd_runtime.files import check_writable, is_safe_name, naming, open_regular
from dpd_runtime.machine.cores import usable_memory
from dpd_runtime.strict_json import MAX_JSON_BYTES, parse_json
from dpd_runtime.text import LONGEST_NAME, is_readable

GRAPH_NAME, RECORD_NAME, CARD_NAME = "model.onnx", "model.json", "README.md"
INPUT, OUTPUT = "images", "logits"
FORMAT, FORMAT_VERSION = "dpd-classifier", 1
MOST_CLASSES, LARGEST_SIDE = 10_000, 4096
MOST_BYTES = 2**31  # of the graph: protobuf's own limit
COPIES = 3  # of the graph in memory: here, on its way to its process, and there
AGAIN = "fit it again"


@dataclass(frozen=True, kw_only=True)
class ClassifierRecord:
    """The content of model.json.

    Args:
        classes: names in the order of the logits.
        side: height and width of the images that the graph takes, in pixels.
        graph: sha256 and size of model.onnx.
        network: what was trained, such as convnet.
        validation: `images`, and shares `oa`, `aa` with the 95 % interval `low`, `high` of oa; empty if the fit had no
            own images to hold out.
        training: images, recipe, seed and versions.
    """

    classes: tuple[str, ...]
    side: int
    graph: FileEntry
    network: str
    validation: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def parse_record(raw: bytes) -> ClassifierRecord:
    """Parse model.json.

    Raises:
        ModelError: not what `dpd fit` writes, or of a later version.
    """
    content = parse_json(raw, RECORD_NAME)
    _require(isinstance(content, dict) and content.get("format") == FORMAT, "is not the record of a classifier")
    version = content.get("format_version")
    _require(type(version) is int and version >= 1, "has no version")
    if version > FORMAT_VERSION:
        raise ModelError(f"{RECORD_NAME}: has version {version}, this dpd knows {FORMAT_VERSION}; upgrade dpd-distill")
    known = {f.name for f in fields(ClassifierRecord)}
    _require(set(content) == known, f"has other keys than dpd fit writes: {sorted(set(content) ^ known)[:4]}")
    classes, side = content["classes"], content["side"]
    _require(isinstance(classes, list) and 2 <= len(classes) <= MOST_CLASSES, f"needs 2 to {MOST_CLASSES} classes")
    _require(len({str(name) for name in classes}) == len(classes), "has a class twice")
    for name in classes:
        _require(isinstance(name, str) and len(name) <= LONGEST_NAME and is_safe_name(name), f"has class {name!r:.60}")
    _require(type(side) is int and 1 <= side <= LARGEST_SIDE, f"side {side!r:.20} is not 1 to {LARGEST_SIDE}")
    graph = content["graph"]
    described = isinstance(graph, dict) and {key: type(graph[key]) for key in graph} == {"sha256": str, "bytes": int}
    _require(described, "has no size or hash of the graph")
    _require(isinstance(content["network"], str) and isinstance(content["training"], dict), "has no training")
    shares = content["validation"]
    numbers = isinstance(shares, dict) and all(type(value) in (int, float) for value in shares.values())
    _require(numbers and is_readable(content), "has texts or numbers that dpd fit does not write")
    return ClassifierRecord(**content | {"classes": tuple(classes), "graph": FileEntry(**graph)})


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ModelError(f"{RECORD_NAME} {sentence}; {AGAIN}")


@dataclass(frozen=True)
class Classifier:
    """A verified classifier in memory."""

    record: ClassifierRecord
    graph: bytes

    @property
    def host(self) -> Host:
        """The process in which it runs. Nobody signs a classifier, so it has one of its own."""
        return apart(self.record.graph.sha256)

    def engine(self, provider: Provider, threads: int | None = None) -> Engine:
        """Load the graph.

        Raises:
            MissingExtraError, ProviderError: the provider is not installed, or does not work here.
            BundleError: it cannot be run.
        """
        row = (len(self.record.classes),)
        return self.host.load(self.graph, provider, threads, None, GRAPH_NAME, Compilation(), row=row)


def check_place(out: Path, overwrite: bool) -> None:
    """Check, before anything is trained, that a classifier may be written to `out`.

    Raises:
        InputError: `out` exists and is not a classifier that --overwrite may replace.
        DiskError: its folder cannot be written.
    """
    if out.is_symlink():
        raise InputError(f"--out {out} is a link; give the folder itself")
    check_writable(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"--out {out} exists; choose another --out, or pass --overwrite")
    if not (out / RECORD_NAME).is_file() or {path.name for path in out.iterdir()} - {
        GRAPH_NAME,
        RECORD_NAME,
        CARD_NAME,
    }:
        raise InputError(f"{out} is not a classifier that dpd fit wrote, and is not overwritten; choose another --out")


def write_classifier(out: Path, graph: bytes, record: ClassifierRecord, card: str, *, overwrite: bool = False) -> None:
    """Write the folder, complete or not at all.

    Raises:
        InputError, DiskError: as `check_place`.
    """
    check_place(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        finished = scratch / out.name  # not the folder itself, which others may not read
        finished.mkdir()
        with naming(out):
            for name, content in ((GRAPH_NAME, graph), (RECORD_NAME, record.to_json()), (CARD_NAME, card.encode())):
                (finished / name).write_bytes(content)
        if out.is_dir():
            shutil.rmtree(out)
        finished.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def open_classifier(folder: Path) -> Classifier:
    """Read and check a classifier: its record, the hash of its graph, and what the graph may do.

    Raises:
        InputError: there is no classifier at `folder`.
        ModelError: damaged, changed, or of a later version.
        BundleError: a graph that `dpd fit` does not make.
    """
    if not (folder / RECORD_NAME).is_file():
        raise InputError(f"{folder}: no classifier, as it has no {RECORD_NAME}; give a folder that dpd fit wrote")
    refuse_holes(folder, (path for path in (folder / RECORD_NAME, folder / GRAPH_NAME) if path.is_file()), "classifier")
    record = parse_record(_read(folder / RECORD_NAME, MAX_JSON_BYTES))
    graph = _read(folder / GRAPH_NAME, min(MOST_BYTES, (usable_memory() or MOST_BYTES) // COPIES))
    digest = hashlib.sha256(graph).hexdigest()
    if len(graph) != record.graph.bytes or digest != record.graph.sha256:
        raise ModelError(
            f"{GRAPH_NAME}: sha256 is {digest[:12]}…, {RECORD_NAME} says {record.graph.sha256[:12]}…; it was changed "
            f"or damaged: fetch it again, or {AGAIN}"
        )
    check_classifier_graph(graph)
    return Classifier(record, graph)


def check_classifier_graph(graph: bytes) -> None:
    """Check a graph as one of a bundle that nobody signed.

    Raises:
        BundleError: as `check_graph`. It has no file with weights beside it, so all of them must be in the graph.
    """
    check_graph(GRAPH_NAME, graph, maker="dpd fit")


def _read(path: Path, most: int) -> bytes:
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > most:
                raise ModelError(f"{path.name} has {size} bytes, more than {most}; {AGAIN}")
            return file.read()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); fetch it again, or {AGAIN}") from None
