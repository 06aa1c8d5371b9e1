"""Find latents and pixels of real images, as nearly equal tensors or as equal bytes anywhere in a file."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from dpd_eval.audit.artefacts.artefact import Artefact, Traces
from dpd_runtime.text import counted
from dpd_train.images.structure import similarities, unit
from dpd_train.images.symmetry import ORDER, d4

ALIKE = 0.995  # cosine of two latents, at any scale: they differ by a tenth of the norm; float16 rounding gives 0.99999
GREY_LEVELS = 2.0  # largest mean absolute difference of two copies of one image
KEY = 8  # bytes used to look up a pattern
WINDOW = 32  # bytes that must be equal
DISTINCT = 8  # different bytes in a window; windows with fewer, such as zeros, match by chance


def find_tensors(name: str, content: bytes, traces: Traces) -> list[Artefact]:
    """Search a safetensors file for latents of real images, in any of the eight views, and for their pixels."""
    if not name.endswith(".safetensors"):
        return []
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError):
        return [Artefact(name, "a file that cannot be read", "")]
    artefacts = []
    for key, values in tensors.items():
        rows = 0
        if traces.latents is not None and values.shape[-3:] == traces.latents.shape[1:]:
            rows = _like_latents(values.reshape(-1, *values.shape[-3:]).astype(np.float32), traces.latents)
        elif values.dtype == np.uint8 and values.shape[-3:] == traces.images.shape[1:]:
            rows = _like_images(values.reshape(-1, *values.shape[-3:]), traces.images)
        artefacts += [Artefact(name, "a real image or its latent", f"{counted(rows, 'row')} of {key}")] if rows else []
    return artefacts


def _like_latents(rows: NDArray[np.float32], latents: NDArray[np.float32]) -> int:
    """Count rows that match a latent. Channel means are removed, because all images of calm water share them."""
    views = torch.from_numpy(rows - rows.mean(axis=(2, 3), keepdims=True))
    orbit = np.stack([unit(d4(views, element).flatten(1).numpy()) for element in range(ORDER)], axis=1)
    flat = (latents - latents.mean(axis=(2, 3), keepdims=True)).reshape(len(latents), -1)
    return int((similarities(orbit, unit(flat)).max(axis=1) > ALIKE).sum())


def _like_images(rows: NDArray[np.uint8], images: NDArray[np.uint8]) -> int:
    return sum(
        min(
            float(np.abs(images[i : i + 500].astype(np.int16) - row).mean(axis=(1, 2, 3)).min())
            for i in range(0, len(images), 500)
        )
        < GREY_LEVELS
        for row in rows
    )


def find_bytes(name: str, content: bytes, traces: Traces) -> list[Artefact]:
    """Search at every offset for bytes of a latent (float32 or float16, scaled or not) or of an image's pixels."""
    artefacts = []
    for what, windows in _patterns(traces):
        keys = np.ascontiguousarray(windows[:, :KEY]).view(np.uint64)[:, 0]
        known = {bytes(window) for window in windows}
        hits = sum(content[at : at + WINDOW] in known for at in _positions(content, np.unique(keys)))
        artefacts += [Artefact(name, f"bytes of {what} of a real image", f"{hits} times")] if hits else []
    return artefacts


def _patterns(traces: Traces) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield WINDOW bytes [n, WINDOW] from the middle of every latent and image."""
    if traces.latents is not None:
        for latents in (traces.latents, traces.latents / np.float32(traces.scaling_factor)):
            for kind in (np.float32, np.float16):
                yield "a latent", _middle(latents.astype(kind).reshape(len(latents), -1).view(np.uint8))
    yield "pixels", _middle(traces.images.reshape(len(traces.images), -1))


def _middle(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    start = rows.shape[1] // 2 // WINDOW * WINDOW
    windows = np.sort(rows[:, start : start + WINDOW], axis=1)
    distinct = 1 + (np.diff(windows, axis=1) > 0).sum(axis=1)
    return np.ascontiguousarray(rows[distinct >= DISTINCT, start : start + WINDOW])


def _positions(content: bytes, keys: NDArray[np.uint64]) -> list[int]:
    """Return the offsets at which KEY bytes are one of the sorted keys."""
    positions: list[int] = []
    for offset in range(KEY):
        count = (len(content) - offset) // KEY
        if count <= 0 or not len(keys):
            continue
        words = np.frombuffer(content, np.uint64, count, offset)
        places = np.minimum(np.searchsorted(keys, words), len(keys) - 1)
        positions += (np.flatnonzero(keys[places] == words) * KEY + offset).tolist()
    return positions
