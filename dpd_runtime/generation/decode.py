"""From latents to pixels, and the short path of decoded images: blocks of prototypes, given to the VAE decoder.

A decoded image needs neither noise nor the UNet nor the latent classifier: all its candidates would be equal.
"""

from collections.abc import Sequence

import numpy as np

from dpd_runtime.annotations import Float32, Images
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Engine
from dpd_runtime.generation.block import Block, Row, check_finite
from dpd_runtime.generation.networks import DECODER, decode, groups
from dpd_runtime.sampling.noise import image_element
from dpd_runtime.sampling.sample import to_uint8, turned
from dpd_runtime.sampling.sampler import Sampler


def is_decoded(block: Block, sampler: Sampler, latent_shape: tuple[int, ...]) -> bool:
    """Whether the block's images are decoded prototypes. Block means (kind `pooled`) are too small to be decoded."""
    prototypes = block.scene_class.prototypes
    whole = len(prototypes) > 0 and prototypes.shape[1:] == latent_shape
    return whole and sampler.guidance_for(block.number).decodes


def decode_prototypes(blocks: Sequence[Block], bundle: Bundle, decoder: Engine, batch: int, seed: int) -> Images:
    """The pixels of decoded blocks, uint8 [10 · blocks, H, W, N]. Matched codes are turned and mirrored by the seed.

    Raises:
        DegenerateImageError: the decoder gives NaN or infinite numbers.
    """
    rows = [row for block in blocks for row in block.rows()]
    pixels = decode_latents(prototypes_of(rows), rows, bundle, decoder, batch, seed)
    for view, (block, index) in zip(pixels, rows, strict=True):
        if block.scene_class.prototype_kind == "matched":
            view[:] = turned(view, image_element(seed, block.scene_class.name, index))
    return pixels


def prototypes_of(rows: Sequence[Row]) -> Float32:
    """The prototype of each row [rows, …]. Each class uses its own in turn."""
    return np.stack([block.scene_class.prototypes[index % len(block.scene_class.prototypes)] for block, index in rows])


def decode_latents(
    latents: Float32, rows: Sequence[Row], bundle: Bundle, decoder: Engine, batch: int, seed: int
) -> Images:
    """Latents [rows, C, h, w] → uint8 [rows, H, W, N], in calls of `batch` rows.

    Raises:
        DegenerateImageError: the decoder gives NaN or infinite numbers.
    """
    pixels = np.empty((len(latents), *bundle.manifest.image_shape), np.uint8)
    for call, own in groups(len(latents), batch):
        output = decode(decoder, latents[call], bundle.manifest)
        check_finite(output, seed, [rows[place] for place in call], DECODER)
        pixels[call[:own]] = to_uint8(output[:own])
        del output  # before the next one comes
    return pixels
