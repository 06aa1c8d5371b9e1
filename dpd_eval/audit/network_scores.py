"""What the classifiers and the VAE give away about an image; higher for what they were trained on."""

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32
from dpd_runtime.engines.engine import Engine
from dpd_train.images.structure import unit

Float = NDArray[np.floating]
CALL = 100


def logits_of(engine: Engine, name: str, inputs: Float32) -> Float32:
    """[n, C] in calls of CALL; `name` is the graph's input."""
    parts = [engine.run(**{name: inputs[i : i + CALL]}) for i in range(0, len(inputs), CALL)]
    return np.concatenate(parts)


def classifier_scores(logits: Float32, labels: NDArray[np.int64]) -> dict[str, Float]:
    """Confidence: the largest probability. Loss: minus the cross-entropy of the true label (Yeom et al. 2018)."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    logs = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return {"confidence": np.exp(logs.max(axis=1)), "loss": logs[np.arange(len(labels)), labels]}


def prototype_score(
    latents: Float32, labels: NDArray[np.int64], prototypes: Float32, owners: NDArray[np.int64]
) -> Float:
    """Highest correlation [n] of an image's latent with a prototype of its class, in the steps between neighbours.

    A mean of n latents has a correlation of about 1/√n with each of them beyond what is common to the class. The steps
    hold what is peculiar to an image; broad colours are common. −1 for a class without prototypes.

    Args:
        latents [n, C, h, w] with labels [n]; prototypes [K, C, h, w] with labels owners [K].
    """
    found = np.full(len(latents), -1.0)
    ours, theirs = unit(_steps(latents)), unit(_steps(prototypes))
    for label in np.unique(owners):
        rows = labels == label
        if rows.any():
            found[rows] = (ours[rows] @ theirs[owners == label].T).max(axis=1)
    return found


def _steps(latents: Float32) -> Float32:
    return np.concatenate([np.diff(latents, axis=a).reshape(len(latents), -1) for a in (2, 3)], axis=1)


def reconstruction_score(images: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Float:
    """Minus the mean squared error [n] of images [n, H, W, 3], in grey levels."""
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(images, decoded, strict=True)]
    return -np.array(errors)
