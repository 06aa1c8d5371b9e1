"""RS-DGC: each process sends only the most important neighbourhoods of its gradients (arXiv 2312.17530).

The rest is kept and added to the next gradients (error feedback, as in Deep Gradient Compression, Lin et al. 2018).
Deviations from the paper: docs/reference/neighbours.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import distributed

from dpd_train.compute.distributed import Team
from dpd_train.compute.neighbourhoods import BYTES, Chosen, bitmap_bytes, encode, indicator, neighbourhoods

MEMORY = 0.9  # decay of a layer's importance per step
Gather = Callable[[torch.Tensor], list[torch.Tensor]]
"""This process's tensor → the tensors of all processes, of the same shape, in the same order everywhere."""


def shares(importance: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """How many of `total` neighbourhoods each layer sends: in proportion to size × importance, at least 1, at most all.

    What a layer cannot use goes to the others. The shares add up to `total` wherever possible, whatever the last bits
    of `importance` are, so that all messages have one length although processes round differently.
    """
    room = [n - 1 for n in sizes]
    rest = left = min(max(total, len(sizes)), sum(sizes)) - len(sizes)
    weights = [max(i, 0.0) * n for i, n in zip(importance, sizes, strict=True)]
    wanted, open_ = [0.0] * len(sizes), list(range(len(sizes)))
    while open_:
        by = weights if any(weights[i] for i in open_) else room
        whole = sum(by[i] for i in open_)
        share = {i: left * by[i] / whole if whole else 0.0 for i in open_}
        full = [i for i in open_ if share[i] >= room[i]]
        for i in full or open_:
            wanted[i] = room[i] if full else share[i]
        left -= sum(room[i] for i in full)
        open_ = [i for i in open_ if i not in full] if full else []
    counts = [int(value) for value in wanted]
    behind = sorted(range(len(sizes)), key=lambda i: counts[i] - wanted[i])  # largest remainders first
    for i in behind[: rest - sum(counts)]:
        counts[i] += 1
    return [1 + count for count in counts]


@dataclass
class _Layer:
    rows: torch.Tensor  # [neighbourhoods, WIDTH] float32: what has not been sent yet
    entries: int
    importance: float = 0.0


class RsDgc:
    """Exchange the most important neighbourhoods of gradients, in about `ratio` times fewer bytes than all of them.

    A layer's share follows its importance in what all processes sent last. Every process knows that, so shares need no
    message. `sent_bytes` counts what this process has sent, `dense_bytes` what float32 gradients would have needed.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.sent_bytes, self.dense_bytes = 0, 0
        self._layers: dict[int, _Layer] = {}

    def residual(self, key: int) -> torch.Tensor:
        """The unsent part of a gradient, flat, in the order of the weight."""
        return self._layers[key].rows.view(-1)[: self._layers[key].entries]

    def figures(self) -> dict[str, float]:
        """Megabytes for a log: what this process sent, and what float32 gradients would have needed."""
        return {"sent_mb": round(self.sent_bytes / 1e6, 3), "dense_mb": round(self.dense_bytes / 1e6, 3)}

    @torch.no_grad()
    def send(self, gradients: Sequence[torch.Tensor], keys: Sequence[int]) -> Chosen:
        """Choose what to send of the gradients and of earlier residuals; keep the rest.

        Args:
            keys: one for each gradient, the same in every step; residuals are stored under them.
        """
        chosen = self._chosen(gradients, keys)
        self._added_up([chosen], keys)
        return chosen

    @torch.no_grad()
    def exchange(self, gradients: Sequence[torch.Tensor], keys: Sequence[int], gather: Gather) -> None:
        """Replace each gradient by the sum of what all processes chose to send. keys: as for `send`."""
        own = self._chosen(gradients, keys)
        everyone = [Chosen.from_bytes(content, own.sizes, len(own.codes)) for content in gather(own.to_bytes())]
        for gradient, total in zip(gradients, self._added_up(everyone, keys), strict=True):
            gradient.copy_(total.view(gradient.shape))

    def _chosen(self, gradients: Sequence[torch.Tensor], keys: Sequence[int]) -> Chosen:
        for key, gradient in zip(keys, gradients, strict=True):
            if key not in self._layers:
                zeros = torch.zeros(gradient.numel(), device=gradient.device)
                self._layers[key] = _Layer(neighbourhoods(zeros), len(zeros))
            self.residual(key).add_(gradient.reshape(-1))  # in the order of the weight, whatever its memory layout
        rows = [self._layers[key].rows for key in keys]
        sizes, dense = [len(own) for own in rows], 4 * sum(gradient.numel() for gradient in gradients)
        budget = int((dense / self.ratio - bitmap_bytes(sizes) - 4 * len(sizes)) / BYTES)
        counts = shares([self._layers[key].importance for key in keys], sizes, budget)
        indices = [indicator(own).topk(count, sorted=False).indices for own, count in zip(rows, counts, strict=True)]
        chosen = encode(rows, indices)
        chosen.add_to(rows, -1)  # the rounding error is sent later
        self.sent_bytes += chosen.bytes
        self.dense_bytes += dense
        return chosen

    def _added_up(self, everyone: Sequence[Chosen], keys: Sequence[int]) -> list[torch.Tensor]:
        """The sum of what all processes sent, flat. It also decides the layers' next shares."""
        layers = [self._layers[key] for key in keys]
        totals = [torch.zeros_like(layer.rows) for layer in layers]
        for chosen in everyone:
            chosen.add_to(totals)
        norms = torch.stack([total.norm() for total in totals]).tolist()
        for layer, norm, own in zip(layers, norms, everyone[0].indices, strict=True):
            layer.importance = MEMORY * layer.importance + (1 - MEMORY) * norm / len(own) ** 0.5
        return [total.view(-1)[: layer.entries] for total, layer in zip(totals, layers, strict=True)]


def rs_dgc_hook(
    state: RsDgc,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]  # PyTorch reads the annotation, and its stubs lack the name
) -> torch.futures.Future[torch.Tensor]:
    """Communication hook of DistributedDataParallel: `model.register_comm_hook(RsDgc(50), rs_dgc_hook)`.

    It uses the default process group.
    """
    team = Team(distributed.get_rank(), distributed.get_world_size())
    # the bucket has flat gradients in the memory layout of the parameters, for example channels last
    gradients = [
        g.as_strided(p.shape, p.stride()) for g, p in zip(bucket.gradients(), bucket.parameters(), strict=True)
    ]
    state.exchange(gradients, [id(parameter) for parameter in bucket.parameters()], team.gather)
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer().div_(team.size))
    return done
