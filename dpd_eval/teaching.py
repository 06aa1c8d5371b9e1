"""A bundle's teacher, which answers whatever a student is shown, and images without labels to ask it about."""

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dpd_eval.students import TEMPERATURE, Answers
from dpd_runtime.annotations import Images
from dpd_runtime.bundle import Bundle, weights_of
from dpd_runtime.classifier import without_options
from dpd_runtime.engines import Provider
from dpd_runtime.errors import DataError
from dpd_runtime.images import alike, read_square
from dpd_runtime.machine import usable_memory
from dpd_runtime.networks import TEACHER, teacher_logits
from dpd_runtime.text import counted, printable
from dpd_runtime.versions import versions
from dpd_train.rasters import Rendering, identity, reader
from dpd_train.scene_set import content_sha256

log = logging.getLogger(__name__)
CALL, CALL_PIXELS = 64, 64 * 256**2  # views, and pixels of all of them, in one call

# -- The teacher.


def open_teacher(bundle: Bundle, classes: Sequence[str], threads: int) -> Answers:
    """The answers of a bundle's teacher to views of any size, for students of these classes, in their order.

    It runs on the CPU; `open_fit` or `open_evaluation` has let it pass. Views of another size than the bundle's images
    are brought to theirs.

    Raises:
        BundleError: it cannot be run, or gives no finite logits.
    """
    logits = teacher_logits(bundle, Provider("cpu", "the teacher"), threads)
    names, side = [known.name for known in bundle.classes], bundle.manifest.image_shape[0]
    columns, call = [names.index(name) for name in classes], max(1, min(CALL, CALL_PIXELS // side**2))

    def answers(views: torch.Tensor) -> torch.Tensor:
        found = []
        for part in torch.split(views.float().cpu(), call):
            if part.shape[-1] != side:
                part = F.interpolate(part, (side, side), mode="bilinear", antialias=True)
            found.append(torch.from_numpy(logits(part.contiguous().numpy())[:, columns]))
        return torch.cat(found).to(views.device)

    return answers


@dataclass(frozen=True, eq=False)
class Teacher:
    """A bundle's teacher for students of `classes`, in their order, as it is sent to other processes.

    Args:
        bundle: with the teacher's graph and the names of the classes, without codes, prompts or the key that decrypted
            it.
    """

    bundle: Bundle
    classes: tuple[str, ...]

    @property
    def identity(self) -> str:
        """What decides its answers, for the key of a stored training."""
        graph = [sha256(content).hexdigest() for _, content in sorted(self.bundle.files.items())]
        names = [known.name for known in self.bundle.classes]
        runtime = {name: number for name, number in versions().items() if name.startswith("onnxruntime")}
        parts = graph, names, self.classes, self.bundle.manifest.image_shape, TEMPERATURE, runtime
        return f"taught by {json.dumps(parts, allow_nan=False)}"


def teacher_of(bundle: Bundle, classes: Sequence[str]) -> Teacher:
    files = {name: bundle.files[name] for name in (TEACHER, weights_of(TEACHER)) if name in bundle.files}
    codes = np.empty((0, *bundle.manifest.latent_shape), np.float32)
    named = tuple(replace(known, prototypes=codes, prompt_rows=()) for known in bundle.classes)
    return Teacher(
        replace(
            bundle,
            classes=named,
            prompts=(),
            prompt_embeddings=np.empty((0, 0, 0), np.float32),
            empty_embedding=np.empty((0, 0), np.float32),
            files=files,
            graphs={},
            key=None,
            raw=b"",
        ),
        tuple(classes),
    )


@lru_cache(maxsize=1)
def answers_of(teacher: Teacher) -> Answers:
    """The teacher's answers, in one thread as its students; it is opened once in a process.

    Raises:
        BundleError: as `open_teacher`.
    """
    return open_teacher(teacher.bundle, teacher.classes, 1)


def described(bundle: Bundle) -> dict[str, Any]:
    """What a record says of the bundle whose teacher taught."""
    return {
        "bundle": bundle.manifest.name,
        "bundle_hash": bundle.hash,
        "audit": bundle.manifest.audit,
        "signature": bundle.signature.describe(),
        "temperature": TEMPERATURE,
    }


# -- Images without labels.


@dataclass(frozen=True)
class Unlabelled:
    """Images that nobody has labelled.

    Args:
        images: uint8 [n, side, side, 3]. hashes: of each one's file, as a `SceneSet` has them.
        unread: files that could not be read. left_out: how many were left out, as they are labelled or held out.
    """

    images: Images
    hashes: tuple[str, ...]
    unread: int
    left_out: int

    def record(self) -> dict[str, Any]:
        """What model.json says of them: numbers, and one hash of all."""
        sha256 = content_sha256(self.hashes)
        return {"images": len(self.hashes), "sha256": sha256, "unread": self.unread, "left_out": self.left_out}


def read_unlabelled(
    place: Path, files: Sequence[Path], side: int, rendering: Rendering | None, known: Collection[str]
) -> Unlabelled:
    """Read the middle squares of `files`, the images below the folder `place`.

    Args:
        rendering: how own images are read, whose bands these have then; None as `dpd predict` reads them.
        known: hashes of images that are not to be among them.

    Raises:
        DataError: none can be read, or they do not fit into half of the memory.
    """
    bytes_, memory = len(files) * side * side * 3, usable_memory()
    if memory is not None and 2 * bytes_ > memory:
        raise DataError(
            f"--unlabelled {place}: {counted(len(files), 'image')} of {side} px, {bytes_ / 1e9:.1f} GB: more than half "
            f"of the {memory / 1e9:.1f} GB of memory; give fewer"
        )
    together, gaps = alike(files), list[bool]()
    if together.note:
        log.warning(together.note)
    images, hashes, reasons, left_out = np.empty((len(files), side, side, 3), np.uint8), list[str](), list[str](), 0
    to_pixels = reader(rendering, together, gaps)
    for path in files:
        square = read_square(path, side, to_pixels)
        if isinstance(square, str):
            reasons.append(f"{printable(path)}: {square if rendering is not None else without_options(square)}")
        elif (digest := identity(square[0], rendering)) in known:
            left_out += 1
        else:
            images[len(hashes)] = square[1]
            hashes.append(digest)
    if reasons:
        log.warning("%s of %d cannot be read, first %s", counted(len(reasons), "image"), len(files), reasons[0])
    if left_out:
        log.warning("%s: %s left out, as labelled or held out elsewhere", place, counted(left_out, "image"))
    if holes := sum(gaps):
        have = counted(holes, "image has", "images have")
        log.warning("%s: %s pixels without data, which are black", place, have)
    if not hashes:
        why = f"first {reasons[0]}" if reasons else "all are labelled or held out elsewhere"
        raise DataError(f"--unlabelled {place}: no image is left of {len(files)}, {why}; give others")
    return Unlabelled(images[: len(hashes)], tuple(hashes), len(reasons), left_out)
