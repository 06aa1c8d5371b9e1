"""A verified bundle in memory. Every hash is checked before any graph is loaded."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from dpd_runtime.archive import FolderFiles, ZipFiles, check_entry_name, open_files
from dpd_runtime.cores import usable_memory
from dpd_runtime.encryption import Key
from dpd_runtime.engine_choice import FLAVOURS, refuse_engines
from dpd_runtime.engine_record import is_engine
from dpd_runtime.engines import Provider
from dpd_runtime.engines.onnxruntime import OnnxRuntimeEngine
from dpd_runtime.errors import BundleError, BundleHashError, BundleSizeError, InputError
from dpd_runtime.graph_check import check_graph
from dpd_runtime.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    check_noise,
    parse_manifest,
    sampler_schedule,
)
from dpd_runtime.prototype_kinds import fits
from dpd_runtime.schedule import Schedule, schedule_from_config
from dpd_runtime.signature import SIGNATURE_NAME, UNSIGNED, PublicKey, Signature, check_signature
from dpd_runtime.solvers import SOLVERS
from dpd_runtime.strict_json import parse_json
from dpd_runtime.trust import trusted_keys

EMBEDDED_BUNDLE = "eurosat64.dpd"
MAX_CLASSES = 10_000
RESERVED = (".json", ".jsonl", ".png", ".safetensors", ".parquet", ".npz", ".tar")
"""Endings of the files that lie beside the class folders of a set."""
WEIGHTS_NAME = "model.onnx_data"
"""The file beside `model.onnx` which holds its weights where they are more than one protobuf file can."""
# An ONNX tensor outside the file is a StringStringEntryProto {key: "location", value: PATH}: these bytes of protobuf.
EXTERNAL_DATA = b"\n\x08location\x12"
_KEY = b"location"
_OUTSIDE = EXTERNAL_DATA + bytes([len(WEIGHTS_NAME)]) + WEIGHTS_NAME.encode()
REQUIRED = (
    "unet/model.onnx",
    "vae_decoder/model.onnx",
    "latent_classifier/model.onnx",
    "scheduler/scheduler_config.json",
    "prompts.safetensors",
    "prototypes.safetensors",
    "classes.json",
)
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SceneClass:
    """One class as the bundle holds it.

    Args:
        prompt_rows: row of `Bundle.prompt_embeddings` for each prototype; at least one.
        prototypes: [K, C, h, w] float32 scaled latents; K may be 0. Image i uses number i mod K. Of kind `pooled`
            they are block means, with smaller sides.
    """

    name: str
    label: int
    prompt_rows: tuple[int, ...]
    prototypes: Float32


@dataclass(frozen=True)
class Bundle:
    """Args:
    hash: sha256 of bundle.json's bytes, which names the bundle.
    prompt_embeddings: [P, L, D]; empty_embedding: [L, D].
    files: content of every file but the engines: those are hashed in pieces and left on the disk.
    signature: who signed it, by the keys that were trusted when it was opened.
    key: what an encrypted bundle was opened with; None: it is not encrypted.
    """

    path: Path
    manifest: Manifest
    hash: str
    schedule: Schedule
    classes: tuple[SceneClass, ...]
    prompts: tuple[str, ...]
    prompt_embeddings: Float32
    empty_embedding: Float32
    files: Mapping[str, bytes]
    signature: Signature = UNSIGNED
    key: Key | None = field(default=None, repr=False)

    def engine(self, graph: str, provider: Provider, threads: int | None = None) -> OnnxRuntimeEngine:
        """Load one of the bundle's graphs, for example "unet/model.onnx".

        Raises:
            BundleError: the graph holds what `check_graph` refuses, or is none.
            ProviderError: the provider does not work here, or is one of those whose engines this version never loads.
        """
        if provider.name in FLAVOURS:
            raise refuse_engines(self.files, self.manifest.files, provider.name, self.signature)
        weights = self.files.get(weights_of(graph))
        check_graph(graph, self.files[graph], len(weights or b""))
        return OnnxRuntimeEngine(
            self.files[graph], provider, threads, None if weights is None else {WEIGHTS_NAME: weights}, name=graph
        )

    def read_engine(self, name: str) -> bytes:
        """An engine's bytes, read from the disk and hashed again: `files` does not hold them.

        Raises:
            BundleError: no such engine, or the bundle was changed since it was opened.
        """
        files = open_files(self.path, self.key)
        if not is_engine(name) or name not in self.manifest.files or name not in files:
            raise BundleError(f"{self.path}: there is no engine {name} in it")
        content = bytes(files[name])
        found = hashlib.sha256(content).hexdigest()
        if found != self.manifest.files[name].sha256:
            raise BundleHashError(name, found, self.manifest.files[name].sha256)
        return content

    def select_classes(self, names: tuple[str, ...] | None) -> tuple[SceneClass, ...]:
        """The classes by name, in the bundle's order; all of them for None.

        Raises:
            InputError: a name which the bundle does not hold.
        """
        if names is None:
            return self.classes
        known = [c.name for c in self.classes]
        for name in names:
            if name not in known:
                raise InputError(f"class {name!r} is not in the bundle; it holds {', '.join(known)}")
        return tuple(c for c in self.classes if c.name in names)


def check_class_name(name: object) -> str:
    """Class names become folders: refuse whatever is not a plain, printable file name.

    Raises:
        BundleError
    """
    good = isinstance(name, str) and name.isprintable() and name == name.strip()
    good = good and 0 < len(str(name).encode()) <= 200  # a file name with its number must fit into 255 bytes
    good = good and not any(c in str(name) for c in '/\\:*?"<>|') and not str(name).startswith(".")
    if not good or str(name).lower().endswith(RESERVED):
        raise BundleError(
            f"classes.json: class name {name!r} cannot be a folder name; rename the class and export again"
        )
    return str(name)


def _verified(files: FolderFiles | ZipFiles, manifest: Manifest) -> dict[str, bytes]:
    """Exactly the files that the manifest lists, each with the bytes that it lists.

    They are copied before they are hashed: what was checked is what runs, whoever writes to the file meanwhile.
    Engines are not copied, since none is loaded from here.
    """
    listed = set(manifest.files) | {MANIFEST_NAME, SIGNATURE_NAME}
    for name in files:
        if name not in listed:
            raise BundleError(
                f"{name} is in the bundle but not in {MANIFEST_NAME}: the bundle was changed; fetch it again"
            )
    _check_sizes(files, manifest)
    verified = {}
    for name, entry in manifest.files.items():
        if is_engine(name):
            _check_engine(files, name, entry)
            continue
        content = files.read(name)
        found = hashlib.sha256(content).hexdigest()
        if len(content) != entry.bytes or found != entry.sha256:
            raise BundleHashError(name, found, entry.sha256)
        verified[name] = content
    for name in REQUIRED:
        if name not in verified:
            raise BundleError(f"{name} is not listed in {MANIFEST_NAME}: the bundle is incomplete; export it again")
    for name, content in verified.items():
        if name.endswith(".onnx"):
            _check_weights(name, content, verified)
    return verified


def _check_sizes(files: FolderFiles | ZipFiles, manifest: Manifest) -> None:
    """Every listed file is there with its size, and all that will be read fits into memory: before any is read."""
    held = 0
    for name, entry in manifest.files.items():
        check_entry_name(name)
        if name not in files:
            raise BundleError(f"{name} is missing from the bundle: fetch or export it again")
        if files.size(name) != entry.bytes:
            raise BundleSizeError(name, files.size(name), entry.bytes)
        held += 0 if is_engine(name) else entry.bytes
    memory = usable_memory()
    if memory is not None and held > memory / 2:  # onnxruntime makes a copy of the weights
        raise BundleError(
            f"the bundle holds {held / 1e9:.1f} GB, more than half of this machine's {memory / 1e9:.1f} GB of memory"
        )


def _check_engine(files: FolderFiles | ZipFiles, name: str, entry: FileEntry) -> None:
    """Hash in pieces.

    Raises:
        BundleHashError
    """
    digest, size = hashlib.sha256(), 0
    for piece in files.pieces(name):
        digest.update(piece)
        size += len(piece)
    if size != entry.bytes or digest.hexdigest() != entry.sha256:
        raise BundleHashError(name, digest.hexdigest(), entry.sha256)


def weights_of(graph: str) -> str:
    """The path of the file which may hold the weights of `graph`: beside it, by a fixed name."""
    return str(PurePosixPath(graph).with_name(WEIGHTS_NAME))


def _check_weights(name: str, content: bytes, verified: Mapping[str, bytes]) -> None:
    """A graph keeps its weights in itself, or all that are outside in the listed file beside it.

    Protobuf can write the same key in more than one way, so that every occurrence of the word counts.

    Raises:
        BundleError: a weight of it lies anywhere else.
    """
    outside = content.count(_OUTSIDE)
    if content.count(_KEY) != outside or (outside and weights_of(name) not in verified):
        raise BundleError(
            f"{name} keeps weights outside itself and not in a {WEIGHTS_NAME} beside it; export the bundle again"
        )


def _tensors(files: Mapping[str, bytes], name: str) -> dict[str, Float32]:
    try:
        tensors = load_tensors(files[name])
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{name} is not a safetensors file ({error}): export the bundle again") from error
    out = {}
    for key, value in tensors.items():
        if value.dtype not in (np.float16, np.float32) or not np.isfinite(value).all():
            raise BundleError(f"{name}: tensor {key!r} is not finite float16 or float32; export the bundle again")
        out[key] = value.astype(np.float32)
    return out


def _classes(
    content: Any, prototypes: dict[str, Float32], prompts: int, latent_shape: tuple[int, ...]
) -> tuple[SceneClass, ...]:
    classes = []
    entries, kind = content["classes"], content.get("prototype_kind", "centroid")
    if len(entries) > MAX_CLASSES:
        raise BundleError(f"classes.json: {len(entries)} classes are more than {MAX_CLASSES}")
    for label, entry in enumerate(entries):
        name = check_class_name(entry["name"])
        rows = tuple(entry["prompt_rows"])
        latents = prototypes.get(f"class.{label}", np.zeros((0, *latent_shape), np.float32))
        if not fits(kind, latents.shape, latent_shape):
            raise BundleError(
                f"prototypes.safetensors: class {name} has shape {latents.shape}, not K × {latent_shape} ({kind})"
            )
        if not rows or any(type(r) is not int or not 0 <= r < prompts for r in rows):
            raise BundleError(f"classes.json: class {name} names prompts which prompts.safetensors does not hold")
        if len(rows) != max(1, len(latents)):
            raise BundleError(f"classes.json: class {name} has {len(rows)} prompts for {len(latents)} prototypes")
        classes.append(SceneClass(name, label, rows, latents))
    if len({c.name for c in classes}) != len(classes) or len(classes) < 2:
        raise BundleError("classes.json: class names are not two or more different ones; export the bundle again")
    return tuple(classes)


def _signature(files: FolderFiles | ZipFiles, manifest: bytes, trusted: Sequence[PublicKey] | None) -> Signature:
    if SIGNATURE_NAME not in files:
        return UNSIGNED
    return check_signature(manifest, bytes(files[SIGNATURE_NAME]), trusted_keys() if trusted is None else trusted)


def load_bundle(path: str | Path, key: Key | None = None, trusted: Sequence[PublicKey] | None = None) -> Bundle:
    """Open and verify a bundle.

    Args:
        key: of an encrypted bundle: a passphrase, or the 32 bytes of its key file. It is decrypted into memory.
        trusted: keys whose signatures count; by default those in the user's trusted folder.

    Raises:
        BundleError: nothing there, damaged, changed, incomplete or from the future, a trusted key's signature does not
            hold, or the key is not its own. No graph has been loaded then.
        InputError: a key for a bundle that is not encrypted; a trusted key that cannot be read.
    """
    path = Path(path)
    files = open_files(path, key)
    if MANIFEST_NAME not in files:
        raise BundleError(f"{path}: no {MANIFEST_NAME} in it; this is not a dpd bundle")
    for name in (MANIFEST_NAME, SIGNATURE_NAME):
        if name in files:
            if files.size(name) > MAX_MANIFEST_BYTES:
                raise BundleError(f"{path}: {name} has {files.size(name)} bytes, more than {MAX_MANIFEST_BYTES}")
            if isinstance(files, ZipFiles):
                files.check_crc(name)
    raw = bytes(files[MANIFEST_NAME])  # parsed, signed and hashed: the same bytes, whoever writes to the file meanwhile
    signature = _signature(files, raw, trusted)
    manifest = parse_manifest(raw)
    verified = _verified(files, manifest)
    config = parse_json(verified["scheduler/scheduler_config.json"], "scheduler/scheduler_config.json")
    try:
        schedule = sampler_schedule(schedule_from_config(config), manifest.sampler)
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise BundleError(f"scheduler/scheduler_config.json: {error}; export the bundle again") from error
    if schedule.prediction_type != manifest.prediction_type:
        raise BundleError(
            f"prediction_type is {manifest.prediction_type} in {MANIFEST_NAME} and {schedule.prediction_type} "
            "in the scheduler's config; export the bundle again"
        )
    sampler = manifest.sampler
    if sampler.solver not in SOLVERS:
        raise BundleError(f"{MANIFEST_NAME}: solver {sampler.solver!r} is unknown: upgrade dpd-distill or export again")
    try:
        steps = SOLVERS[sampler.solver][0](schedule, sampler.steps)
        check_noise(manifest.latent_shape, sampler.candidates, sum(step.noise > 0 for step in steps))
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME}: sampler: {error}; export the bundle again") from error
    prompts = _tensors(verified, "prompts.safetensors")
    table = parse_json(verified["classes.json"], "classes.json")
    try:
        embeddings, empty = prompts["embeddings"], prompts["empty"]
        classes = _classes(table, _tensors(verified, "prototypes.safetensors"), len(embeddings), manifest.latent_shape)
        texts = tuple(str(text) for text in table["prompts"])
        if not all(text.isprintable() for text in texts):
            raise BundleError("classes.json: a prompt holds text that cannot be printed; export the bundle again")
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"classes.json or prompts.safetensors is incomplete ({error}): export the bundle again"
        ) from error
    if embeddings.ndim != 3 or embeddings.shape[1:] != empty.shape or len(texts) != len(embeddings):
        raise BundleError("prompts.safetensors: shapes do not fit together; export the bundle again")
    return Bundle(
        path=path,
        manifest=manifest,
        hash=hashlib.sha256(raw).hexdigest(),
        schedule=schedule,
        classes=classes,
        prompts=texts,
        prompt_embeddings=embeddings,
        empty_embedding=empty,
        files=verified,
        signature=signature,
        key=key,
    )


def embedded_bundle() -> Path:
    """The EuroSAT bundle that comes with the package."""
    return Path(str(resources.files("dpd_runtime") / "data" / EMBEDDED_BUNDLE))
