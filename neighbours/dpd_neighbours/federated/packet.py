"""Updates of weights as arrays to send, and received arrays checked and turned back into updates."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from dpd_neighbours.federated.settings import UpdateError
from dpd_neighbours.rs_dgc import CODES, Chosen, RsDgc, bitmap_bytes, neighbourhoods
from dpd_runtime.text import counted

Arrays = list[NDArray[Any]]
"""The float32 values of each layer; or four arrays of chosen neighbourhoods, as in `Chosen`."""
CHOSEN = [np.dtype(kind) for kind in ("<u1", "<i2", "<u1", "<f4")]


def dense(update: Sequence[torch.Tensor]) -> Arrays:
    """The float32 values of each layer."""
    return [layer.float().numpy() for layer in update]


def compressed(update: Sequence[torch.Tensor], compression: RsDgc) -> Arrays:
    """The neighbourhoods of the update that `compression` chooses; it keeps the rest for the next one."""
    chosen = compression.send(update, range(len(update)))
    return [part.numpy() for part in (chosen.bitmap, chosen.codes, chosen.levels, chosen.largest)]


def from_npy(files: Sequence[bytes], sender: str) -> Arrays:
    """Read arrays from .npy files, and from nothing else that `numpy.load` opens (zip, pickle).

    Raises:
        UpdateError: another format, type or length; the message names `sender`.
    """
    arrays = []
    for content in files:
        try:
            file = io.BytesIO(content)
            if npy.read_magic(file) != (1, 0):
                raise ValueError("another version of .npy than 1.0")
            shape, fortran, kind = npy.read_array_header_1_0(file)
            if kind not in CHOSEN or fortran:
                raise ValueError(f"type {kind}, or another order than C's")
            if len(content) - file.tell() != math.prod(shape) * kind.itemsize:
                raise ValueError(f"{len(content) - file.tell()} bytes for shape {shape}")
            arrays.append(np.frombuffer(content, kind, offset=file.tell()).reshape(shape))
        except Exception as error:  # a header is Python source, which can go wrong in many ways
            raise UpdateError(
                f"{sender} sent what is no array of an update: {error or type(error).__name__}"
            ) from error
    return arrays


def unpacked(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    """Turn arrays back into float32 tensors of `shapes`.

    Raises:
        UpdateError: other shapes or types, places outside a layer, or values that are not finite; the message names
            `sender`.
    """
    read = _from_chosen if [array.dtype for array in arrays] == CHOSEN else _from_layers
    update = read(arrays, shapes, sender)
    if not all(bool(layer.isfinite().all()) for layer in update):
        raise UpdateError(f"{sender} sent values that are not finite; its training has failed")
    return update


def _from_layers(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    if [a.shape for a in arrays] != [tuple(s) for s in shapes] or any(a.dtype != np.float32 for a in arrays):
        raise UpdateError(
            f"{sender} sent {counted(len(arrays), 'layer')} of other shapes or types than the {len(shapes)} here"
        )
    return [torch.from_numpy(np.array(array)) for array in arrays]


def _from_chosen(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    totals = [neighbourhoods(torch.zeros(shape.numel())) for shape in shapes]
    sizes = [len(total) for total in totals]
    bitmap, codes, levels, largest = (torch.from_numpy(np.array(array)) for array in arrays)
    chosen = Chosen(sizes, bitmap, codes, levels, largest)
    good = bitmap.shape == (bitmap_bytes(sizes),) and largest.shape == (len(sizes),) and codes.shape == levels.shape
    indices = chosen.indices if good else []
    beyond = any(bool((own >= size).any()) for own, size in zip(indices, sizes, strict=good))
    if not good or beyond or codes.shape != (sum(map(len, indices)),) or bool(((codes < 0) | (codes >= CODES)).any()):
        raise UpdateError(f"{sender} sent neighbourhoods that fit none of the {len(shapes)} layers here")
    chosen.add_to(totals)
    return [total.view(-1)[: shape.numel()].view(shape) for total, shape in zip(totals, shapes, strict=True)]


def size_of(arrays: Sequence[NDArray[Any]]) -> int:
    """Bytes of the values, without the overhead of the network."""
    return sum(array.nbytes for array in arrays)


def extrapolation(
    updates: Sequence[Sequence[torch.Tensor]], weights: Sequence[float], mean: Sequence[torch.Tensor]
) -> float:
    """Factor for the `mean` of the sites' updates: Σ wᵢ ‖Δᵢ‖² / (2 Σ wᵢ ‖Σ wᵢ Δᵢ / Σ wᵢ‖²), limited to 1 … m / 2.

    FedExP (Jhunjhunwala et al. 2023, arXiv 2301.09604) for m sites. The factor is 1 if the updates agree, and larger if
    sites learn different things, which the mean alone would shrink. The limit m / 2, the factor of orthogonal updates,
    replaces the paper's ε: updates that cancel out must not become an unbounded step. One site: 1.
    """
    norms, together = [_squared(update) for update in updates], _squared(mean)
    apart = sum(weight * norm for weight, norm in zip(weights, norms, strict=True)) / sum(weights)
    return max(1.0, min(len(updates) / 2, apart / (2 * together))) if together else 1.0


def _squared(update: Sequence[torch.Tensor]) -> float:
    return sum(float(layer.double().square().sum()) for layer in update)


def weighted_mean(updates: Sequence[Sequence[torch.Tensor]], weights: Sequence[float]) -> list[torch.Tensor]:
    """Σ wᵢ Δᵢ / Σ wᵢ of each layer (federated averaging, McMahan et al. 2017); the weights are numbers of images.

    Raises:
        ValueError: no update, or a weight that is not above 0.
    """
    if not updates or not all(weight > 0 for weight in weights):
        raise ValueError(f"updates cannot be averaged with weights {list(weights)}: each must be above 0")
    whole = float(sum(weights))
    means = [torch.zeros_like(layer) for layer in updates[0]]
    for update, weight in zip(updates, weights, strict=True):
        for mean, layer in zip(means, update, strict=True):
            mean += (weight / whole) * layer
    return means
