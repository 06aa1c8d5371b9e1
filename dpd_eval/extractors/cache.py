"""Files in the user's cache that hold what was trained on real images."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save

from dpd_runtime.annotations import Images, Int64
from dpd_runtime.errors import DiskError
from dpd_runtime.files import is_own, write_atomically
from dpd_train.compute.checkpoint import load_state


def images_hash(images: Images, labels: Int64) -> str:
    """sha256 over shape, pixels [n, H, W, C] and labels [n], in their order (the order decides the batches)."""
    digest = hashlib.sha256(json.dumps(images.shape, allow_nan=False).encode())
    digest.update(images.tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def store(path: Path, content: bytes) -> None:
    """Write a file atomically, in a folder that only the user can read. Two processes may write the same file.

    Raises:
        DiskError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # the results remember training images
        write_atomically(path, content)
    except OSError as error:
        raise DiskError(
            f"{path.parent}: the result of a training cannot be stored ({error.strerror}); "
            "set XDG_CACHE_HOME to another folder"
        ) from None


def store_weights(path: Path, network: torch.nn.Module, meta: dict[str, Any]) -> None:
    """Store a network's weights with a few JSON values.

    Raises:
        DiskError: the folder cannot be written.
    """
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    store(path, save(weights, {"meta": json.dumps(meta, allow_nan=False)}))


def load_weights(path: Path, network: torch.nn.Module) -> dict[str, Any] | None:
    """Load stored weights into `network` and return the JSON values; None if the file is missing or damaged."""
    if not is_own(path):
        return None
    try:
        tensors, meta = load_state(path)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return meta
