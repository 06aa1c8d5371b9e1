"""Optimise latent codes until watchers measure the training images' statistics in their decoded images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from dpd_runtime.annotations import Progress
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.classifiers.network import Classifier, set_learning_rate
from dpd_train.compute.checkpoint import (
    load_state,
    optimizer_tensors,
    prefixed,
    save_state,
    step_generator,
    without_prefix,
)
from dpd_train.compute.device import NEVER, Deadline, autocast, checkpointed, on_cpu, restore_moments
from dpd_train.prototypes.matching.losses import moment_losses, ridge_loss
from dpd_train.prototypes.matching.statistics import Features, Statistics, embed, maps_of
from dpd_train.prototypes.matching.views import View

CALL = 20  # codes decoded at a time
WATCHERS = 4  # that look at each decoded image: a decode with its gradient costs as much as ten of them
EXTRA = 1  # of them, that are extra ones if there are any
LAST_RATE = 0.02  # share of the first rate
CHECKPOINT_SECONDS = 120.0


See = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""Images [n, 3, H, W] in [-1, 1] → features [n, f], and logits [n, classes] if their cross-entropy counts."""


@dataclass(frozen=True)
class Watcher:
    """What codes are matched in, and its statistics of the training images.

    extra: beside the run's own networks, such as an encoder without labels.
    """

    see: See
    statistics: Statistics
    extra: bool = False


def seeing_only(features: Features) -> See:
    """How a network sees that judges no class."""
    return lambda images: (features(images), None)


def seeing(network: Classifier, *, logits: bool) -> See:
    """How a frozen network sees, with its logits if they count."""

    def see(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        maps = maps_of(network, images)
        return embed(maps), network.head(maps[-1].float().mean(dim=(2, 3))) if logits else None

    return see


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the loss's terms.

    Args:
        opinion: of the cross-entropy of watchers whose logits count.
        near_start: of the mean squared distance to the start.
    """

    means: float
    deviations: float
    ridge: float
    opinion: float
    near_start: float


FIRST = Weights(means=1.0, deviations=0.5, ridge=1.0, opinion=0.1, near_start=0.01)
LATER = Weights(means=10.0, deviations=10.0, ridge=1.0, opinion=0.1, near_start=0.01)
"""Ten images are most useful if their classes are clear, fifty if they represent the whole class: with FIRST alone
fifty were four times as far from the class means as fifty random real images, with four fifths of their deviation
(docs/results.md)."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Settings of the matching.

    Args:
        steps: for each block of ten codes per class.
        rate: Adam's first learning rate, for latents with a standard deviation of about 1.
        first, later: weights for the first block and for later ones.
    """

    steps: int
    rate: float = 0.03
    first: Weights = FIRST
    later: Weights = LATER
    seed: int = 0


def match_codes(
    start: torch.Tensor,
    decode: Callable[[torch.Tensor], torch.Tensor],
    watchers: Sequence[Watcher],
    matching: Matching,
    progress: Progress = lambda step, steps: None,
    *,
    state: Path,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    look: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Matched codes [classes, K, C, h, w] from `start`, in blocks of ten codes per class.

    A block is matched together with the earlier ones, which are fixed: each prefix of whole blocks is a matched set.

    Args:
        decode: scaled codes [n, C, h, w] → images [n, 3, H, W] in about [-1, 1], differentiable.
        watchers: on `device`.
        state: file for the unfinished state, read if it exists.
        look: called with the images [classes, k, 3, H, W] of the block that is being matched, whenever the state is
            saved.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    device = torch.device(device)
    work = _Work(start.to(device), decode, watchers, matching, device)
    begun = work.restore(state) if state.exists() else 0
    blocks = -(-start.shape[1] // BLOCK)
    steps = range(begun, blocks * matching.steps)

    def save(done: int) -> None:
        work.save(state, done)
        if look is not None:
            look(work.shown())

    for step in checkpointed(steps, save, CHECKPOINT_SECONDS, deadline, progress):
        work.advance(step)
    return work.codes.cpu()


class _Work:
    """All codes, the block that is being optimised, and its optimiser."""

    def __init__(
        self,
        start: torch.Tensor,
        decode: Callable[[torch.Tensor], torch.Tensor],
        watchers: Sequence[Watcher],
        matching: Matching,
        device: torch.device,
    ) -> None:
        self.codes = start.clone()
        self._start, self._decode, self._watchers, self._matching = start, decode, watchers, matching
        self._device, self._block = device, -1
        self._labels = torch.arange(len(start), device=device)

    def restore(self, state: Path) -> int:
        tensors, meta = load_state(state)
        self.codes = tensors["codes"].to(self._device)
        step = int(meta["step"])
        if step % self._matching.steps:
            self._begin(step // self._matching.steps)
            restore_moments(self._optimizer, without_prefix("optimizer", tensors))
        return step

    def save(self, state: Path, step: int) -> None:
        tensors = {"codes": self.codes} | prefixed("optimizer", optimizer_tensors(self._optimizer))
        save_state(state, on_cpu(tensors), {"step": step})

    def shown(self) -> torch.Tensor:
        """Images of the codes of the current block [classes, k, 3, H, W], on the CPU."""
        with torch.no_grad():
            images = self._images(self.codes[:, self._columns])
        return images.reshape(len(self.codes), -1, *images.shape[1:]).cpu()

    def _begin(self, block: int) -> None:
        """Make the codes of `block` trainable; decode earlier ones, which are fixed."""
        self._block, self._columns = block, slice(block * BLOCK, (block + 1) * BLOCK)
        self._free = self.codes[:, self._columns].clone().requires_grad_()
        self._optimizer = torch.optim.Adam([self._free], betas=(0.9, 0.95))
        before = self.codes[:, : self._columns.start]
        with torch.no_grad():
            self._settled = self._images(before) if before.numel() else None

    def _images(self, codes: torch.Tensor) -> torch.Tensor:
        """[classes, k, C, h, w] → [classes · k, 3, H, W], class by class."""
        with autocast(self._device):
            parts = [self._decode(part) for part in torch.split(codes.flatten(0, 1), CALL)]
        return torch.cat(parts).float().clamp(-1, 1)

    def advance(self, step: int) -> None:
        block, number = divmod(step, self._matching.steps)
        if block != self._block:
            self._begin(block)
        self._optimizer.zero_grad()
        self._compute_gradient(step_generator(self._matching.seed, step))
        cosine = 0.5 + 0.5 * math.cos(math.pi * number / self._matching.steps)
        set_learning_rate(self._optimizer, self._matching.rate * (LAST_RATE + (1 - LAST_RATE) * cosine))
        self._optimizer.step()
        self.codes[:, self._columns] = self._free.detach()

    def _compute_gradient(self, generator: torch.Generator) -> None:
        """Add up the gradients of WATCHERS random watchers in the decoded images, then go once through the decoder."""
        chosen = self._choose(generator)
        images = self._images(self._free)
        seen = images.detach().requires_grad_()
        for number in chosen:
            loss = self._seen_by(self._watchers[number], seen, generator) / len(chosen)
            loss.backward()  # type: ignore[no-untyped-call]
        near_start = F.mse_loss(self._free, self._start[:, self._columns])
        torch.autograd.backward([images, self._weights.near_start * near_start], [seen.grad, None])

    def _choose(self, generator: torch.Generator) -> list[int]:
        """Numbers of WATCHERS random watchers. EXTRA of them are extra ones, which are few among all."""
        order = torch.randperm(len(self._watchers), generator=generator).tolist()
        extra = [number for number in order if self._watchers[number].extra][:EXTRA]
        own = [number for number in order if not self._watchers[number].extra]
        return [*extra, *own[: WATCHERS - len(extra)]]

    @property
    def _weights(self) -> Weights:
        return self._matching.later if self._block else self._matching.first

    def _seen_by(self, watcher: Watcher, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The loss of decoded images [classes · k, 3, H, W] by one watcher, in a random view."""
        weights = self._weights
        settled = 0 if self._settled is None else len(self._settled)
        view = View(generator, len(images) + settled, images.shape[-1], self._device)
        seen, logits = watcher.see(view(images, 0))
        features = self._of_classes(watcher, seen)
        if self._settled is not None:
            with torch.no_grad():
                before, _ = watcher.see(view(self._settled, len(images)))
            features = torch.cat([self._of_classes(watcher, before), features], dim=1)
        means, deviations = moment_losses(features, watcher.statistics)
        loss = weights.means * means + weights.deviations * deviations
        loss = loss + weights.ridge * ridge_loss(features, watcher.statistics)
        if logits is not None:
            loss = loss + weights.opinion * F.cross_entropy(logits, self._labels.repeat_interleave(self._free.shape[1]))
        return loss

    def _of_classes(self, watcher: Watcher, seen: torch.Tensor) -> torch.Tensor:
        features = watcher.statistics.standard(seen)
        return features.reshape(len(self._labels), -1, features.shape[1])
