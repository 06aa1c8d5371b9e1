"""Results of a benchmark that a second call need not compute again, each under a hash of what decides it."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpd_runtime.files import write_atomically

Arrays = dict[str, npt.NDArray[Any]]


def digest(key: Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of `key` as JSON with sorted names. Equal keys, equal digits, in every process."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def kept(folder: Path, name: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """The JSON value that `make` returns, from `folder` where an earlier call left it.

    Args:
        name: start of the file's name, for readers. key: JSON values of everything that decides the value.
    """
    path = folder / f"{name}-{digest(key)}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"key": dict(key), "value": make()}).encode())
    return json.loads(path.read_text(encoding="utf-8"))["value"]


def kept_arrays(folder: Path, name: str, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` returns, as `kept` does."""
    path = folder / f"{name}-{digest(key)}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **make())
        write_atomically(path, content.getvalue())
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}
