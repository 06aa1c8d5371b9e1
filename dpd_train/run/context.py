"""What the stages of a run share, and what they hand to each other."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dpd_runtime.annotations import Pixels, Progress
from dpd_runtime.images.bands import picture
from dpd_train.bases.base import Base
from dpd_train.bases.latents import encode_cached
from dpd_train.captions.captioners import describe_scenes
from dpd_train.captions.captions import PromptTable
from dpd_train.classifiers.network import ResNet
from dpd_train.classifiers.training import Labelled, labelled
from dpd_train.compute.device import Deadline
from dpd_train.compute.distributed import Team
from dpd_train.compute.tracking import Track
from dpd_train.config import TrainConfig
from dpd_train.diffusion.consistency import ConsistencyClassifier
from dpd_train.diffusion.denoiser import LatentData
from dpd_train.diffusion.fine_tune import History
from dpd_train.images import SceneSet
from dpd_train.prototypes.prototypes import ClassPrototypes
from dpd_train.run.data import RunData

Stages = Callable[[str], Progress]
"""Title of a stage → its progress."""
Phrases = list[tuple[str, ...]]
"""The phrases of each image."""
Parts = tuple[Labelled, Labelled]
"""Training and validation part."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every stage works with: data, config, folders, device, deadline, progress, processes and a tracker."""

    data: RunData
    config: TrainConfig
    out: Path
    cache: Path
    device: torch.device
    deadline: Deadline
    progress: Stages
    team: Team
    track: Track | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.train.classes

    @property
    def channels(self) -> int:
        """Of the images: 3 for RGB, else the number of bands."""
        return int(self.data.train.images.shape[-1])

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def state(self, name: str) -> Path:
        """The state file of a stage."""
        return self.checkpoints / f"{name}.safetensors"

    @property
    def pixels(self) -> Parts:
        """Images in [-1, 1] with labels."""
        return labelled(self.data.train), labelled(self.data.held)

    def latents(self, base: Base) -> Parts:
        """Scaled latents with labels, from the cache where an earlier run left them."""
        train, held = (
            (
                encode_cached(base.vae, s.images, s.hashes, self.cache, self.progress(title), device=self.device),
                torch.from_numpy(s.labels),
            )
            for s, title in ((self.data.train, "encoding"), (self.data.held, "encoding the validation part"))
        )
        return train, held

    def phrases(self, scenes: SceneSet, title: str) -> Phrases:
        """Phrases of each image, from the cache where an earlier session or run left them."""
        name, progress = self.config.captioner, self.progress(title)
        scenes = replace(scenes, images=picture(scenes.images, scenes.bands))
        return describe_scenes(name, scenes, cache=self.cache, device=self.device, progress=progress)


@dataclass(frozen=True)
class Tuned:
    """The base after fine-tuning.

    Args:
        config: the run's; in federated tuning with the values that the server chose.
        federated: record of a federated tuning for run.json; None for a local one.
    """

    base: Base
    history: History
    config: TrainConfig
    federated: dict[str, Any] | None = None


Tuning = Callable[[Run, Base, tuple[LatentData, LatentData], Callable[[], ConsistencyClassifier | None]], Tuned]
"""(run, base, training and validation part, what trains the classifier) → the base, tuned here or with other sites."""


@dataclass(frozen=True)
class Classifiers:
    """The teacher on pixels and the latent classifier."""

    teacher: ResNet
    latent_classifier: ResNet


@dataclass(frozen=True)
class MadePrototypes:
    """The prototypes of each class.

    Args:
        too_near: number dropped because they decode too near to a training image; None for real images' latents.
        privacy: what `guarantee` says about their noise; None without noise.
    """

    of_class: list[ClassPrototypes | None]
    too_near: int | None = None
    privacy: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run made, as it is written to the run directory.

    Args:
        samples: picture of sampled images.
        sheets: for each class a picture of its prototypes beside real images; private.
        metrics: for run.json.
    """

    tuned: Tuned
    classes: tuple[str, ...]
    prompts: PromptTable
    prototypes: MadePrototypes
    samples: Pixels
    sheets: dict[str, Pixels] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
