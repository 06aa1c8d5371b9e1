"""What was compiled on this machine, kept in the user's cache (docs/reference/engines.md).

Providers read and write a folder. This process gives them a private one, which is deleted at its end. The cache is one
file with the content of such a folder behind its sha256: it is written at once, and a damaged one counts as none.

A graph that was compiled as a whole is an ONNX model around its engine (EPContext). It stands in that folder too.
"""

import atexit
import hashlib
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpd_runtime.files import naming, read_cached, write_atomically

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
