"""The server's part of a round: the extrapolated mean of the sites' updates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dpd_neighbours.federated.packet import Arrays, compressed, dense, extrapolation, size_of, unpacked, weighted_mean
from dpd_neighbours.federated.settings import MOST_IMAGES, Settings, UpdateError, ratio_in
from dpd_neighbours.federated.shared import Shared
from dpd_neighbours.rs_dgc import RsDgc
from dpd_runtime.text import counted
from dpd_train.bases import Base
from dpd_train.config import TrainConfig
from dpd_train.tuning import History, trained_parts, tuned_base

MOST_LOSS = 1e9


@dataclass(frozen=True)
class Sent:
    """What a site sent after a round. images: number it trained on. loss: smoothed training loss."""

    arrays: Arrays
    images: int
    loss: float


class Coordinator:
    """The server: it holds the shared weights and needs no images."""

    def __init__(self, base: Base, config: TrainConfig, settings: Settings, clients: int) -> None:
        self.base, self.config, self.settings = base, config, settings
        unet, text_encoder = trained_parts(base, config)
        self.shared = Shared(nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}))
        ratio = ratio_in(config)  # the server sends back as much as all sites sent, so that little is delayed
        self.compression = None if ratio is None else RsDgc(ratio / clients)
        self.history: History = []

    def average(self, sent: Sequence[Sent]) -> Arrays:
        """Add the mean update to the shared weights, and return it for all sites.

        Raises:
            UpdateError: a value that cannot be used.
        """
        shapes = self.shared.shapes
        for number, one in enumerate(sent):
            _check(one.loss, one.images, 1, number)
        updates = [unpacked(one.arrays, shapes, f"site {number}") for number, one in enumerate(sent)]
        images = [one.images for one in sent]
        mean = weighted_mean(updates, images)
        longer = extrapolation(updates, images, mean)
        step = [longer * layer for layer in mean]
        if not all(bool(layer.isfinite().all()) for layer in step):
            raise UpdateError("the sites' updates add up to values that are not finite; one of them is far too large")
        back = dense(step) if self.compression is None else compressed(step, self.compression)
        self.shared.add(unpacked(back, shapes, "the server"))
        number = self.shared.rounds
        self.history.append(
            {
                "round": number,
                "step": self.settings.end_of(number),
                "loss": sum(one.loss * one.images for one in sent) / sum(images),
                "extrapolation": longer,
                "sent_bytes": sum(size_of(one.arrays) for one in sent),
                "returned_bytes": len(sent) * size_of(back),
                "dense_bytes": len(sent) * 4 * sum(shape.numel() for shape in shapes),
            }
        )
        return back

    def hear(self, losses: Sequence[tuple[float, int]]) -> None:
        """Take the sites' validation losses after a round, each with its number of images.

        Raises:
            UpdateError: a value that cannot be used.
        """
        for number, (loss, count) in enumerate(losses):
            _check(loss, count, 0, number)  # a site may have no validation part
        images = sum(count for _, count in losses)
        if images:
            self.history[-1]["validation_loss"] = sum(loss * count for loss, count in losses) / images

    def finished(self, adapter: Path) -> Base:
        """The base with the averaged weights."""
        average = self.shared.average
        return tuned_base(self.base, self.config, average["unet"], average["text_encoder"], adapter)


def _check(loss: float, images: int, fewest: int, number: int) -> None:
    if not fewest <= images <= MOST_IMAGES or not abs(loss) <= MOST_LOSS:  # false for nan too
        raise UpdateError(
            f"site {number} reports a loss of {loss:g} on {counted(images, 'image')}; a finite loss on {fewest} to "
            f"{MOST_IMAGES:,} images is possible: its training has failed"
        )
