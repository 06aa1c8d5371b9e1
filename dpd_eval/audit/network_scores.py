"""What the classifiers and the VAE give away about an image; higher for what they were trained on."""

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.engines import Engine

Float32 = NDArray[np.float32]
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


def reconstruction_score(images: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Float:
    """Minus the mean squared error [n] of images [n, H, W, 3], in grey levels."""
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(images, decoded, strict=True)]
    return -np.array(errors)
