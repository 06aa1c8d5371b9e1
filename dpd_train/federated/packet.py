"""An update of weights as the arrays that travel, and back, checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpd_train.federated.settings import UpdateError
from dpd_train.neighbourhoods import CODES, Chosen, mark_bytes, neighbourhoods
from dpd_train.rs_dgc import RsDgc

Arrays = list[NDArray[Any]]
"""Of each layer its float32 values; or four arrays of chosen neighbourhoods, as `Chosen` has them."""


def packed(update: Sequence[torch.Tensor]) -> Arrays:
    return [layer.float().numpy() for layer in update]


def compressed(update: Sequence[torch.Tensor], compression: RsDgc) -> Arrays:
    """What `compression` chooses of the update; it keeps the rest for the next one."""
    keys = range(len(update))
    chosen = compression.choose(update, keys)
    compression.add_up([chosen], keys)
    return [part.numpy() for part in (chosen.marks, chosen.codes, chosen.levels, chosen.largest)]


def unpacked(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    """Float32 tensors of `shapes`.

    Raises:
        UpdateError: other shapes or types, places outside a layer, or values that are not finite. `sender` is named.
    """
    kinds = " ".join(array.dtype.name for array in arrays)
    read = _from_chosen if kinds == "uint8 int16 uint8 float32" else _from_layers
    update = read(arrays, shapes, sender)
    if not all(bool(layer.isfinite().all()) for layer in update):
        raise UpdateError(f"{sender} sent values that are not finite; its training has failed")
    return update


def _from_layers(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    if [a.shape for a in arrays] != [tuple(s) for s in shapes] or any(a.dtype != np.float32 for a in arrays):
        raise UpdateError(f"{sender} sent {len(arrays)} layers of other shapes or types than the {len(shapes)} here")
    return [torch.from_numpy(np.array(array)) for array in arrays]


def _from_chosen(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    totals = [neighbourhoods(torch.zeros(shape.numel())) for shape in shapes]
    sizes = [len(total) for total in totals]
    marks, codes, levels, largest = (torch.from_numpy(np.array(array)) for array in arrays)
    chosen = Chosen(sizes, marks, codes, levels, largest)
    good = marks.shape == (mark_bytes(sizes),) and largest.shape == (len(sizes),) and codes.shape == levels.shape
    places = chosen.places() if good else []
    beyond = any(bool((own >= size).any()) for own, size in zip(places, sizes, strict=good))
    if not good or beyond or codes.shape != (sum(map(len, places)),) or bool(((codes < 0) | (codes >= CODES)).any()):
        raise UpdateError(f"{sender} sent neighbourhoods that fit none of the {len(shapes)} layers here")
    chosen.add_to(totals)
    return [total.view(-1)[: shape.numel()].view(shape) for total, shape in zip(totals, shapes, strict=True)]


def size_of(arrays: Sequence[NDArray[Any]]) -> int:
    """Bytes of the values, without a network's own."""
    return sum(array.nbytes for array in arrays)


def extrapolation(updates: Sequence[Sequence[torch.Tensor]], weights: Sequence[float]) -> float:
    """How many times their mean the sites' updates are worth: max(1, Σ wᵢ ‖Δᵢ‖² / (2 Σ wᵢ ‖Σ wᵢ Δᵢ / Σ wᵢ‖²)).

    FedExP (Jhunjhunwala et al. 2023, arXiv 2301.09604, eq. 2): 1 where sites agree, above it where what one learns the
    others do not know, and the mean alone would be a fraction of it. With one site it is 1.
    """
    norms = [sum(float(layer.square().sum()) for layer in update) for update in updates]
    mean = sum(float(layer.square().sum()) for layer in weighted_mean(updates, weights))
    whole = sum(weight * norm for weight, norm in zip(weights, norms, strict=True))
    return max(1.0, whole / (2 * sum(weights) * mean)) if mean else 1.0


def weighted_mean(updates: Sequence[Sequence[torch.Tensor]], weights: Sequence[float]) -> list[torch.Tensor]:
    """Σ wᵢ Δᵢ / Σ wᵢ of each layer (federated averaging, McMahan et al. 2017): weights are numbers of images.

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
