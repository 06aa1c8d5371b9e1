"""RS-DGC: gradients compressed by what their neighbourhoods hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import distributed
from torch.nn import functional as F

from dpd_train.distributed import Gather, Team

# -- Gradients as neighbourhoods: nine entries, each −1, 0 or 1 times a common scale, in three bytes and a position bit.
#
# The sender knows its rounding error, and sends it in a later step.


WIDTH = 9  # entries, in the weight's order: the taps of one 3 × 3 filter
CODES = 3**WIDTH
BYTES = 3  # per neighbourhood: 3⁹ codes in two bytes, the scale in one
OCTAVE = 8  # scales per halving
SCALES = torch.tensor([2.0 ** (-level / OCTAVE) for level in range(256)], dtype=torch.float64).float()
"""Scale of each level. A table, because different processors may differ in the last bit of a power."""


@dataclass(frozen=True)
class Chosen:
    """The chosen neighbourhoods of several layers, layer by layer.

    Args:
        sizes: number of neighbourhoods of each layer.
        bitmap: [Σ ⌈size / 8⌉] uint8: one bit per neighbourhood, lowest first, 1 if it was chosen. k bits are 1.
        codes: [k] int16: Σ (entry + 1) 3ⁱ. levels: [k] uint8: the scale is 2^(−level / OCTAVE) of the layer's largest.
        largest: [layers] float32: largest entry that each layer sends.
    """

    sizes: list[int]
    bitmap: torch.Tensor
    codes: torch.Tensor
    levels: torch.Tensor
    largest: torch.Tensor

    @property
    def bytes(self) -> int:
        return len(self.bitmap) + BYTES * len(self.codes) + 4 * len(self.sizes)

    def to_bytes(self) -> torch.Tensor:
        """The content as [bytes] uint8; all processes know sizes and k."""
        return torch.cat([part.view(torch.uint8) for part in (self.bitmap, self.codes, self.levels, self.largest)])

    @classmethod
    def from_bytes(cls, content: torch.Tensor, sizes: list[int], k: int) -> "Chosen":
        parts = torch.split(content, [bitmap_bytes(sizes), 2 * k, k, 4 * len(sizes)])
        kinds = (torch.uint8, torch.int16, torch.uint8, torch.float32)
        return cls(sizes, *(part.clone().view(kind) for part, kind in zip(parts, kinds, strict=True)))

    @cached_property
    def indices(self) -> list[torch.Tensor]:
        """Ascending indices of the chosen neighbourhoods of each layer."""
        parts = torch.split(self.bitmap, [bitmap_bytes([size]) for size in self.sizes])
        return [(part[:, None] >> _bits(part) & 1).flatten().nonzero().flatten() for part in parts]

    def add_to(self, layers: Sequence[torch.Tensor], factor: float = 1) -> None:
        """Add `factor` times each neighbourhood to its place in the layers [size, WIDTH]."""
        parts = (torch.split(tensor, [len(own) for own in self.indices]) for tensor in (self.codes, self.levels))
        for layer, own, codes, levels, largest in zip(layers, self.indices, *parts, self.largest, strict=True):
            entries = (codes.long()[:, None] // _powers(codes)) % 3 - 1
            layer.index_add_(0, own, entries * _scales(levels, largest), alpha=factor)


def encode(layers: Sequence[torch.Tensor], indices: Sequence[torch.Tensor]) -> Chosen:
    """Encode the neighbourhoods at `indices` of the layers [size, WIDTH] float32, at least one of each layer."""
    bitmap, codes, levels, everything = [], [], [], []
    for layer, unordered in zip(layers, indices, strict=True):
        own = unordered.sort().values
        bits = torch.zeros(8 * bitmap_bytes([len(layer)]), dtype=torch.uint8, device=layer.device)
        bits[own] = 1
        bitmap.append((bits.view(-1, 8) << _bits(bits)).sum(1).to(torch.uint8))
        entries = layer[own]
        most = entries.abs().amax(1)
        everything.append(most.max())
        below = OCTAVE * (everything[-1] / most).log2()  # 0 / 0 if all entries are 0
        levels.append(below.nan_to_num(0).clamp(0, 255).floor().to(torch.uint8))
        steps = (entries / _scales(levels[-1], everything[-1])).nan_to_num(0).round().clamp(-1, 1).long()
        codes.append(((steps + 1) * _powers(steps)).sum(1).to(torch.int16))
    sizes = [len(layer) for layer in layers]
    return Chosen(sizes, torch.cat(bitmap), torch.cat(codes), torch.cat(levels), torch.stack(everything))


def bitmap_bytes(sizes: Sequence[int]) -> int:
    """Bytes of the bitmap of layers with these numbers of neighbourhoods."""
    return sum(math.ceil(size / 8) for size in sizes)


def neighbourhoods(flat: torch.Tensor) -> torch.Tensor:
    """Flat entries as [size, WIDTH], the last row padded with zeros."""
    return F.pad(flat, (0, -len(flat) % WIDTH)).view(-1, WIDTH)


def indicator(layer: torch.Tensor) -> torch.Tensor:
    """Importance of each neighbourhood of a layer [size, WIDTH]: root mean square of its entries."""
    return layer.square().mean(1).sqrt()


def _bits(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def _powers(like: torch.Tensor) -> torch.Tensor:
    return 3 ** torch.arange(WIDTH, device=like.device)


def _scales(levels: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Scales [k, 1] of levels [k]."""
    return (largest * SCALES.to(levels.device)[levels.long()])[:, None]


# -- RS-DGC: each process sends only the most important neighbourhoods of its gradients (arXiv 2312.17530).
#
# The rest is kept and added to the next gradients (error feedback, as in Deep Gradient Compression, Lin et al. 2018).
# Deviations from the paper: docs/reference/neighbours.md.


MEMORY = 0.9  # decay of a layer's importance per step


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
