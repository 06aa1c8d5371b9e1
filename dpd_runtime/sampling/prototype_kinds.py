"""The kinds of prototypes and what each may hold (DESIGN §6)."""

from typing import Literal

PrototypeKind = Literal["centroid", "pooled", "matched", "medoid", "none"]

PRIVATE_KINDS = ("medoid",)
"""Kinds whose prototypes are latents of real images, which the VAE decodes to them."""


def fits(kind: str, shape: tuple[int, ...], latent_shape: tuple[int, ...]) -> bool:
    """Whether prototypes of one class, [K, C, h, w], can pull latents of `latent_shape` (C, h, w).

    `pooled` ones are block means: their sides divide the latents' ones by one factor.
    """
    if kind != "pooled":
        return shape[1:] == latent_shape
    if len(shape) != 4 or shape[1] != latent_shape[0] or 0 in shape[1:]:
        return False
    (rows, columns), (height, width) = shape[2:], latent_shape[1:]
    return height % rows == 0 and width % columns == 0 and height // rows == width // columns
