"""Compare images with T and H in one feature space; both tests of a set use these similarities."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dpd_eval.audit.data import AuditData
from dpd_eval.audit.nearer import nearer_test
from dpd_eval.audit.outcome import Outcome
from dpd_eval.audit.replication import replication_test
from dpd_eval.audit.spaces import Space
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_train.images.structure import closeness, similarities
from dpd_train.prototypes.too_near import Nearest


@dataclass(frozen=True)
class Compared:
    """Similarities of images with labels [n] to T and H: [n, N] and [n, m]."""

    labels: Int64
    to_train: Float32
    to_held: Float32

    @property
    def nearest(self) -> Nearest:
        return Nearest(closeness(self.to_train.max(axis=1)), self.labels)


@dataclass(frozen=True)
class Yardstick:
    """A feature space with T and H embedded in it.

    Args:
        reals: T and H as they are compared: unchanged, or passed through the VAE.
        train, held: unit vectors [N, D] and [m, D]. held_to_train: similarities [m, N].
    """

    name: str
    space: Space
    data: AuditData
    reals: tuple[Images, Images]
    train: Float32
    held: Float32
    held_to_train: Float32

    def compare(self, images: Images, labels: Int64) -> Compared:
        """Compare images uint8 [n, H, W, 3] in all eight views (D4)."""
        orbit = self.space.orbit(images)
        return Compared(labels, similarities(orbit, self.train), similarities(orbit, self.held))

    def half(self, rows: Int64) -> Nearest:
        """Compare H1 or H2 with T."""
        return Nearest(closeness(self.held_to_train[rows].max(axis=1)), self.data.held.labels[rows])

    def replication(self, found: Compared, what: str) -> Outcome:
        name = f"replication, {what}, {self.name}"
        first, second = self.half(self.data.first), self.half(self.data.second)
        return replication_test(name, found.nearest, first, second, len(self.data.classes))

    def nearer(self, found: Compared, what: str) -> Outcome:
        return nearer_test(f"nearer to T than to H, {what}, {self.name}", found.to_train, found.to_held)

    def control(self) -> list[Outcome]:
        """Run both tests on H2, compared with T and H1."""
        name, second = self.name, self.data.second
        nearest = self.half(second), self.half(self.data.first)
        orbit = self.space.orbit(self.reals[1][second])
        to_first = similarities(orbit, self.held[self.data.first])
        return [
            replication_test(f"replication, H2, {name}", *nearest, None, len(self.data.classes)),
            nearer_test(f"nearer to T than to H, H2, {name}", self.held_to_train[second], to_first),
        ]


def yardstick(
    space: Space,
    data: AuditData,
    progress: Callable[[], None] = lambda: None,
    *,
    decoded: tuple[Images, Images] | None = None,
) -> Yardstick:
    """Embed T and H in `space`.

    Args:
        decoded: both passed through the VAE. A latent generator shows a memorised image in this form, so features
            that the VAE changes can still find it.
    """
    reals = decoded or (data.train.images, data.held.images)
    name = space.name if decoded is None else f"{space.name} through the VAE"
    train = space.embed(reals[0])
    progress()
    held = space.orbit(reals[1])
    progress()
    return Yardstick(name, space, data, reals, train, np.ascontiguousarray(held[:, 0]), similarities(held, train))
