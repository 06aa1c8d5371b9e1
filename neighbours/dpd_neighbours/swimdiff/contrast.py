"""Momentum contrast: the queue of keys, the loss, and the encoder that follows."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

GROUPS = 4  # of a batch's keys
NOTHING = -1  # scene of a place in the queue that has no key yet


class KeyQueue:
    """The newest keys with their scenes, first in, first out (He et al. 2020, section 3.2).

    Args:
        length: number of keys. width: of a key.
    """

    def __init__(self, length: int, width: int, device: torch.device) -> None:
        self.keys = torch.zeros(length, width, device=device)
        self.scenes = torch.full((length,), NOTHING, dtype=torch.int64, device=device)
        self.position = 0

    def add(self, keys: torch.Tensor, scenes: torch.Tensor) -> None:
        """Replace the oldest keys by `keys` [B, D] of `scenes` [B] int64, B at most the length."""
        places = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[places], self.scenes[places] = keys, scenes
        self.position = (self.position + len(keys)) % len(self.keys)

    def hidden_from(self, scenes: torch.Tensor, same_scene_negatives: bool) -> torch.Tensor:
        """Keys that are not negatives of queries of `scenes` [B]: bool [B, length].

        They are the places without a key and, unless `same_scene_negatives`, the keys of the query's own scene, which
        would be false negatives (SwiMDiff).
        """
        empty = (self.scenes == NOTHING).expand(len(scenes), -1)
        return empty if same_scene_negatives else empty | (scenes[:, None] == self.scenes)


def info_nce(
    queries: torch.Tensor, keys: torch.Tensor, negatives: torch.Tensor, hidden: torch.Tensor, temperature: float
) -> torch.Tensor:
    """−log of the softmax of q·k⁺ among itself and the negatives, divided by the temperature; mean over the batch.

    Eq. 1 of MoCo (He et al. 2020), with hidden negatives left out of the sum.

    Args:
        queries, keys: unit vectors [B, D]; row i of `keys` is the positive of row i of `queries`.
        negatives: unit vectors [K, D]. hidden: bool [B, K], those that do not count.
    """
    positive = (queries * keys).sum(dim=1, keepdim=True)
    others = (queries @ negatives.T).masked_fill(hidden, float("-inf"))
    logits = torch.cat([positive, others], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def in_groups(
    encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, order: torch.Tensor
) -> torch.Tensor:
    """Keys [B, D] of images [B, ...], encoded in GROUPS of about equal size, or fewer so that each has two images.

    Batch statistics of a mixed group say little about the query's batch, so that they do not give the positive away.
    MoCo (He et al. 2020, section 3.3) shuffles batches between GPUs for that. With running statistics the encoder
    hardly learned (docs/reference/neighbours.md).

    Args:
        order: a permutation [B] int64; neighbours in it share a group.
    """
    groups = max(1, min(GROUPS, len(order) // 2))
    keys = torch.cat([encode(images[rows]) for rows in order.tensor_split(groups)])
    return keys[order.argsort()]


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Move the weights of `slow` towards those of `fast` (He et al. 2020, eq. 2)."""
    for ours, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
        ours.lerp_(theirs, 1 - momentum)
