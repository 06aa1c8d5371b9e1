"""The teacher's word on generated images: what the bundle's classifier says of each, whichever way up it lies."""

import json
from collections.abc import Callable

import numpy as np
from safetensors.numpy import save

from dpd_runtime.annotations import Array, Float32, Pixels
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Provider
from dpd_runtime.errors import BundleError, InputError

TEACHER = "classifier/model.onnx"
SOFT_LABELS_NAME = "soft_labels.safetensors"


def symmetries(pixels: Pixels) -> Pixels:
    """The eight symmetries of a square image [H, W, 3] → [8, H, W, 3]; the four that keep the shape of an oblong one.

    A nadir image has no up.
    """
    upright = [pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]]
    if pixels.shape[0] == pixels.shape[1]:
        upright += [view.swapaxes(0, 1) for view in upright]
    return np.stack(upright)


def soft_label(logits: Callable[[Float32], Array], pixels: Pixels) -> Float32:
    """Softmax (temperature 1) of `logits` averaged over the symmetries of uint8 [H, W, 3] → float32 [C].

    One call an image, always of the same shape: what else is in the set does not move a bit.
    """
    views = symmetries(pixels).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
    scores = logits(np.ascontiguousarray(views)).astype(np.float64)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    averaged: Float32 = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0).astype(np.float32)
    return averaged


def check_teacher(bundle: Bundle) -> None:
    """Raises:
    InputError: the bundle holds no teacher.
    """
    if TEACHER not in bundle.files:
        raise InputError(f"--soft-labels: the bundle holds no teacher ({TEACHER}); export it again or leave them out")


def load_teacher(bundle: Bundle, provider: Provider, threads: int) -> Callable[[Pixels], Float32]:
    """The bundle's classifier as a function of one image. Columns are the bundle's labels, whatever `--classes` says.

    Raises:
        BundleError: the classifier gives something else than one finite number a class.
    """
    check_teacher(bundle)
    engine = bundle.engine(TEACHER, provider, threads)

    def label(pixels: Pixels) -> Float32:
        found = soft_label(lambda views: engine.run(images=views), pixels)
        if found.shape != (len(bundle.classes),) or not np.isfinite(found).all():
            raise BundleError(f"{TEACHER} gave no probabilities of {len(bundle.classes)} classes: export again")
        return found

    label(np.zeros(bundle.manifest.image_shape, np.uint8))  # what cannot run is said before anything is written
    return label


def pack_labels(labels: list[Float32], classes: tuple[str, ...]) -> bytes:
    """The bytes of soft_labels.safetensors: `soft_labels` float32 [n, C] in the order of metadata.jsonl."""
    return save({"soft_labels": np.stack(labels)}, {"classes": json.dumps(classes)})
