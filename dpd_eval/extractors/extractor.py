"""Networks whose features and labels judge images: `own`, trained on the user's images, or any transformers model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dpd_runtime.annotations import Images
from dpd_train.images.symmetry import ORDER, d4

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Extractor:
    """A network as two functions of images, uint8 [n, H, W, 3] RGB.

    Args:
        name: what the user called it.
        description: for results: architecture, training, and the first 12 digits of the weights' sha256.
        classes: names that its labels index; None where it knows no labels.
        embed: images → features [n, D] float32, not normalised.
        score: images → logits [n, C] float32, C = len(classes); None where it knows no labels.
    """

    name: str
    description: str
    classes: tuple[str, ...] | None
    embed: Callable[[Images], Floats]
    score: Callable[[Images], Floats] | None = None

    def features(self, images: Images) -> Floats:
        """Features [n, D], not normalised, of the images as they are."""
        return self.embed(images)

    def probabilities(self, images: Images) -> Floats | None:
        """Softmax [n, C], averaged over the eight views of D4 (a nadir image has no up); None without labels."""
        if self.score is None:
            return None
        channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        total = torch.zeros(())
        for element in range(ORDER):
            view = np.ascontiguousarray(d4(channels_first, element).permute(0, 2, 3, 1).numpy())
            total = total + torch.from_numpy(self.score(view)).softmax(1)
        averaged: Floats = (total / ORDER).numpy()
        return averaged

    def classify(self, images: Images) -> NDArray[np.int64] | None:
        """The most probable label [n] by `probabilities`, indexing `classes`; None without labels."""
        probabilities = self.probabilities(images)
        return None if probabilities is None else probabilities.argmax(1).astype(np.int64)


def short_hash(model: torch.nn.Module) -> str:
    """First 12 digits of the sha256 of the weights."""
    from dpd_train.bases.latents import weights_hash  # brings diffusers, which those who only embed need not wait for

    return weights_hash(model)[:12]
