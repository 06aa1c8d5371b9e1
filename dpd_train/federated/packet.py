"""An update of weights as the arrays that travel, and back, checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpd_train.federated.settings import UpdateError
from dpd_train.neighbourhoods import Chosen, in_pieces, padded

Arrays = list[NDArray[Any]]
"""Of each layer its float32 values; or three arrays of entries: how many each layer has (int32), their places within
the layers (int32), their values (float32); or four arrays of chosen neighbourhoods, as `Chosen` has them."""


def packed(update: Sequence[torch.Tensor]) -> Arrays:
    """All values of the layers; or those that are not zero, with their places, where that is shorter."""
    flat = [layer.reshape(-1).float() for layer in update]
    places = [layer.nonzero().flatten() for layer in flat]
    counts = [len(found) for found in places]
    if 2 * sum(counts) + len(counts) >= sum(layer.numel() for layer in flat):
        return [layer.reshape(shape.shape).numpy() for layer, shape in zip(flat, update, strict=True)]
    values = torch.cat([layer[found] for layer, found in zip(flat, places, strict=True)])
    return [np.array(counts, np.int32), torch.cat(places).int().numpy(), values.numpy()]


def packed_chosen(chosen: Chosen) -> Arrays:
    return [
        np.array(chosen.counts, np.int32),
        *(part.numpy() for part in (chosen.places, chosen.words, chosen.largest)),
    ]


def unpacked(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    """Float32 tensors of `shapes`.

    Raises:
        UpdateError: other shapes or types, places outside a layer, or values that are not finite. `sender` is named.
    """
    kinds = " ".join(array.dtype.name for array in arrays)
    if kinds == "int32 int32 float32":
        update = _from_entries(arrays, shapes, sender)
    elif kinds == "int32 int16 int32 float32":
        update = _from_chosen(arrays, shapes, sender)
    else:
        update = _from_layers(arrays, shapes, sender)
    if not all(bool(layer.isfinite().all()) for layer in update):
        raise UpdateError(f"{sender} sent values that are not finite; its training has failed")
    return update


def _from_layers(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    if [a.shape for a in arrays] != [tuple(s) for s in shapes] or any(a.dtype != np.float32 for a in arrays):
        raise UpdateError(f"{sender} sent {len(arrays)} layers of other shapes or types than the {len(shapes)} here")
    return [torch.from_numpy(np.array(array)) for array in arrays]


def _from_entries(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    counts, places, values = arrays
    sizes = [shape.numel() for shape in shapes]
    if values.shape != places.shape or not _fits(counts, places, sizes):
        raise UpdateError(f"{sender} sent entries that fit none of the {len(sizes)} layers here")
    totals = [torch.zeros(size) for size in sizes]
    parts = (torch.split(torch.from_numpy(np.array(array)), counts.tolist()) for array in (places, values))
    for total, where, found in zip(totals, *parts, strict=True):
        total.index_add_(0, where, found)
    return [total.view(shape) for total, shape in zip(totals, shapes, strict=True)]


def _from_chosen(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    counts, places, words, largest = arrays
    totals = [padded(torch.zeros(shape.numel())) for shape in shapes]
    pieces = [piece for total in totals for piece in in_pieces(total)]
    good = words.shape == places.shape and largest.shape == (len(pieces),)
    if not good or not _fits(counts, places, [len(piece) for piece in pieces]):
        raise UpdateError(f"{sender} sent neighbourhoods that fit none of the {len(shapes)} layers here")
    Chosen(counts.tolist(), *(torch.from_numpy(np.array(array)) for array in arrays[1:])).add_to(pieces)
    return [total[: shape.numel()].view(shape) for total, shape in zip(totals, shapes, strict=True)]


def _fits(counts: NDArray[Any], places: NDArray[Any], sizes: list[int]) -> bool:
    """Whether `counts` of `places`, one part after the other, lie within parts of these sizes."""
    if counts.shape != (len(sizes),) or places.ndim != 1 or (counts < 0).any() or counts.sum() != len(places):
        return False
    return not bool((places < 0).any() or (places >= np.repeat(sizes, counts)).any())


def size_of(arrays: Sequence[NDArray[Any]]) -> int:
    """Bytes of the values, without a network's own."""
    return sum(array.nbytes for array in arrays)


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
