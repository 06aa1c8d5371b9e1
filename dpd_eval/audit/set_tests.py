"""Tests of images: those which are generated, and those which prototypes decode to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpd_eval.audit.comparison import Compared, Labels, Yardstick
from dpd_eval.audit.outcome import Outcome
from dpd_eval.audit.pictures import write_worst_pairs
from dpd_runtime.annotations import Images
from dpd_train.prototypes.too_near import thresholds


@dataclass(frozen=True)
class Judged:
    """Images of one kind with their labels in the data's order."""

    what: str
    images: Images
    labels: Labels


def set_tests(
    judged: Judged, yardsticks: list[Yardstick], private: Path | None, progress: Callable[[], None]
) -> list[Outcome]:
    """Replication and nearness in each space; the worst pairs go to `private`."""
    tests = []
    for yardstick in yardsticks:
        found = yardstick.compare(judged.images, judged.labels)
        tests += [yardstick.replication(found, judged.what), yardstick.nearer(found, judged.what)]
        if private is not None:
            _keep_worst(judged, yardstick, found, private)
        progress()
    return tests


def _keep_worst(judged: Judged, yardstick: Yardstick, found: Compared, private: Path) -> None:
    """Those which are furthest beyond their class's threshold."""
    limits = thresholds(yardstick.half(yardstick.data.first), len(yardstick.data.classes))
    beyond = found.nearest.values - limits[judged.labels]
    rows = np.argsort(-beyond, kind="stable")
    nearest = yardstick.data.train.images[found.to_train.argmax(axis=1)]
    name = f"{judged.what}, {yardstick.name}".replace(", ", "-").replace(" ", "-")
    write_worst_pairs(private / f"{name}.png", judged.images[rows], nearest[rows])
