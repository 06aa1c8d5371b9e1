"""Compare images with T and H in one feature space; both tests of a set use these similarities."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dpd_eval.audit.data import SEED, AuditData
from dpd_eval.audit.nearer import NAME as NEARER
from dpd_eval.audit.nearer import OwnShare, nearer_share, nearer_test, own_share
from dpd_eval.audit.outcome import Outcome
from dpd_eval.audit.replication import replication_test
from dpd_eval.audit.spaces import Space
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_train.images.structure import closeness, similarities
from dpd_train.images.symmetry import ORDER
from dpd_train.prototypes.too_near import Nearest

SECOND = "H2"
COPIES = 500


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
        copies: COPIES random images of T, turned at random. shown: the same as a generator would show them, through
            the VAE where there is an encoder.
    """

    name: str
    space: Space
    data: AuditData
    reals: tuple[Images, Images]
    train: Float32
    held: Float32
    held_to_train: Float32
    copies: Compared
    shown: Compared

    def compare(self, images: Images, labels: Int64) -> Compared:
        """Compare images uint8 [n, H, W, C] in all eight views (D4)."""
        return compare(self.space, images, labels, self.train, self.held)

    def half(self, rows: Int64) -> Nearest:
        """Compare H1 or H2 with T."""
        return Nearest(closeness(self.held_to_train[rows].max(axis=1)), self.data.held.labels[rows])

    def replication(self, compared: Compared, what: str) -> Outcome:
        name = f"replication, {what}, {self.name}"
        first, second = self.half(self.data.first), self.half(self.data.second)
        classes, copies = len(self.data.classes), self.shown.nearest
        return replication_test(name, compared.nearest, first, second, classes, copies=copies)

    def nearer(self, compared: Compared, what: str) -> Outcome:
        name, sides = f"{NEARER}, {what}, {self.name}", (compared.to_train, compared.to_held)
        copied = float(nearer_share(self.shown.to_train, self.shown.to_held).mean())
        return nearer_test(name, *sides, own=self.own, copied=copied)

    @cached_property
    def own(self) -> OwnShare:
        return own_share(*self.of_second)

    @cached_property
    def of_second(self) -> tuple[Float32, Float32]:
        """Similarities of H2 with T and with H1."""
        second = self.data.second
        orbit = self.space.orbit(self.reals[1][second])
        return self.held_to_train[second], similarities(orbit, self.held[self.data.first])

    def control(self) -> list[Outcome]:
        """Run both tests on H2, compared with T and H1."""
        nearest = self.half(self.data.second), self.half(self.data.first)
        return [
            replication_test(f"replication, {SECOND}, {self.name}", *nearest, None, len(self.data.classes)),
            nearer_test(f"{NEARER}, {SECOND}, {self.name}", *self.of_second),
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
        decoded: T and H passed through the VAE, if there is an encoder: in this form a latent generator shows a
            memorised image.
    """
    shown = None if decoded is None else decoded[0]
    return _yardstick(space, space.name, data, (data.train.images, data.held.images), shown, progress)


def yardstick_through_vae(
    space: Space, data: AuditData, decoded: tuple[Images, Images], progress: Callable[[], None] = lambda: None
) -> Yardstick:
    """Embed T and H, passed through the VAE, in `space`: features that the VAE changes can still find an image."""
    return _yardstick(space, f"{space.name} through the VAE", data, decoded, None, progress)


def _yardstick(
    space: Space,
    name: str,
    data: AuditData,
    reals: tuple[Images, Images],
    shown: Images | None,
    progress: Callable[[], None],
) -> Yardstick:
    train = space.embed(reals[0])
    progress()
    orbit = space.orbit(reals[1])
    held = np.ascontiguousarray(orbit[:, 0])
    progress()
    rows = data.copied(COPIES)

    def copied(images: Images) -> Compared:
        return compare(space, turned(images[rows]), data.train.labels[rows], train, held)

    copies = copied(reals[0])
    seen = copies if shown is None else copied(shown)
    return Yardstick(name, space, data, reals, train, held, similarities(orbit, train), copies, seen)


def compare(space: Space, images: Images, labels: Int64, train: Float32, held: Float32) -> Compared:
    """Compare images uint8 [n, H, W, C] in all eight views (D4) with T and H, given as unit vectors."""
    orbit = space.orbit(images)
    return Compared(labels, similarities(orbit, train), similarities(orbit, held))


def turned(images: Images) -> Images:
    """Rotate or flip each image [n, S, S, C] at random (D4)."""
    elements = np.random.default_rng(SEED).integers(ORDER, size=len(images))
    views = [np.rot90(i[:, ::-1] if e >= 4 else i, e % 4) for i, e in zip(images, elements, strict=True)]
    return np.stack(views)
