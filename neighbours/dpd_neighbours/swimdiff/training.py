"""The training of an encoder without labels."""

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dpd_neighbours.swimdiff.config import SwimDiff
from dpd_neighbours.swimdiff.contrast import KeyQueue, follow, in_groups, info_nce
from dpd_neighbours.swimdiff.diffusion import FeatureDenoiser, cosine_schedule, diffusion_loss
from dpd_neighbours.swimdiff.unlabelled import Unlabelled
from dpd_neighbours.swimdiff.views import random_views
from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_train.compute import NEVER, Deadline, adamw, autocast, decay_groups, epoch_rows, to_device
from dpd_train.loop import State, Task, Tensors, train, trapezium
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.scene_set import to_float

log = logging.getLogger(__name__)
PROJECTION = 64  # width of queries and keys
AVERAGED = 50  # steps of one line of the losses
Losses = list[dict[str, float]]
"""One line for every AVERAGED steps: "step", and the means of "contrast", "diffusion" and "feature_std".

The last is the standard deviation over a batch of features at length 1, times √F. It is 0 if all features are the same,
and at most 1.
"""


def encoder_shape() -> ResNetConfig:
    """1.2 M parameters, features of 256 numbers. The head is the last layer of the contrast's projection."""
    return ResNetConfig(
        num_classes=PROJECTION, widths=(32, 64, 128, 256), blocks=(1, 1, 1, 1), stem_stride=2, dropout=0.0
    )


class _Projector(nn.Module):
    """An encoder with the MLP head of MoCo v2, whose last layer is the encoder's own head."""

    def __init__(self, shape: ResNetConfig) -> None:
        super().__init__()
        self.encoder = ResNet(shape)
        self.hidden = nn.Linear(shape.widths[-1], shape.widths[-1])

    def project(self, maps: torch.Tensor) -> torch.Tensor:
        """Queries or keys [B, PROJECTION] at length 1, from the encoder's last map [B, F, s, s]."""
        hidden = torch.relu(self.hidden(maps.float().mean(dim=(2, 3))))
        units: torch.Tensor = F.normalize(self.encoder.head(hidden), dim=1)
        return units


def spread(features: torch.Tensor) -> torch.Tensor:
    """Standard deviation of features [B, F] at length 1, mean over F, times √F."""
    return F.normalize(features, dim=1).std(dim=0).mean() * math.sqrt(features.shape[1])


class _Swim:
    """Networks, queue and losses of one training: what a step computes, and what it leaves behind."""

    def __init__(
        self, shape: ResNetConfig, training: SwimDiff, data: Unlabelled, device: torch.device, known: Mapping[str, Any]
    ) -> None:
        """Args:
        known: what a state file must have been made with.
        """
        self.training, self.device, self.schedule = training, device, cosine_schedule()
        self.data, self.known = data, known
        self.images = torch.from_numpy(data.images)
        self.scenes = to_device(torch.from_numpy(data.scenes), device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.fast, self.denoiser = _Projector(shape), FeatureDenoiser(shape.widths[-1])
        self.modules = nn.ModuleDict({"fast": self.fast, "denoiser": self.denoiser}).train()
        self.modules.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.slow = copy.deepcopy(self.fast).requires_grad_(False)
        self.queue = KeyQueue(training.queue, shape.num_classes, device)
        self.optimizer = adamw(decay_groups(self.modules.parameters(), training.weight_decay), device)
        self.losses: Losses = []
        self.sums = torch.zeros(3, device=device)  # of a line's losses, read only when the line is complete
        self.waiting: tuple[torch.Tensor, torch.Tensor] | None = None  # keys and scenes of the step, for the queue

    @property
    def task(self) -> Task:
        training = self.training
        return Task(
            modules={"modules": self.modules, "slow": self.slow},
            trained=list(self.modules.parameters()),
            optimizer=self.optimizer,
            rate=trapezium(training.steps, training.peak_rate),
            loss=self.loss,
            after=self.after,
            kept=self.kept,
            restore=self.restore,
        )

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """The random numbers are the same whatever the weights of the losses."""
        training, images, scenes = self.training, self.images, self.scenes
        rows = epoch_rows(len(images), training.batch, self.data.weights, training.seed, step)
        pixels = to_float(to_device(images[rows], self.device))
        queried, keyed = (_fast(random_views(pixels, generator)) for _ in range(2))
        noise = torch.randn(pixels.shape, generator=generator)
        timesteps = torch.randint(self.schedule.num_train_timesteps, (training.batch,), generator=generator)
        order = torch.randperm(training.batch, generator=generator)
        with self._autocast():
            maps = self.fast.encoder.features(queried)[-1]
        zero = torch.zeros((), device=self.device)
        contrast, keys = self._contrast(maps, keyed, scenes[rows], order) if training.contrast_weight else (zero, None)
        diffusion = zero
        if training.diffusion_weight:
            shaken = to_device(noise, self.device)
            with self._autocast():
                diffusion = diffusion_loss(self.denoiser, maps, queried, shaken, timesteps, self.schedule)
        self.waiting = None if keys is None else (keys, scenes[rows])
        features = maps.detach().float().mean(dim=(2, 3))
        self.sums += torch.stack([contrast.detach(), diffusion.detach(), spread(features)])
        return training.contrast_weight * contrast + training.diffusion_weight * diffusion

    def after(self, done: int) -> None:
        if self.waiting is not None:
            follow(self.slow, self.fast, self.training.momentum)
            self.queue.add(*self.waiting)
        if done % AVERAGED == 0 or done == self.training.steps:
            self._write_line(done)

    def _contrast(
        self, maps: torch.Tensor, keyed: torch.Tensor, scenes: torch.Tensor, order: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            keys = in_groups(self._keys, keyed, to_device(order, self.device))
        hidden = self.queue.hidden_from(scenes, self.training.same_scene_negatives)
        return info_nce(self.fast.project(maps), keys, self.queue.keys, hidden, self.training.temperature), keys

    def _keys(self, images: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            maps = self.slow.encoder.features(images)[-1]
        return self.slow.project(maps)

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, enabled=self.training.bfloat16)

    def _write_line(self, done: int) -> None:
        values = (self.sums / (done - (self.losses[-1]["step"] if self.losses else 0))).tolist()
        self.sums.zero_()
        names = ("contrast", "diffusion", "feature_std")
        self.losses.append({"step": done, **{name: round(v, 5) for name, v in zip(names, values, strict=True)}})
        log.info("step %d contrast %.3f diffusion %.4f feature deviation %.3f", done, *values)

    def restore(self, path: Path, tensors: Tensors, meta: dict[str, Any]) -> None:
        """Raises:
        InputError: the state is that of another training.
        """
        if meta.get("known") != self.known:
            raise InputError(
                f"{path} is the state of a training with other settings or images; "
                "give the same, choose another --state, or delete it"
            )
        self.queue.keys.copy_(tensors["queue.keys"])
        self.queue.scenes.copy_(tensors["queue.scenes"])
        self.queue.position, self.losses = int(meta["position"]), meta["losses"]
        self.sums.copy_(tensors["sums"])

    def kept(self, done: int) -> State:
        tensors = {"queue.keys": self.queue.keys, "queue.scenes": self.queue.scenes, "sums": self.sums}
        return tensors, {"position": self.queue.position, "losses": self.losses, "known": dict(self.known)}


def _fast(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def train_swimdiff(
    data: Unlabelled,
    training: SwimDiff,
    progress: Progress = lambda step, steps: None,
    *,
    shape: ResNetConfig | None = None,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    state: Path | None = None,
) -> tuple[ResNet, Losses]:
    """Train an encoder on images alone.

    Args:
        shape: of the encoder, whose stages leave at least one cell; None is `encoder_shape`.
        state: file that is written every minute and when the deadline passes, and read if it exists.

    Returns:
        the query encoder after the last step, on the CPU in evaluation mode, and the losses.

    Raises:
        InputError: `state` is that of another training.
        TimeUp: the deadline passed; the state is saved.
    """
    known = {"training": asdict(training), "data": data.record, "side": int(data.images.shape[1])}
    swim = _Swim(shape or encoder_shape(), training, data, torch.device(device), known)
    train(swim.task, training.steps, training.seed, progress, state=state, deadline=deadline)
    return swim.fast.encoder.cpu().eval(), swim.losses
