"""A site's part of a round: train some steps on its own images from the shared weights, and send the change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from dpd_neighbours.federated.packet import Arrays, compressed, dense, unpacked
from dpd_neighbours.federated.settings import Settings, UpdateError, ratio_in
from dpd_neighbours.federated.shared import Shared, base_hash
from dpd_neighbours.rs_dgc import RsDgc
from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_train.bases import Base
from dpd_train.compute import load_state, placed, prefixed, save_state
from dpd_train.config import TrainConfig
from dpd_train.denoiser import ConsistencyClassifier, LatentData, train_denoiser, validation_loss
from dpd_train.tracking import Track
from dpd_train.tuning import History, denoiser_training, frozen_norms_in_float32, trained_parts, tuned_base


@dataclass(frozen=True, kw_only=True)
class SiteInputs:
    """What a site trains on. It stays at the site: the server gets only updates, losses and numbers of images.

    Args:
        data: training and validation part. config: the site's own. state: state file of the training.
    """

    base: Base
    data: tuple[LatentData, LatentData]
    classes: tuple[str, ...]
    config: TrainConfig
    state: Path
    device: torch.device | str = "cpu"
    classifier: ConsistencyClassifier | None = None
    track: Track | None = None
    progress: Progress = lambda step, steps: None

    def check(self, settings: Settings) -> None:
        """Check that the site fits the server.

        Raises:
            InputError: classes, base or image size are not the server's.
        """
        unknown = [name for name in self.classes if name not in settings.classes]
        if unknown:
            raise InputError(
                f"class {unknown[0]!r} is none of the server's, {', '.join(settings.classes)}: rename the folder, or "
                "add it to the server's --classes"
            )
        own = base_hash(self.base)
        if own != settings.base:
            raise InputError(
                f"--base {self.config.base}: its weights ({own[:12]}…) are not those of the server's base "
                f"({settings.base[:12]}…); give the same on all"
            )
        if self.base.resolution != settings.side:
            raise InputError(
                f"images are {self.base.resolution} px here and {settings.side} px at the server: give the same "
                "--resolution on all"
            )


class TrainingSite:
    """Site number `number` of a federated tuning: its weights, optimiser, and what it has not sent yet."""

    def __init__(self, inputs: SiteInputs, settings: Settings, number: int) -> None:
        inputs.check(settings)
        self.inputs, self.settings = inputs, settings
        self.config = settings.applied(inputs.config)
        ratio = ratio_in(self.config)  # of the server, whose word opens no door here
        training = denoiser_training(replace(self.config, grad_compression=None))
        self._training = replace(training, seed=self.config.seed + number, validate_every=self.config.steps)
        unet, text_encoder = trained_parts(inputs.base, self.config)
        self._modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
        self.shared = Shared(self._modules)
        self.compression = None if ratio is None else RsDgc(ratio)
        self.history: History = []
        inputs.state.unlink(missing_ok=True)  # of an interrupted tuning, which cannot be continued

    @property
    def images(self) -> int:
        return len(self.inputs.data[0].latents)

    def fit(self, number: int) -> tuple[Arrays, float]:
        """Train round `number`, counted from 1. Returns the arrays to send, and the smoothed training loss."""
        if number != self.shared.rounds + 1:
            raise UpdateError(
                f"the server asks for round {number}, this site has done {self.shared.rounds}; start all again"
            )
        inputs = self.inputs
        if inputs.state.exists():
            self._begin_from_shared()
        with frozen_norms_in_float32(inputs.base, self.config):
            train_denoiser(
                self._modules["unet"],
                self._modules["text_encoder"],
                *inputs.data,
                inputs.base.schedule,
                self._training,
                inputs.state,
                lambda step, _: inputs.progress(step, self.config.steps),
                classifier=inputs.classifier,
                device=inputs.device,
                track=inputs.track,
                until=self.settings.end_of(number),
            )
        loss = float(load_state(inputs.state)[1]["recent"])
        self.history.append({"round": number, "step": self.settings.end_of(number), "loss": loss})
        return self._sent(), loss

    def take(self, arrays: Sequence[NDArray[Any]]) -> tuple[float, int]:
        """Take the mean update. Returns the validation loss of the averaged weights here, and its number of images.

        Raises:
            UpdateError: the arrays cannot be used.
        """
        self.shared.add(unpacked(arrays, self.shared.shapes, "the server"))
        held, schedule = self.inputs.data[1], self.inputs.base.schedule
        if not len(held.latents):
            return 0.0, 0
        with placed(self.shared.average, torch.device(self.inputs.device)):
            loss = validation_loss(self.shared.average, held, schedule, self._training.min_snr_gamma)
        self.history[-1]["validation_loss"] = loss
        return loss, len(held.latents)

    def finished(self, adapter: Path) -> Base:
        """The base with the averaged weights."""
        average = self.shared.average
        return tuned_base(self.inputs.base, self.config, average["unet"], average["text_encoder"], adapter)

    def _begin_from_shared(self) -> None:
        """Put the shared weights into the state file in place of its own; moments and step stay."""
        tensors, meta = load_state(self.inputs.state)
        save_state(self.inputs.state, tensors | prefixed("modules", self.shared.modules.state_dict()), meta)

    @torch.no_grad()
    def _sent(self) -> Arrays:
        pairs = zip(self._modules.parameters(), self.shared.modules.parameters(), strict=True)
        change = [(own.detach().cpu() - known).contiguous() for own, known in pairs]
        return dense(change) if self.compression is None else compressed(change, self.compression)
