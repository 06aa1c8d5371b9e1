"""An update of weights as the arrays that travel, and back, checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpd_train.federated.settings import UpdateError
from dpd_train.rs_dgc import Entries, add_entries

Arrays = list[NDArray[Any]]
"""Of each layer its float32 values; or, of chosen entries, three arrays: how many each layer has (int32), their places
within the layers (int32), their values (float32, or bfloat16 as the int16 of the same bits)."""


def packed(update: Sequence[torch.Tensor]) -> Arrays:
    """All values of the layers; or those that are not zero, with their places, where that is shorter."""
    flat = [layer.reshape(-1).float() for layer in update]
    places = [layer.nonzero().flatten() for layer in flat]
    counts = [len(found) for found in places]
    if 2 * sum(counts) + len(counts) >= sum(layer.numel() for layer in flat):
        return [layer.reshape(shape.shape).numpy() for layer, shape in zip(flat, update, strict=True)]
    values = torch.cat([layer[found] for layer, found in zip(flat, places, strict=True)])
    return packed_entries(Entries(torch.cat(places).int(), values, counts))


def packed_entries(entries: Entries) -> Arrays:
    values = entries.values
    bits = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
    return [np.array(entries.counts, np.int32), entries.places.numpy(), bits.numpy()]


def unpacked(arrays: Sequence[NDArray[Any]], shapes: Sequence[torch.Size], sender: str) -> list[torch.Tensor]:
    """Float32 tensors of `shapes`.

    Raises:
        UpdateError: other shapes or types, places outside a layer, or values that are not finite. `sender` is named.
    """
    sparse = len(arrays) == 3 and arrays[0].dtype == np.int32
    update = _from_entries(arrays, shapes, sender) if sparse else _from_layers(arrays, shapes, sender)
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
    good = counts.shape == (len(sizes),) and places.dtype == np.int32 and places.ndim == 1
    good = good and places.shape == values.shape and values.dtype in (np.int16, np.float32)
    numbers = [int(n) for n in counts] if good else []
    good = good and all(0 <= n <= size for n, size in zip(numbers, sizes, strict=True)) and sum(numbers) == len(places)
    if not good or bool((places < 0).any()) or bool((places >= np.repeat(sizes, numbers)).any()):
        raise UpdateError(f"{sender} sent entries that fit none of the {len(sizes)} layers here")
    found = torch.from_numpy(np.array(values))
    found = found.view(torch.bfloat16) if values.dtype == np.int16 else found
    totals = [torch.zeros(size) for size in sizes]
    add_entries(totals, Entries(torch.from_numpy(np.array(places)), found, numbers))
    return [total.view(shape) for total, shape in zip(totals, shapes, strict=True)]


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
