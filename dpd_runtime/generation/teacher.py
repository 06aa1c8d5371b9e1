"""Soft labels: the probabilities that the bundle's classifier (the teacher) gives to generated images."""

import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from dpd_runtime.annotations import Array, Float32, Pixels
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Provider, run_to
from dpd_runtime.errors import BundleError, InputError
from dpd_runtime.sampling.sample import from_uint8

TEACHER = "classifier/model.onnx"
SOFT_LABELS_NAME = "soft_labels.safetensors"


def symmetries(pixels: Pixels) -> Pixels:
    """The eight symmetries of a square image [H, W, 3] → [8, H, W, 3], or the four of an oblong one.

    An image taken from above can be turned in any way.
    """
    upright = [pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]]
    if pixels.shape[0] == pixels.shape[1]:
        upright += [view.swapaxes(0, 1) for view in upright]
    return np.stack(upright)


def soft_label(logits: Callable[[Float32], Array], pixels: Pixels) -> Float32:
    """Softmax (temperature 1) of `logits`, averaged over the symmetries of an image uint8 [H, W, 3] → float32 [C].

    Each image has a call of its own, so that the result does not depend on the other images.
    """
    averaged: Float32 = softmax(logits(from_uint8(symmetries(pixels)))).mean(axis=0).astype(np.float32)
    return averaged


def softmax(logits: Array) -> NDArray[np.float64]:
    """Probabilities [n, C] of logits [n, C], at temperature 1."""
    scores = logits.astype(np.float64)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def check_teacher(bundle: Bundle) -> None:
    """Check that the bundle holds a teacher.

    Raises:
        InputError: it does not.
    """
    if TEACHER not in bundle.files:
        again = "use one exported without --codes-only" if bundle.manifest.codes_only else "export it again"
        raise InputError(f"--soft-labels: the bundle holds no teacher ({TEACHER}); {again}, or leave out --soft-labels")


def load_teacher(bundle: Bundle, provider: Provider, threads: int) -> Callable[[Pixels], Float32]:
    """The bundle's classifier as a function of one image. It gives one probability for each class of the bundle.

    Raises:
        BundleError: the classifier gives anything else.
    """
    check_teacher(bundle)
    engine = bundle.engine(TEACHER, provider, threads)

    def logits(views: Float32) -> Float32:
        return run_to(engine, TEACHER, (len(views), len(bundle.classes)), images=views)

    def label(pixels: Pixels) -> Float32:
        probabilities = soft_label(logits, pixels)
        if not np.isfinite(probabilities).all():
            raise BundleError(
                f"{TEACHER} gave no probabilities for {len(bundle.classes)} classes; export the bundle again"
            )
        return probabilities

    label(np.zeros(bundle.manifest.image_shape, np.uint8))  # errors appear before anything is written
    return label


def pack_labels(labels: list[Float32], classes: tuple[str, ...]) -> bytes:
    """The bytes of soft_labels.safetensors: `soft_labels` float32 [n, C] in the order of metadata.jsonl."""
    return save({"soft_labels": np.stack(labels)}, {"classes": json.dumps(classes, allow_nan=False)})
