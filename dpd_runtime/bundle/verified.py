"""Check of a bundle's files: exactly those in the manifest, with the same sizes and hashes."""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath

from dpd_runtime.bundle.archive import FolderFiles, ZipFiles
from dpd_runtime.bundle.graph_check import WEIGHTS_NAME, CheckedGraph, read_graph
from dpd_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from dpd_runtime.bundle.signature import SIGNATURE_NAME
from dpd_runtime.bundle.zip_layout import check_entry_name
from dpd_runtime.engines.record import ENGINE_FOLDER, is_engine
from dpd_runtime.errors import BundleError, BundleHashError, BundleSizeError
from dpd_runtime.files import equal_names
from dpd_runtime.machine.cores import usable_memory

TENSORS = ".safetensors"
"""These files need four times their bytes: twice for the file and its tensors, twice for float16 widened to float32.
All others need twice their bytes, because ONNX Runtime copies the weights."""
REQUIRED = (
    "unet/model.onnx",
    "vae_decoder/model.onnx",
    "latent_classifier/model.onnx",
    "scheduler/scheduler_config.json",
    "prompts.safetensors",
    "prototypes.safetensors",
    "classes.json",
)
CODES_ONLY_REQUIRED = (
    "vae_decoder/model.onnx",
    "scheduler/scheduler_config.json",
    "prototypes.safetensors",
    "classes.json",
)
CODES_ONLY_OPTIONAL = (
    f"vae_decoder/{WEIGHTS_NAME}",
    "vae_decoder/config.json",
    "golden.safetensors",
    "audit.json",
    "MODEL_CARD.md",
)


def verified_files(files: FolderFiles | ZipFiles, manifest: Manifest) -> dict[str, bytes]:
    """Read and check the files that the manifest lists. Engines are checked but not returned.

    Files are copied before they are hashed, so that the checked bytes are the ones that run.

    Raises:
        BundleError: a file is missing, unlisted or changed; or all of them are too large for this machine's memory.
    """
    listed = set(manifest.files) | {MANIFEST_NAME, SIGNATURE_NAME}
    for name in files:
        if name not in listed:
            raise BundleError(
                f"{name} is in the bundle but not in {MANIFEST_NAME}; the bundle was changed, fetch it again"
            )
    _check_sizes(files, manifest)
    verified = {}
    for name, entry in manifest.files.items():
        if is_engine(name):
            _check_engine(files, name, entry)
            continue
        content = files.read(name)
        digest = hashlib.sha256(content).hexdigest()
        if len(content) != entry.bytes or digest != entry.sha256:
            raise BundleHashError(name, digest, entry.sha256)
        verified[name] = content
    _check_complete(verified, codes_only=manifest.codes_only)
    return verified


def _check_complete(verified: Mapping[str, bytes], *, codes_only: bool) -> None:
    """Check that all required files are there, and nothing else in a codes-only bundle."""
    required = CODES_ONLY_REQUIRED if codes_only else REQUIRED
    for name in required:
        if name not in verified:
            raise BundleError(f"{name} is not listed in {MANIFEST_NAME}; the bundle is incomplete, export it again")
    if not codes_only:
        return
    for name in verified:
        if name not in (*required, *CODES_ONLY_OPTIONAL) and not name.startswith(ENGINE_FOLDER):
            raise BundleError(f"{name} does not belong in a codes-only bundle; do not use this bundle")


def _check_sizes(files: FolderFiles | ZipFiles, manifest: Manifest) -> None:
    """Check, before any file is read, that all have plain names and the listed sizes, and fit into memory."""
    equal, needed = equal_names(manifest.files), 0
    if equal is not None:
        raise BundleError(f"{equal[0]!r} and {equal[1]!r} are one file on some systems; do not use this bundle")
    for name, entry in manifest.files.items():
        check_entry_name(name)
        if name.casefold() in (MANIFEST_NAME, SIGNATURE_NAME):
            raise BundleError(f"{MANIFEST_NAME} lists {name}, which has no hash there; do not use this bundle")
        if name not in files:
            raise BundleError(f"{name} is missing from the bundle; fetch or export it again")
        if files.size(name) != entry.bytes:
            raise BundleSizeError(name, files.size(name), entry.bytes)
        needed += 0 if is_engine(name) else entry.bytes * (4 if name.endswith(TENSORS) else 2)
    memory = usable_memory()
    if memory is not None and needed > memory:
        raise BundleError(
            f"the bundle needs {needed / 1e9:.1f} GB of memory, this process may use {memory / 1e9:.1f} GB; "
            "use a machine with more"
        )


def _check_engine(files: FolderFiles | ZipFiles, name: str, entry: FileEntry) -> None:
    """Check an engine's hash without holding it in memory."""
    digest, size = hashlib.sha256(), 0
    for piece in files.pieces(name):
        digest.update(piece)
        size += len(piece)
    if size != entry.bytes or digest.hexdigest() != entry.sha256:
        raise BundleHashError(name, digest.hexdigest(), entry.sha256)


def weights_of(graph: str) -> str:
    """The path of the file that may hold the weights of `graph`."""
    return str(PurePosixPath(graph).with_name(WEIGHTS_NAME))


def read_graphs(files: Mapping[str, bytes]) -> dict[str, CheckedGraph]:
    """Read the graphs of a bundle that may name another file, which has no part in it. Others are read when they run.

    A protobuf keeps a text in one piece, so a graph without the word `location` names no file.

    Raises:
        BundleError: as `read_graph`.
    """
    found = [name for name, content in files.items() if name.endswith(".onnx") and b"location" in content]
    return {name: read_graph(name, files[name], weights_size(name, files)) for name in found}


def weights_size(graph: str, files: Mapping[str, bytes]) -> int:
    """Bytes of the file beside `graph` that may hold its weights; 0 without one."""
    return len(files.get(weights_of(graph), b""))
