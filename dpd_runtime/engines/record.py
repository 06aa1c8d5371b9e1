"""What an ahead-of-time engine is keyed by: the JSON record beside it. Nothing here imports TensorRT."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from dpd_runtime.errors import BundleError

ENGINE_FOLDER = "engines/"
ENGINE_SUFFIX, RECORD_SUFFIX = ".engine", ".json"
RECORD_VERSION = 1
MAX_RECORD_BYTES = 2**20
LABELS = {
    "tensorrt-rtx": "built and inspected, not executed",
    "tensorrt": "untested: built by code that nobody here could run",
}
"""What is known of an engine of each flavour. Not read from the bundle: anybody can write there."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class EngineInput:
    """Smallest, usual and largest shape; three equal ones in a static engine. dtype is numpy's name."""

    name: str
    dtype: str
    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class EngineOutput:
    """shape has −1 where the inputs decide."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """Args:
    flavour: "tensorrt-rtx" or "tensorrt". builder_version: engines load in exactly this version of it.
    compute_capabilities: 10 · major + minor, of every GPU type it was built for.
    os: for example "linux-x86_64". cuda: major version of the CUDA toolkit that it needs a driver for; 0: unknown.
    graph: the ONNX graph's path. sources: sha256 of the graph and of weight files beside it, by path.
    precision: the bundle's. arithmetic: how many convolutions and matrix products the typed network has in each type.
    tf32: whether float32 products may be rounded to TF32.
    layers: of the network before the builder fused them. sha256, bytes: of the engine itself.
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
        """Smallest and largest batch; equal in a static engine."""
        batched = [entry for entry in self.inputs if entry.opt]
        return max(entry.min[0] for entry in batched), min(entry.max[0] for entry in batched)

    def describe(self) -> str:
        """One line for `dpd info`."""
        low, high = self.batches
        batch = f"batch {low}" if low == high else f"batch {low} … {high}"
        types = " + ".join(sorted(self.arithmetic)) or "no"
        return f"{batch}, {types} arithmetic, {self.flavour} {self.builder_version}"


def record_json(record: EngineRecord) -> bytes:
    """Sorted, so that the same record gives the same bytes."""
    return (json.dumps(asdict(record), indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()


def parse_record(path: str, raw: bytes | memoryview) -> EngineRecord:
    """Raises:
    BundleError: no record of this version.
    """
    if len(raw) > MAX_RECORD_BYTES:
        raise BundleError(f"{path} has {len(raw)} bytes, which is no engine record; build the engines again")
    try:
        content = json.loads(bytes(raw))
        known = {field.name for field in fields(EngineRecord)}
        if set(content) != known or content["record_version"] != RECORD_VERSION:
            raise ValueError(f"it is no record of version {RECORD_VERSION}")
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
        raise BundleError(f"{path} is no engine record ({error}); build the engines again") from error
    return record


def is_engine(path: str) -> bool:
    """Whether a bundle's file of this name is native code."""
    return path.startswith(ENGINE_FOLDER) and path.endswith(ENGINE_SUFFIX)


def engine_records(files: Mapping[str, bytes], listed: Iterable[str]) -> dict[str, EngineRecord]:
    """The record of each engine in a bundle, by the engine's path.

    Args:
        files: the bundle's content, which holds the records and not the engines. listed: every path of the manifest.

    Raises:
        BundleError: an engine without a record, or a broken one.
    """
    records = {}
    for path in sorted(listed):
        if not is_engine(path):
            continue
        beside = path.removesuffix(ENGINE_SUFFIX) + RECORD_SUFFIX
        if beside not in files:
            raise BundleError(f"{path} has no record {beside} beside it; build the engines again")
        records[path] = parse_record(beside, files[beside])
    return records


def _whole(content: Any, smallest: Literal[-1, 0] = 0) -> Shape:
    if not isinstance(content, list) or any(type(n) is not int or n < smallest for n in content):
        raise ValueError(f"{str(content)[:40]!r} is no list of sizes")
    return tuple(content)


def _input(entry: Any) -> EngineInput:
    shapes = [_whole(entry[name]) for name in ("min", "opt", "max")]
    if len({len(shape) for shape in shapes}) != 1 or any(not a <= b <= c for a, b, c in zip(*shapes, strict=True)):
        raise ValueError("an input's shapes do not ascend from min to opt to max")
    return EngineInput(str(entry["name"]), str(entry["dtype"]), *shapes)


def _output(entry: Any) -> EngineOutput:
    return EngineOutput(str(entry["name"]), str(entry["dtype"]), _whole(entry["shape"], -1))


def _check_types(record: EngineRecord) -> None:
    if not isinstance(record.sources, dict) or not isinstance(record.arithmetic, dict):
        raise ValueError("a table has the wrong type")
    words = [record.flavour, record.builder_version, record.os, record.graph, record.precision, record.sha256]
    words += [*record.sources, *record.sources.values(), *record.arithmetic]
    counts = (record.cuda, record.layers, record.bytes, *record.arithmetic.values())
    good = all(isinstance(word, str) and word.isprintable() for word in words)
    good = good and all(type(count) is int and count >= 0 for count in counts) and type(record.tf32) is bool
    good = good and record.flavour in LABELS and record.graph in record.sources
    if not good or not record.compute_capabilities:
        raise ValueError("a field has the wrong type")
