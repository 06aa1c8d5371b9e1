"""What PyTorch makes of matched codes: decoded images, without noise and UNet, to compare a codes-only bundle with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dpd_export.reference.cases import spread
from dpd_export.reference.end_to_end import CPU, ImageParity, image_parity
from dpd_export.reference.reference import Extent
from dpd_runtime.annotations import Float32, Images
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.generation.cases import bundle_decoder
from dpd_runtime.generation.golden import GoldenCodes, middle
from dpd_runtime.sampling.sampler import BLOCK
from dpd_train.bases.base import Base, decode_images


@dataclass(frozen=True)
class DecodedCodes:
    """PyTorch's images of codes.

    Args:
        codes: [n, C, h, w], up to BLOCK of each class that is compared; for a large base the golden ones alone.
        images: uint8 [n, H, W, 3] of them.
        golden_codes: [m, C, h, w], the codes of the golden images.
    """

    codes: Float32
    images: Images
    golden: GoldenCodes
    golden_codes: Float32


def decode_codes(
    base: Base, codes: tuple[Float32, ...], extent: Extent, progress: Callable[[], None] = lambda: None
) -> DecodedCodes:
    """Decode with PyTorch in float32.

    Args:
        codes: of each class [K, C, h, w], K ≥ 1, rounded to float16 as in the bundle.
    """
    labels = list(range(len(codes)))
    chosen = spread(min(extent.golden, len(labels)), labels)
    first = np.stack([codes[label][0] for label in chosen])
    images = decode_images(base, first)
    golden = GoldenCodes(tuple(chosen), middle(images))
    progress()
    if extent.large:
        return DecodedCodes(first, images, golden, first)
    blocks = [codes[label][:BLOCK] for label in spread(extent.blocks, labels)]
    sets = []
    for block in blocks:
        sets.append(decode_images(base, block))
        progress()
    return DecodedCodes(np.concatenate(blocks), np.concatenate(sets), golden, first)


def compare_codes(bundle: Bundle, decoded: DecodedCodes, progress: Callable[[], None] = lambda: None) -> ImageParity:
    """Decode the same codes with the bundle and compare the images.

    Raises:
        ParityError: images are further from PyTorch's than docs/reference/graphs.md allows.
    """
    images = bundle_decoder(bundle, CPU)(decoded.codes)
    progress()
    return image_parity(images, decoded.images, bundle.manifest.precision)
