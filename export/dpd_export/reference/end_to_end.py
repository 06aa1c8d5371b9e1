"""Compare the bundle's images with PyTorch's: PSNR, and how often the teacher gives both the same label."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch

from dpd_export.reference.reference import Reference, as_inputs
from dpd_runtime.annotations import Images, Int64
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import ParityError
from dpd_runtime.generation.cases import bundle_networks, sample_case
from dpd_runtime.generation.replay import psnr, psnr_limit

CPU = Provider("cpu", "parity")
LARGEST_LOSS = 0.01
"""Largest share of int8 images that the teacher may label differently from PyTorch's."""


@dataclass(frozen=True)
class ImageParity:
    """The bundle's images beside PyTorch's.

    Args:
        images: number of images compared.
        psnr_db, worst_psnr_db: of the whole set, and of the worst image.
    """

    images: int
    psnr_db: float
    worst_psnr_db: float

    def entries(self) -> dict[str, float]:
        """The manifest's figures."""
        return {
            "end_to_end_images": self.images,
            "end_to_end_psnr_db": round(self.psnr_db, 2),
            "end_to_end_worst_psnr_db": round(self.worst_psnr_db, 2),
        }


@dataclass(frozen=True)
class EndToEnd(ImageParity):
    """The same with what the teacher says of both.

    Args:
        teacher_pytorch: share of PyTorch's images that PyTorch's teacher puts into their class.
        teacher_bundle: share of the bundle's images that the bundle's teacher puts into their class.
        teacher_agreement: share of images that get the same label from both.
    """

    teacher_pytorch: float
    teacher_bundle: float
    teacher_agreement: float

    def entries(self) -> dict[str, float]:
        """The manifest's figures."""
        return super().entries() | {
            "teacher_oa_pytorch": self.teacher_pytorch,
            "teacher_oa_bundle": self.teacher_bundle,
            "teacher_agreement": self.teacher_agreement,
        }


@torch.no_grad()
def teacher_labels(teacher: torch.nn.Module, reference: Reference) -> Int64:
    """The labels [n] that PyTorch's teacher gives PyTorch's images. Call it before the teacher is exported."""
    labels: Int64 = teacher(as_inputs(reference.images)).argmax(1).numpy()
    return labels


def end_to_end(
    bundle: Bundle, reference: Reference, expected: Int64, progress: Callable[[], None] = lambda: None
) -> EndToEnd:
    """Sample the reference's cases from the bundle and compare the images.

    Args:
        expected: what `teacher_labels` gave for the reference.

    Raises:
        ParityError: images are further from PyTorch's than docs/reference/graphs.md allows.
    """
    denoise, decode = bundle_networks(bundle, CPU)
    sets = []
    for case in reference.cases:
        sets.append(decode(sample_case(denoise, case)[1]))
        progress()
    images = np.concatenate(sets)
    del denoise, decode
    parity = image_parity(images, reference.images, bundle.manifest.precision)
    teacher = bundle.engine("classifier/model.onnx", CPU)
    predictions = teacher.run(images=as_inputs(images).numpy()).argmax(1)
    labels = np.array([label for label, _ in reference.rows])
    return EndToEnd(
        **asdict(parity),
        teacher_pytorch=float((expected == labels).mean()),
        teacher_bundle=float((predictions == labels).mean()),
        teacher_agreement=float((predictions == expected).mean()),
    )


def image_parity(images: Images, expected: Images, precision: str) -> ImageParity:
    """Compare the bundle's images [n, H, W, 3] with PyTorch's.

    Raises:
        ParityError: they are further from PyTorch's than docs/reference/graphs.md allows.
    """
    worst = min(psnr(a, b) for a, b in zip(images, expected, strict=True))
    parity = ImageParity(len(images), psnr(images, expected), worst)
    limit = psnr_limit(precision)
    if not parity.psnr_db >= limit:
        raise ParityError(f"images differ from PyTorch's: {parity.psnr_db:.1f} dB, {precision} needs {limit:.0f} dB")
    return parity


def check_agreement(measured: EndToEnd) -> None:
    """Compare the teacher's agreement with LARGEST_LOSS.

    Raises:
        ParityError: int8 changed the teacher's label of more images.
    """
    changed = round((1 - measured.teacher_agreement) * measured.images)
    if changed > LARGEST_LOSS * measured.images:
        raise ParityError(
            f"int8 images: the teacher labels {changed} of {measured.images} differently from PyTorch's images, "
            f"{LARGEST_LOSS:.0%} is allowed; nothing was written: use --precision fp16, or --allow-worse"
        )
