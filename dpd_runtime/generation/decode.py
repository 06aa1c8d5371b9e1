"""From latents to pixels, and the short path of decoded images: a block's prototypes, given to the VAE decoder.

A decoded image needs neither noise nor the UNet nor the latent classifier: all its candidates would be equal.
"""

import numpy as np

from dpd_runtime.annotations import Float32, Images
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Engine
from dpd_runtime.generation.block import Block
from dpd_runtime.generation.networks import DECODER, decode, groups
from dpd_runtime.sampling.noise import image_element
from dpd_runtime.sampling.sample import to_uint8, turned
from dpd_runtime.sampling.sampler import Sampler


def is_decoded(block: Block, sampler: Sampler, latent_shape: tuple[int, ...]) -> bool:
    """Whether the block's images are decoded prototypes. Block means (kind `pooled`) are too small to be decoded."""
    prototypes = block.scene_class.prototypes
    whole = len(prototypes) > 0 and prototypes.shape[1:] == latent_shape
    return whole and sampler.guidance_for(block.number).decodes


def decode_prototypes(block: Block, bundle: Bundle, decoder: Engine, batch: int, seed: int) -> Images:
    """The pixels of a decoded block, uint8 [10, H, W, 3]. Matched codes are turned and mirrored by the seed.

    Raises:
        DegenerateImageError: the decoder gives NaN or infinite numbers.
    """
    scene = block.scene_class
    latents = scene.prototypes[[index % len(scene.prototypes) for index in block.indices]]
    pixels = decode_latents(latents, block, bundle, decoder, batch, seed)
    if scene.prototype_kind != "matched":
        return pixels
    elements = [image_element(seed, scene.name, index) for index in block.indices]
    return np.stack([turned(*pair) for pair in zip(pixels, elements, strict=True)])


def decode_latents(latents: Float32, block: Block, bundle: Bundle, decoder: Engine, batch: int, seed: int) -> Images:
    """The block's latents [10, C, h, w] → uint8 [10, H, W, 3], in calls of `batch` rows.

    Raises:
        DegenerateImageError: the decoder gives NaN or infinite numbers.
    """
    images = np.empty((len(latents), 3, *bundle.manifest.image_shape[:2]), np.float32)
    for rows, _ in groups(len(latents), batch):
        images[rows] = block.check_finite(decode(decoder, latents[rows], bundle.manifest), seed, rows, DECODER)
    return to_uint8(images)
