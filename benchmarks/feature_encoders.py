"""The encoders of `features.py`: variants of SwiMDiff, some seeds of each, in folders named by what decides them."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kept import digest

from dpd_runtime.files import write_atomically
from dpd_train.classifiers.encoder import RECORD
from dpd_train.pretrain.pool import Sources
from dpd_train.pretrain.swimdiff.config import SwimDiff
from dpd_train.pretrain.swimdiff.features import pretrain_features

FORMAT = 3  # raise it when the training gives other weights; 3: keys have batch statistics
UNTRAINED = "untrained"
VARIANTS: dict[str, dict[str, Any]] = {
    "swimdiff": {},
    "moco": {"diffusion_weight": 0.0, "same_scene_negatives": True},
    "contrast": {"diffusion_weight": 0.0},
    "diffusion": {"contrast_weight": 0.0},
    UNTRAINED: {"diffusion_weight": 0.0, "peak_rate": 0.0, "steps": 300},  # sets the batch statistics alone
}


@dataclass(frozen=True)
class Eyes:
    """One encoder that is to be trained.

    Args:
        row: name of its variant. training.seed is also the seed of the crops.
    """

    row: str
    training: SwimDiff
    sources: Sources
    folder: Path


def planned(
    rows: Sequence[str], seeds: int, training: SwimDiff, sources: Sources, images: str, work: Path
) -> list[Eyes]:
    """The encoders, all variants of a seed after one another.

    Args:
        images: hash of the training images. The name of a folder has a hash of it and of all settings.
    """
    found = []
    for seed in range(seeds):
        for row in rows:
            own, place = replace(training, seed=seed, **VARIANTS[row]), replace(sources, seed=seed)
            decided = {name: value for name, value in asdict(place).items() if name != "data"}
            key = {"format": FORMAT, "training": asdict(own), "sources": decided, "images": images}
            found.append(Eyes(row, own, place, work / f"{row}-{seed}-{digest(key)}"))
    return found


def train_all(plans: Sequence[Eyes], max_minutes: float | None) -> None:
    """Train what is not there yet. Ends the program where time is up; the same call continues."""
    begun = time.monotonic()
    for eyes in plans:
        if (eyes.folder / RECORD).is_file():
            continue
        left = None if max_minutes is None else max(0.0, max_minutes - (time.monotonic() - begun) / 60)
        state = eyes.folder.with_name(f"{eyes.folder.name}.state")
        made = pretrain_features(
            eyes.sources, eyes.folder, state, eyes.training, _said(eyes.folder.name), max_minutes=left
        )
        _add_session(eyes.folder, made["timing"]["swimdiff"])
        if "unfinished" in made:
            sys.exit(f"{eyes.folder.name}: {made['unfinished']}; run the same command again to continue")


def encoder_record(eyes: Eyes) -> dict[str, Any]:
    """Settings, hashes, first and last losses, and the time of each session that trained it."""
    record = json.loads((eyes.folder / RECORD).read_text(encoding="utf-8"))
    names = ("training", "weights_sha256", "config_sha256", "data", "hardware", "versions")
    ends = {"first_losses": record["losses"][0], "last_losses": record["losses"][-1]}
    return {"row": eyes.row, **{name: record[name] for name in names}, **ends, "sessions": _sessions(eyes.folder)}


def _said(name: str) -> Callable[[int, int], None]:
    return lambda done, total: print(f"{name}: {done} of {total}", file=sys.stderr) if done % 100 == 0 else None


def _sessions(folder: Path) -> list[dict[str, Any]]:
    path = folder.with_name(f"{folder.name}.sessions.json")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def _add_session(folder: Path, timing: dict[str, Any]) -> None:
    content = json.dumps([*_sessions(folder), timing]).encode()
    write_atomically(folder.with_name(f"{folder.name}.sessions.json"), content)
