"""The kinds of prototypes and their shapes (docs/guides/train.md)."""

from typing import Literal

PrototypeKind = Literal["centroid", "pooled", "matched", "medoid", "none"]

PRIVATE_KINDS = {"centroid": "means of few real images' latents", "medoid": "latents of real images"}
"""Kinds whose prototypes should not leave the site, and what they are. The VAE decodes a medoid to its real image."""


def fits(kind: str, shape: tuple[int, ...], latent_shape: tuple[int, ...]) -> bool:
    """Whether prototypes of one class, of shape (K, C, h, w), fit latents of `latent_shape` (C, h, w).

    Prototypes of kind `pooled` are block means: both sides are smaller than those of the latents by one whole factor.
    """
    if kind != "pooled":
        return shape[1:] == latent_shape
    if len(shape) != 4 or shape[1] != latent_shape[0] or 0 in shape[1:]:
        return False
    (rows, columns), (height, width) = shape[2:], latent_shape[1:]
    return height % rows == 0 and width % columns == 0 and height // rows == width // columns
