"""Feature spaces in which images are compared."""

from collections.abc import Callable
from dataclasses import dataclass

from dpd_eval.extractors.extractor import Extractor
from dpd_runtime.annotations import Float32, Images
from dpd_train.images.structure import orbit, structure, unit


@dataclass(frozen=True)
class Space:
    """Images uint8 [n, H, W, 3] → unit vectors [n, D]; similarity is their cosine.

    Args:
        sees_through_vae: whether an image and what a VAE makes of it are alike.
    """

    name: str
    embed: Callable[[Images], Float32]
    sees_through_vae: bool = False

    def orbit(self, images: Images) -> Float32:
        """Vectors [n, 8, D] of the eight views of each image."""
        return orbit(images, self.embed)


def teacher_space(extractor: Extractor) -> Space:
    """Cosines of a classifier's last features: what a scene is made of."""
    return Space("teacher features", lambda images: unit(extractor.features(images)))


def structure_space() -> Space:
    """`dpd_train.images.structure`: where edges lie, at any contrast."""
    return Space("structure", structure, sees_through_vae=True)
