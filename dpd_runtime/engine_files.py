"""Engines on disk: their records, and the site's cache."""

import atexit
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpd_runtime.errors import BundleError
from dpd_runtime.files import naming, parse_json, read_cached, write_atomically
from dpd_runtime.text import LONGEST_NAME, is_readable

# -- The JSON record beside each ahead-of-time engine. Nothing here imports TensorRT.


ENGINE_FOLDER = "engines/"
ENGINE_SUFFIX, RECORD_SUFFIX = ".engine", ".json"
RECORD_VERSION = 1
MAX_RECORD_BYTES = 2**20
LABELS = {
    "tensorrt-rtx": "built and inspected, not executed",
    "tensorrt": "untested: built by code that was never run here",
}
"""How far engines of each flavour were tested. This is not read from the bundle, which anyone could change."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class EngineInput:
    """An input with its smallest, usual and largest shape (equal in a static engine). dtype: numpy's name."""

    name: str
    dtype: str
    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class EngineOutput:
    """An output. In `shape`, −1 means that the size depends on the inputs."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """What an engine was built from and for.

    Args:
        flavour: "tensorrt-rtx" or "tensorrt". builder_version: its version; an engine loads in no other.
        compute_capabilities: 10 · major + minor of every GPU type that it was built for.
        os: for example "linux-x86_64". cuda: major version of CUDA that the driver must support; 0 if unknown.
        graph: path of the ONNX graph. sources: sha256 of the graph and of the weight files beside it, by path.
        precision: the bundle's. arithmetic: number of convolutions and matrix products in each type.
        tf32: whether float32 products may be rounded to TF32.
        layers: number of layers before the builder fused them. sha256, bytes: of the engine itself.
    """

    flavour: str
    builder_version: str
    compute_capabilities: tuple[int, ...]
    os: str
    cuda: int
    graph: str
    sources: Mapping[str, str]
    precision: str
    arithmetic: Mapping[str, int]
    tf32: bool
    layers: int
    inputs: tuple[EngineInput, ...]
    outputs: tuple[EngineOutput, ...]
    sha256: str
    bytes: int
    record_version: int = RECORD_VERSION

    @property
    def batches(self) -> tuple[int, int]:
        """Smallest and largest batch (equal in a static engine)."""
        batched = [entry for entry in self.inputs if entry.opt]
        return max(entry.min[0] for entry in batched), min(entry.max[0] for entry in batched)

    def describe(self) -> str:
        """One line for `dpd info`."""
        low, high = self.batches
        batch = f"batch {low}" if low == high else f"batch {low} … {high}"
        types = " + ".join(sorted(self.arithmetic)) or "no"
        return f"{batch}, {types} arithmetic, {self.flavour} {self.builder_version}"


def record_json(record: EngineRecord) -> bytes:
    """The record as JSON with sorted keys, so that equal records have equal bytes."""
    return (json.dumps(asdict(record), indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()


def parse_record(path: str, raw: bytes | memoryview) -> EngineRecord:
    """Read the record at `path`.

    Raises:
        BundleError: not a record of this version.
    """
    if len(raw) > MAX_RECORD_BYTES:
        raise BundleError(f"{path} has {len(raw)} bytes, too many for an engine record; build the engines again")
    try:
        content = parse_json(bytes(raw), path)
        known = {field.name for field in fields(EngineRecord)}
        if set(content) != known or content["record_version"] != RECORD_VERSION:
            raise ValueError(f"not a record of version {RECORD_VERSION}")
        record = EngineRecord(
            **content
            | {
                "compute_capabilities": _whole(content["compute_capabilities"]),
                "inputs": tuple(_input(entry) for entry in content["inputs"]),
                "outputs": tuple(_output(entry) for entry in content["outputs"]),
            }
        )
        _check_types(record)
        _ = record.batches
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise BundleError(f"{path} is not an engine record ({error}); build the engines again") from error
    return record


def is_engine(path: str) -> bool:
    """Whether the file of this name in a bundle is an engine, that is native code."""
    return path.startswith(ENGINE_FOLDER) and path.endswith(ENGINE_SUFFIX)


def engine_records(files: Mapping[str, bytes], listed: Iterable[str]) -> dict[str, EngineRecord]:
    """The records of a bundle's engines, by the engine's path.

    Args:
        files: the bundle's files without the engines. listed: every path of the manifest.

    Raises:
        BundleError: a record is missing or damaged.
    """
    records = {}
    for path in sorted(listed):
        if not is_engine(path):
            continue
        beside = path.removesuffix(ENGINE_SUFFIX) + RECORD_SUFFIX
        if beside not in files:
            raise BundleError(f"{path} has no record {beside}; build the engines again")
        records[path] = parse_record(beside, files[beside])
    return records


def _whole(content: Any, smallest: Literal[-1, 0] = 0) -> Shape:
    if not isinstance(content, list) or any(type(n) is not int or n < smallest for n in content):
        raise ValueError(f"{str(content)[:40]!r} is not a list of sizes")
    return tuple(content)


def _input(entry: Any) -> EngineInput:
    shapes = [_whole(entry[name]) for name in ("min", "opt", "max")]
    if len({len(shape) for shape in shapes}) != 1 or any(not a <= b <= c for a, b, c in zip(*shapes, strict=True)):
        raise ValueError("the shapes of an input are not ordered min ≤ opt ≤ max")
    return EngineInput(str(entry["name"]), str(entry["dtype"]), *shapes)


def _output(entry: Any) -> EngineOutput:
    return EngineOutput(str(entry["name"]), str(entry["dtype"]), _whole(entry["shape"], -1))


def _check_types(record: EngineRecord) -> None:
    if not isinstance(record.sources, dict) or not isinstance(record.arithmetic, dict):
        raise ValueError("a table has the wrong type")
    words = [record.flavour, record.builder_version, record.os, record.graph, record.precision, record.sha256]
    words += [*record.sources, *record.sources.values(), *record.arithmetic]
    counts = (record.cuda, record.layers, record.bytes, *record.arithmetic.values())
    good = all(isinstance(word, str) and is_readable(word, LONGEST_NAME) for word in words)
    good = good and all(type(count) is int and count >= 0 for count in counts) and type(record.tf32) is bool
    good = good and record.flavour in LABELS and record.graph in record.sources
    if not good or not record.compute_capabilities:
        raise ValueError("a field has the wrong type")


# -- What was compiled on this machine, kept in the user's cache (docs/reference/engines.md).
#
# Providers read and write a folder. This process gives them a private one, which is deleted at its end. The cache is
# one file with the content of such a folder behind its sha256: it is written at once, and a damaged one counts as none.
#
# A graph that was compiled as a whole is an ONNX model around its engine (EPContext). It stands in that folder too.


HASH_BYTES = 32
MODEL_SUFFIX = ".onnx"
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")


@cache
def working_folder(sealed: Path | None) -> Path:
    """The private folder (mode 0700) of this process for a cache file, with its content if that holds its own hash.

    Args:
        sealed: None for a process that keeps nothing for later ones.
    """
    folder = Path(tempfile.mkdtemp(prefix="dpd-engines-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with naming(folder):
        for name, content in _content(sealed).items():
            (folder / name).write_bytes(content)
    return folder


def kept_model(folder: Path, graph: bytes) -> bytes | None:
    """The model around the engine of a graph, from a working folder; None if the graph was not compiled yet."""
    path = folder / _model_name(graph)
    return path.read_bytes() if path.is_file() else None


def keep_model(folder: Path, graph: bytes, model: bytes) -> None:
    """Put the model around the engine of a graph into a working folder. `seal` writes it to the cache."""
    write_atomically(folder / _model_name(graph), model)


def kept_models(folder: Path) -> list[int]:
    """The sizes in bytes of all models in a working folder."""
    return [path.stat().st_size for path in folder.glob(f"*{MODEL_SUFFIX}")]


def _model_name(graph: bytes) -> str:
    return hashlib.sha256(graph).hexdigest() + MODEL_SUFFIX


def seal(sealed: Path | None) -> bool:
    """Write this process's folder to the cache file. Returns False where the cache cannot be written or is empty."""
    if sealed is None:
        return False
    files = {path.name: path for path in working_folder(sealed).iterdir() if path.is_file() and not path.is_symlink()}
    content = {name: np.fromfile(path, np.uint8) for name, path in sorted(files.items()) if _SAFE.fullmatch(name)}
    if not content:
        return False
    raw = save(content)
    try:
        sealed.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(sealed, hashlib.sha256(raw).digest() + raw)
    except OSError:
        return False
    return True


def _content(sealed: Path | None) -> dict[str, bytes]:
    """The files in a cache file; none if it is missing, damaged or of another user."""
    raw = None if sealed is None else read_cached(sealed)
    if raw is None or hashlib.sha256(raw[HASH_BYTES:]).digest() != raw[:HASH_BYTES]:
        return {}
    try:
        arrays = load(raw[HASH_BYTES:])
    except (SafetensorError, ValueError):
        return {}
    return {name: content.tobytes() for name, content in arrays.items() if _SAFE.fullmatch(name)}
