"""RS-DGC: each process sends a small share of its gradients, chosen by their neighbourhoods (arXiv 2312.17530).

What it does not send it keeps and adds to its next gradients (error feedback, as in Deep Gradient Compression, Lin et
al. 2018). Deviations from the paper: docs/neighbours.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import distributed
from torch.nn import functional as F

from dpd_train.distributed import Team

WINDOW = 9  # entries: the taps of one 3 × 3 filter and its next ones
MEMORY = 0.9  # of a layer's importance from step to step
BYTES = 6  # of an entry that is sent: bfloat16 and a 32-bit place
Gather = Callable[[torch.Tensor], list[torch.Tensor]]
"""This process's tensor → those of all processes, of the same shape, in the same order everywhere."""


def neighbourhood_indicator(gradient: torch.Tensor) -> torch.Tensor:
    """Importance of each entry of a flat gradient [n]: the root mean square over the WINDOW entries around it.

    Entries lie as the weight does, so that a filter's taps are neighbours. Beyond both ends there is nothing.
    """
    squares = gradient.float().square()[None, None]
    return F.avg_pool1d(squares, WINDOW, 1, WINDOW // 2, count_include_pad=False)[0, 0].sqrt()


def shares(importance: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """How many of `total` entries each layer sends: in proportion to size × importance, at least 1, at most all."""
    wanted = [max(i, 0.0) * n for i, n in zip(importance, sizes, strict=True)]
    whole = sum(wanted)
    if not whole:
        wanted, whole = [float(n) for n in sizes], float(sum(sizes))
    return [min(n, max(1, round(total * w / whole))) for w, n in zip(wanted, sizes, strict=True)]


@dataclass(frozen=True)
class Entries:
    """What one process chose of several flat layers, one layer after the other.

    Args:
        places: [k] int32, within each layer. values: [k] bfloat16, or float32 where several processes' are added up.
        counts: how many are each layer's; k together.
    """

    places: torch.Tensor
    values: torch.Tensor
    counts: list[int]


def add_entries(totals: Sequence[torch.Tensor], entries: Entries) -> None:
    """Add each entry to its place in the flat layers `totals`, in place."""
    parts = (torch.split(tensor, entries.counts) for tensor in (entries.places, entries.values))
    for total, places, values in zip(totals, *parts, strict=True):
        total.index_add_(0, places, values.to(total.dtype))


@dataclass
class _Layer:
    residual: torch.Tensor  # [n]: what was not sent yet
    importance: float = 0.0


class RsDgc:
    """Gradients are exchanged as their most important entries, about `ratio` times fewer bytes than all of them.

    A layer's share follows its importance in what all processes sent last, which each of them knows: no word about it
    is needed. sent_bytes and dense_bytes: of this process, so far, and of float32 gradients.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.sent_bytes, self.dense_bytes = 0, 0
        self._layers: dict[int, _Layer] = {}

    def residual(self, key: int) -> torch.Tensor:
        """What this process has not sent of a gradient, flat."""
        return self._layers[key].residual

    def figures(self) -> dict[str, float]:
        """For a log: megabytes that this process sent, and that float32 gradients would have been."""
        return {"sent_mb": round(self.sent_bytes / 1e6, 3), "dense_mb": round(self.dense_bytes / 1e6, 3)}

    @torch.no_grad()
    def choose(self, gradients: Sequence[torch.Tensor], keys: Sequence[int]) -> Entries:
        """What is to be sent of the gradients and of what was kept of earlier ones; the rest is kept.

        Args:
            keys: of the gradients, the same from step to step; residuals are kept by them.
        """
        flat = [gradient.reshape(-1) for gradient in gradients]  # in the weight's order, however it lies in memory
        for key, own in zip(keys, flat, strict=True):
            if key not in self._layers:
                self._layers[key] = _Layer(torch.zeros_like(own))
        layers = [self._layers[key] for key in keys]
        sizes = [gradient.numel() for gradient in gradients]
        budget = int(4 * sum(sizes) / (BYTES * self.ratio))
        counts = shares([layer.importance for layer in layers], sizes, budget)
        chosen = []
        for own, layer, count in zip(flat, layers, counts, strict=True):
            layer.residual += own
            chosen.append(neighbourhood_indicator(layer.residual).topk(count, sorted=False).indices)
        values = [layer.residual[places].bfloat16() for layer, places in zip(layers, chosen, strict=True)]
        for layer, places, sent in zip(layers, chosen, values, strict=True):
            layer.residual[places] -= sent.to(layer.residual.dtype)  # what rounding lost is sent another time
        self.sent_bytes += BYTES * sum(counts)
        self.dense_bytes += 4 * sum(sizes)
        return Entries(torch.cat(chosen).int(), torch.cat(values), counts)

    def learn(self, totals: Sequence[torch.Tensor], keys: Sequence[int], counts: Sequence[int]) -> None:
        """What was sent of each layer decides on its share of the next ones."""
        norms = torch.stack([total.float().norm() for total in totals]).tolist()
        for key, norm, count in zip(keys, norms, counts, strict=True):
            layer = self._layers[key]
            layer.importance = MEMORY * layer.importance + (1 - MEMORY) * norm / count**0.5

    @torch.no_grad()
    def exchange(self, gradients: Sequence[torch.Tensor], keys: Sequence[int], gather: Gather) -> None:
        """Each gradient becomes the sum over processes of what they chose to send. keys: as for `choose`."""
        own = self.choose(gradients, keys)
        totals = [torch.zeros_like(gradient.reshape(-1)) for gradient in gradients]
        for places, values in zip(gather(own.places), gather(own.values), strict=True):
            add_entries(totals, Entries(places, values, own.counts))
        for gradient, total in zip(gradients, totals, strict=True):
            gradient.copy_(total.view(gradient.shape))
        self.learn(totals, keys, own.counts)


def rs_dgc_hook(
    state: RsDgc,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]  # PyTorch reads it, and its stubs lack it
) -> torch.futures.Future[torch.Tensor]:
    """A communication hook of DistributedDataParallel: `model.register_comm_hook(RsDgc(50), rs_dgc_hook)`."""
    gradients, team = bucket.gradients(), Team(distributed.get_rank(), distributed.get_world_size())
    state.exchange(gradients, [id(parameter) for parameter in bucket.parameters()], team.gather)
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer().div_(team.size))
    return done
