"""Feature spaces in which images are compared."""

from collections.abc import Callable
from dataclasses import dataclass

from dpd_eval.extractors.extractor import Extractor
from dpd_runtime.annotations import Float32, Images
from dpd_train.images.structure import orbit, structure, unit


@dataclass(frozen=True)
class Space:
    """A map from images uint8 [n, H, W, C] to unit vectors [n, D]; similarity is their cosine.

    Args:
        sees_through_vae: whether an image remains similar to itself after passing through a VAE.
        symmetric: whether the eight views of an image (D4) have the same vector.
    """

    name: str
    embed: Callable[[Images], Float32]
    sees_through_vae: bool = False
    symmetric: bool = False

    def orbit(self, images: Images) -> Float32:
        """Embed the views of each image that differ: vectors [n, 8, D], or [n, 1, D] in a symmetric space."""
        return self.embed(images)[:, None] if self.symmetric else orbit(images, self.embed)


def teacher_space(extractor: Extractor) -> Space:
    """Return the space of a classifier's last features, which describe the content of a scene."""
    return Space("teacher features", lambda images: unit(extractor.features(images)))


def further_space(extractor: Extractor) -> Space:
    """Return the space of a further extractor's features, named by it."""
    name = extractor.description.partition(": ")[0]
    return Space(f"features of {name}", lambda images: unit(extractor.features(images)), symmetric=extractor.symmetric)


def structure_space() -> Space:
    """Return the space of edge positions, independent of contrast (`dpd_train.images.structure`)."""
    return Space("structure", structure, sees_through_vae=True)
