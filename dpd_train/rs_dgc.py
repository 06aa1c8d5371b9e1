"""RS-DGC: each process sends a small share of its gradients, chosen by their neighbourhoods (arXiv 2312.17530).

What it does not send it keeps and adds to its next gradients (error feedback, as in Deep Gradient Compression, Lin et
al. 2018). Deviations from the paper: docs/neighbours.md.
"""

from collections.abc import Callable, Sequence

import torch
from torch import distributed

from dpd_train.distributed import Team
from dpd_train.neighbourhoods import BYTES, Chosen, in_pieces, indicator, packed, padded

MEMORY = 0.9  # of a piece's importance from step to step
Gather = Callable[[torch.Tensor], list[torch.Tensor]]
"""This process's tensor → those of all processes, of the same shape, in the same order everywhere."""


def shares(importance: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """How many of `total` neighbourhoods each piece sends: by size × importance, at least 1, at most all."""
    wanted = [max(i, 0.0) * n for i, n in zip(importance, sizes, strict=True)]
    whole = sum(wanted)
    if not whole:
        wanted, whole = [float(n) for n in sizes], float(sum(sizes))
    return [min(n, max(1, round(total * w / whole))) for w, n in zip(wanted, sizes, strict=True)]


class _Layer:
    """One gradient's. residual: flat, what was not sent yet, padded; pieces: views of it, each with its importance."""

    def __init__(self, gradient: torch.Tensor) -> None:
        self.size = gradient.numel()
        self.residual = padded(torch.zeros_like(gradient.reshape(-1)))
        self.pieces = in_pieces(self.residual)
        self.importance = [0.0 for _ in self.pieces]


class RsDgc:
    """Gradients are exchanged as their most important neighbourhoods, about `ratio` times fewer bytes than all of them.

    A piece's share follows its importance in what all processes sent last, which each of them knows: no word about it
    is needed. sent_bytes and dense_bytes: of this process, so far, and of float32 gradients.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.sent_bytes, self.dense_bytes = 0, 0
        self._layers: dict[int, _Layer] = {}

    def residual(self, key: int) -> torch.Tensor:
        """What this process has not sent of a gradient, flat."""
        return self._layers[key].residual[: self._layers[key].size]

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
                self._layers[key] = _Layer(gradient)
            self.residual(key).add_(gradient.reshape(-1))  # in the weight's order, however it lies in memory
        layers = [self._layers[key] for key in keys]
        pieces = [piece for layer in layers for piece in layer.pieces]
        dense = 4 * sum(gradient.numel() for gradient in gradients)
        importance = [value for layer in layers for value in layer.importance]
        budget = int((dense / self.ratio - 4 * len(pieces)) / BYTES)
        counts = shares(importance, [len(piece) for piece in pieces], budget)
        places = [
            indicator(piece).topk(count, sorted=False).indices for piece, count in zip(pieces, counts, strict=True)
        ]
        found = packed([piece[chosen] for piece, chosen in zip(pieces, places, strict=True)], places)
        found.add_to(pieces, -1)  # what rounding took away is sent another time
        self.sent_bytes += found.bytes
        self.dense_bytes += dense
        return found

    @torch.no_grad()
    def add_up(self, everyone: Sequence[Chosen], keys: Sequence[int]) -> list[torch.Tensor]:
        """What all processes chose of the gradients, flat, which decides on the pieces' next shares."""
        layers = [self._layers[key] for key in keys]
        totals = [torch.zeros_like(layer.residual) for layer in layers]
        pieces = [piece for total in totals for piece in in_pieces(total)]
        for chosen in everyone:
            chosen.add_to(pieces)
        norms = iter(torch.stack([piece.float().norm() for piece in pieces]).tolist())
        counts = iter(everyone[0].counts)
        for layer in layers:
            layer.importance = [
                MEMORY * before + (1 - MEMORY) * next(norms) / next(counts) ** 0.5 for before in layer.importance
            ]
        return [total[: layer.size] for total, layer in zip(totals, layers, strict=True)]

    @torch.no_grad()
    def exchange(self, gradients: Sequence[torch.Tensor], keys: Sequence[int], gather: Gather) -> None:
        """Each gradient becomes the sum over processes of what they chose to send. keys: as for `choose`."""
        own = self.choose(gradients, keys)
        everyone = [Chosen.from_bytes(content, own.counts) for content in gather(own.to_bytes())]
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
