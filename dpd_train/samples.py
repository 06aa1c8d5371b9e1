"""What another package makes of the training images before a run uses them (the door `dpd.samples`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_runtime.annotations import Pixels, Progress
from dpd_train.doors import open_named
from dpd_train.records import RunRecord
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import Scenes

if TYPE_CHECKING:
    import torch

Stage = Callable[[str], Progress]
"""Title of a stage → its progress, (done, total) → None."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a sample is made of, and what it may use.

    Args:
        scenes: the images, opened; at another size than the run's, too. train: their training part at the run's side,
            without near duplicates, as earlier samples left it.
        seed: of the run. cache: folder for what takes long, which is private.
    """

    scenes: Scenes
    train: SceneSet
    seed: int
    cache: Path
    device: "torch.device | str"
    stage: Stage


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The training images that the run uses.

    Args:
        train: fewer images than it was given, or others; each image that is not the given one has a hash of its own.
        record: entries of run.json that say what was done; those of other packages are {"samples": {NAME: …}}.
        picture: of it, [H, W, 3]; private.
    """

    train: SceneSet
    record: RunRecord = field(default_factory=RunRecord)
    picture: Pixels | None = None


def anything(scenes: Scenes, side: int) -> None:
    """Accept images of any size."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One of `--samples`: what a function behind the door returns for its argument.

    Args:
        take: makes the training images of the run.
        check: raises InputError before anything is decoded, where it cannot be used for these scenes and this side.
        cuts: whether it looks at images of RGB at their own size, in place of the run's.
    """

    take: Callable[[Look], Taken]
    check: Callable[[Scenes, int], None] = anything
    cuts: bool = False


def samples_of(named: str | None) -> tuple[Sample, ...]:
    """The samples that `--samples` names, in their order.

    Raises:
        InputError: no installed package offers one of the names, or it refuses its argument.
    """
    return tuple(open_named("dpd.samples", part.strip(), "--samples") for part in (named or "").split(",") if part)


def record_of(samples: Sequence[Taken]) -> RunRecord:
    """The entries of run.json that say what was done."""
    record = RunRecord()
    for taken in samples:
        record |= taken.record
    return record
