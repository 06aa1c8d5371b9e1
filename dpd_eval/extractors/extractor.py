"""What every extractor offers: features and, if it knows classes, labels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dpd_runtime.annotations import Float32, Images, Int64
from dpd_train.images.symmetry import ORDER, d4


@dataclass(frozen=True)
class Extractor:
    """A network as two functions of images, uint8 [n, H, W, 3] (RGB) or [n, H, W, C] (other bands).

    Args:
        name: as the user gave it.
        description: architecture, training and the first 12 digits of the weights' sha256; part of the results.
        classes: class names that its labels index; None if it knows no labels.
        embed: images → features [n, D] float32, not normalised.
        score: images → logits [n, C] float32, C = len(classes); None if it knows no labels.
        symmetric: whether features are the same in all eight views of an image (D4).
    """

    name: str
    description: str
    classes: tuple[str, ...] | None
    embed: Callable[[Images], Float32]
    score: Callable[[Images], Float32] | None = None
    symmetric: bool = False

    def features(self, images: Images) -> Float32:
        """Compute features [n, D], not normalised."""
        return self.embed(images)

    def probabilities(self, images: Images) -> Float32 | None:
        """Compute softmax probabilities [n, C], averaged over the symmetries of the square; None without labels."""
        if self.score is None:
            return None
        channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        total = torch.zeros(())
        for element in range(ORDER):
            view = np.ascontiguousarray(d4(channels_first, element).permute(0, 2, 3, 1).numpy())
            total = total + torch.from_numpy(self.score(view)).softmax(1)
        averaged: Float32 = (total / ORDER).numpy()
        return averaged

    def classify(self, images: Images) -> Int64 | None:
        """Return the most probable label [n], an index into `classes`; None without labels."""
        probabilities = self.probabilities(images)
        return None if probabilities is None else probabilities.argmax(1).astype(np.int64)


def short_hash(model: torch.nn.Module) -> str:
    """Return the first 12 digits of the sha256 of the weights."""
    from dpd_train.bases.latents import weights_hash  # loads diffusers, which computing features does not need

    return weights_hash(model)[:12]
