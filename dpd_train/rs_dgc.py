"""RS-DGC: each process sends a small share of its gradients, chosen by their neighbourhoods (arXiv 2312.17530).

What it does not send it keeps and adds to its next gradients (error feedback, as in Deep Gradient Compression, Lin et
al. 2018). Deviations from the paper: docs/neighbours.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import distributed

from dpd_train.distributed import Team
from dpd_train.neighbourhoods import BYTES, Chosen, indicator, mark_bytes, neighbourhoods, packed

MEMORY = 0.9  # of a layer's importance from step to step
Gather = Callable[[torch.Tensor], list[torch.Tensor]]
"""This process's tensor → those of all processes, of the same shape, in the same order everywhere."""


def shares(importance: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """How many of `total` neighbourhoods each layer sends: in proportion to size × importance, at least 1, at most all.

    What is beyond all of a layer goes to the others.
    """
    weights = [max(i, 0.0) * n for i, n in zip(importance, sizes, strict=True)]
    weights = weights if any(weights) else [float(n) for n in sizes]
    found, open_ = list(sizes), list(range(len(sizes)))
    while open_:
        rest, whole = total - sum(found) + sum(found[i] for i in open_), sum(weights[i] for i in open_)
        wanted = {i: rest * weights[i] / whole if whole else 0.0 for i in open_}
        remaining = [i for i in open_ if wanted[i] < sizes[i]]
        if len(remaining) == len(open_):
            for i in open_:
                found[i] = max(1, round(wanted[i]))
            break
        open_ = remaining
    return found


@dataclass
class _Layer:
    rows: torch.Tensor  # [neighbourhoods, WIDTH]: what was not sent yet
    entries: int
    importance: float = 0.0


class RsDgc:
    """Gradients are exchanged as their most important neighbourhoods, about `ratio` times fewer bytes than all of them.

    A layer's share follows its importance in what all processes sent last, which each of them knows: no word about it
    is needed. sent_bytes and dense_bytes: of this process, so far, and of float32 gradients.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.sent_bytes, self.dense_bytes = 0, 0
        self._layers: dict[int, _Layer] = {}

    def residual(self, key: int) -> torch.Tensor:
        """What this process has not sent of a gradient, flat."""
        return self._layers[key].rows.view(-1)[: self._layers[key].entries]

    def figures(self) -> dict[str, float]:
        """For a log: megabytes that this process sent, and that float32 gradients would have been."""
        return {"sent_mb": round(self.sent_bytes / 1e6, 3), "dense_mb": round(self.dense_bytes / 1e6, 3)}

    @torch.no_grad()
    def choose(self, gradients: Sequence[torch.Tensor], keys: Sequence[int]) -> Chosen:
        """What is to be sent of the gradients and of what was kept of earlier ones; the rest is kept.

        Args:
            keys: of the gradients, the same from step to step; residuals are kept by them.
        """
        for key, gradient in zip(keys, gradients, strict=True):
            if key not in self._layers:
                zeros = torch.zeros_like(gradient.reshape(-1))
                self._layers[key] = _Layer(neighbourhoods(zeros), len(zeros))
            self.residual(key).add_(gradient.reshape(-1))  # in the weight's order, however it lies in memory
        rows = [self._layers[key].rows for key in keys]
        sizes, dense = [len(own) for own in rows], 4 * sum(gradient.numel() for gradient in gradients)
        budget = int((dense / self.ratio - mark_bytes(sizes) - 4 * len(sizes)) / BYTES)
        counts = shares([self._layers[key].importance for key in keys], sizes, budget)
        places = [indicator(own).topk(count, sorted=False).indices for own, count in zip(rows, counts, strict=True)]
        found = packed(rows, places)
        found.add_to(rows, -1)  # what rounding took away is sent another time
        self.sent_bytes += found.bytes
        self.dense_bytes += dense
        return found

    @torch.no_grad()
    def add_up(self, everyone: Sequence[Chosen], keys: Sequence[int]) -> list[torch.Tensor]:
        """What all processes chose of the gradients, flat, which decides on the layers' next shares."""
        layers = [self._layers[key] for key in keys]
        totals = [torch.zeros_like(layer.rows) for layer in layers]
        for chosen in everyone:
            chosen.add_to(totals)
        norms = torch.stack([total.float().norm() for total in totals]).tolist()
        for layer, norm, own in zip(layers, norms, everyone[0].places(), strict=True):
            layer.importance = MEMORY * layer.importance + (1 - MEMORY) * norm / len(own) ** 0.5
        return [total.view(-1)[: layer.entries] for total, layer in zip(totals, layers, strict=True)]

    @torch.no_grad()
    def exchange(self, gradients: Sequence[torch.Tensor], keys: Sequence[int], gather: Gather) -> None:
        """Each gradient becomes the sum over processes of what they chose to send. keys: as for `choose`."""
        own = self.choose(gradients, keys)
        everyone = [Chosen.from_bytes(content, own.sizes, len(own.codes)) for content in gather(own.to_bytes())]
        for gradient, total in zip(gradients, self.add_up(everyone, keys), strict=True):
            gradient.copy_(total.view(gradient.shape))


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
