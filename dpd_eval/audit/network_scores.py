"""Membership scores of the classifiers, the prototypes and the VAE, higher for images that they were trained on."""

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.engines.engine import Engine
from dpd_train.images.structure import unit

Float = NDArray[np.floating]
CALL = 100


def logits_of(engine: Engine, name: str, inputs: Float32) -> Float32:
    """Compute logits [n, C] in calls of CALL images; name: the graph's input."""
    parts = [engine.run(**{name: inputs[i : i + CALL]}) for i in range(0, len(inputs), CALL)]
    return np.concatenate(parts)


def classifier_scores(logits: Float32, labels: Int64) -> dict[str, Float]:
    """Return the largest probability, and minus the cross-entropy of the true label (Yeom et al. 2018)."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    logs = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return {"confidence": np.exp(logs.max(axis=1)), "loss": logs[np.arange(len(labels)), labels]}


def prototype_score(latents: Float32, labels: Int64, prototypes: Float32, owners: Int64) -> Float:
    """Return the highest correlation [n] of an image's latent with a prototype of its class; −1 without prototypes.

    A mean of n latents correlates with each of them by about 1/√n, beyond what the class has in common. Differences
    between neighbouring positions are compared, because they are specific to an image while broad colours are not.

    Args:
        latents [n, C, h, w] with labels [n]; prototypes [K, C, h, w] with labels owners [K].
    """
    correlations = np.full(len(latents), -1.0)
    ours, theirs = unit(_steps(latents)), unit(_steps(prototypes))
    for label in np.unique(owners):
        rows = labels == label
        if rows.any():
            correlations[rows] = (ours[rows] @ theirs[owners == label].T).max(axis=1)
    return correlations


def _steps(latents: Float32) -> Float32:
    return np.concatenate([np.diff(latents, axis=a).reshape(len(latents), -1) for a in (2, 3)], axis=1)


def reconstruction_score(images: Images, decoded: Images) -> Float:
    """Return minus the mean squared error [n] of images [n, H, W, C], in grey levels."""
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(images, decoded, strict=True)]
    return -np.array(errors)
