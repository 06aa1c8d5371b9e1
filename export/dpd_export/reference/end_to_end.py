"""The bundle's own images beside PyTorch's: PSNR, and whether the teacher says the same of both sets."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dpd_export.reference.reference import Reference, as_inputs
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.checks.verify import psnr, psnr_limit
from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import ParityError
from dpd_runtime.generation.cases import bundle_networks, sample_case

CPU = Provider("cpu", "parity")
LARGEST_LOSS = 0.01
"""Share of the images of which the teacher may say something else than of PyTorch's, where int8 made them."""
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EndToEnd:
    """Args:
    psnr_db: of the whole set. worst_psnr_db: of the worst image.
    teacher_pytorch, teacher_bundle: share of PyTorch's images which PyTorch's teacher puts into their class, and of the
        bundle's images which the bundle's teacher does.
    teacher_agreement: share of images of which both say the same.
    """

    images: int
    psnr_db: float
    worst_psnr_db: float
    teacher_pytorch: float
    teacher_bundle: float
    teacher_agreement: float

    def entries(self) -> dict[str, float]:
        """As the manifest holds them."""
        return {
            "end_to_end_images": self.images,
            "end_to_end_psnr_db": round(self.psnr_db, 2),
            "end_to_end_worst_psnr_db": round(self.worst_psnr_db, 2),
            "teacher_oa_pytorch": self.teacher_pytorch,
            "teacher_oa_bundle": self.teacher_bundle,
            "teacher_agreement": self.teacher_agreement,
        }


@torch.no_grad()
def pytorch_opinion(teacher: torch.nn.Module, reference: Reference) -> Labels:
    """What PyTorch's teacher says of PyTorch's images; asked before the teacher is exported."""
    opinion: Labels = teacher(as_inputs(reference.images)).argmax(1).numpy()
    return opinion


def end_to_end(
    bundle: Bundle, reference: Reference, opinion: Labels, progress: Callable[[], None] = lambda: None
) -> EndToEnd:
    """Sample the same cases from the bundle.

    Raises:
        ParityError: images further from PyTorch's than DESIGN §10 allows.
    """
    denoise, decode = bundle_networks(bundle, CPU)
    sets = []
    for case in reference.cases:
        sets.append(decode(sample_case(denoise, case)[1]))
        progress()
    images = np.concatenate(sets)
    del denoise, decode
    teacher = bundle.engine("classifier/model.onnx", CPU)
    said = teacher.run(images=as_inputs(images).numpy()).argmax(1)
    labels = np.array([label for label, _ in reference.rows])
    measured = EndToEnd(
        images=len(images),
        psnr_db=psnr(images, reference.images),
        worst_psnr_db=min(psnr(a, b) for a, b in zip(images, reference.images, strict=True)),
        teacher_pytorch=float((opinion == labels).mean()),
        teacher_bundle=float((said == labels).mean()),
        teacher_agreement=float((said == opinion).mean()),
    )
    limit, precision = psnr_limit(bundle.manifest.precision), bundle.manifest.precision
    if not measured.psnr_db >= limit:
        raise ParityError(f"images differ from PyTorch's: {measured.psnr_db:.1f} dB, {precision} needs {limit:.0f} dB")
    return measured


def check_agreement(measured: EndToEnd) -> None:
    """Raises:
    ParityError: int8 changed the teacher's opinion of more images than LARGEST_LOSS.
    """
    changed = round((1 - measured.teacher_agreement) * measured.images)
    if changed > LARGEST_LOSS * measured.images:
        raise ParityError(
            f"int8 images: the teacher says something else of {changed} of {measured.images} than of PyTorch's, "
            f"{LARGEST_LOSS:.0%} is allowed; nothing was written: use --precision fp16, or --allow-worse"
        )
