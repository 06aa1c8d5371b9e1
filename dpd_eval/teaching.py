"""A bundle's teacher, which answers whatever a student is shown, and images without labels to show."""

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dpd_eval.report_records import read_audit
from dpd_eval.students import Answers
from dpd_runtime.annotations import Float32, Images
from dpd_runtime.bundle import Bundle
from dpd_runtime.classifier import images_below
from dpd_runtime.engines import Provider, run_to
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.files import parse_json
from dpd_runtime.images import alike, pillow_rgb, read_square
from dpd_runtime.machine import usable_memory
from dpd_runtime.manifest import AUDIT_NAME
from dpd_runtime.networks import TEACHER, check_teacher
from dpd_runtime.text import counted, printable
from dpd_train.scene_set import SceneSet, to_float

log = logging.getLogger(__name__)
TEMPERATURE = 2.0
CALL = 256  # images in one call
MEMBERSHIP = "membership of the teacher"
"""How the names of those tests of an audit begin that look at the teacher."""


@dataclass(frozen=True)
class Teacher:
    """A bundle's classifier, ready to answer.

    Args:
        described: the bundle's name, hash and audit, and the temperature, for a record.
    """

    answers: Answers
    described: dict[str, Any]

    def probabilities(self, images: Images) -> Float32:
        """Of images uint8 [n, H, W, 3] as they are, [n, classes], at temperature 1."""
        parts = [images[first : first + CALL] for first in range(0, len(images), CALL)]
        answers = [self.answers(to_float(torch.from_numpy(part))).softmax(1) for part in parts]
        found: Float32 = torch.cat(answers).numpy()
        return found


def open_teacher(bundle: Bundle, classes: tuple[str, ...], threads: int | None = None) -> Teacher:
    """Open the teacher of a bundle for students of these classes, in their order.

    It runs on the CPU. Views of another size than the bundle's images are brought to theirs.

    Raises:
        InputError: the bundle holds none, or its audit failed it.
        DataError: it knows other classes.
        BundleError: it cannot be run.
    """
    check_teacher(bundle, "--teacher")
    _check_audited(bundle)
    known = [of_class.name for of_class in bundle.classes]
    if set(known) != set(classes):
        odd = sorted(set(known) ^ set(classes))
        raise DataError(
            f"--teacher {bundle.path}: its classes are not those of the set, first {odd[0]}; name the class folders "
            "alike, or use the bundle that the set was made from"
        )
    engine = bundle.engine(TEACHER, Provider("cpu", "the teacher"), threads)
    columns, side = [known.index(name) for name in classes], bundle.manifest.image_shape[0]

    def answers(views: torch.Tensor) -> torch.Tensor:
        shown = views.float().cpu()
        if shown.shape[-1] != side:
            shown = F.interpolate(shown, (side, side), mode="bilinear", antialias=True)
        logits = run_to(engine, TEACHER, (len(shown), len(known)), images=shown.contiguous().numpy())
        return torch.from_numpy(logits[:, columns]).to(views.device)

    audit, temperature = bundle.manifest.audit, TEMPERATURE
    described = {"bundle": bundle.manifest.name, "bundle_hash": bundle.hash, "audit": audit, "temperature": temperature}
    return Teacher(answers, described)


def _check_audited(bundle: Bundle) -> None:
    """Refuse a teacher whose answers tell who was in its training: those whom it teaches would tell, too."""
    if AUDIT_NAME not in bundle.files:
        log.warning(
            "%s was not audited: nobody has tested whether its teacher tells who was in its training", bundle.path
        )
        return
    where = f"{bundle.path}: {AUDIT_NAME}"
    audit = read_audit(parse_json(bundle.files[AUDIT_NAME], where), bundle.manifest.name, where)
    for test in audit.tests:
        if test.name.startswith(MEMBERSHIP) and test.verdict == "FAIL":
            raise InputError(
                f"--teacher {bundle.path}: its audit failed it ({printable(test.name)}: {printable(test.note)}), and a "
                "network that it teaches would tell who was in its training, too; ask for a bundle whose teacher passes"
            )


def read_unlabelled(place: Path, side: int) -> SceneSet:
    """Images without labels below a folder: their middle squares, as `dpd predict` reads them, as one class.

    Raises:
        DataError: none can be read, or they do not fit into half of the memory.
    """
    files = images_below(place)
    bytes_, memory = len(files) * side * side * 3, usable_memory()
    if memory is not None and 2 * bytes_ > memory:
        raise DataError(
            f"--unlabelled {place}: {counted(len(files), 'image')} of {side} px, {bytes_ / 1e9:.1f} GB: more than half "
            f"of the {memory / 1e9:.1f} GB of memory; give fewer"
        )
    together = alike(files)
    if together.note:
        log.warning(together.note)
    images, hashes, reasons = [], [], []
    for path in files:
        square = read_square(path, side, partial(pillow_rgb, files=together))
        if isinstance(square, str):
            reasons.append(f"{printable(path)}: {square}")
        else:
            images.append(square[1])
            hashes.append(hashlib.sha256(square[0]).hexdigest())
    if not images:
        raise DataError(f"--unlabelled {place}: none of {counted(len(files), 'image')} can be read, first {reasons[0]}")
    if reasons:
        log.warning("%s of %d cannot be read, first %s", counted(len(reasons), "image"), len(files), reasons[0])
    return SceneSet(("",), np.stack(images), np.zeros(len(images), np.int64), tuple(hashes), ())
