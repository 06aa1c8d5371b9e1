"""What a graph says to other tools of its images, latents and classes: the entries of its metadata.

The keys that begin with `Image.` and their values are ONNX's own (its page MetadataProps). All others are JSON.
"""

import json
from collections.abc import Sequence

from dpd_runtime.manifest import Manifest

Facts = dict[str, str]
"""Key → value of one entry of a model's metadata."""


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _of_images(height: int, width: int, bands: Sequence[str] = ()) -> Facts:
    """Of images [n, C, H, W] in [−1, 1]: red, green and blue unless `bands` has names."""
    facts = {"image_shape": _json([len(bands) or 3, height, width]), "Image.NominalPixelRange": "Normalized_1_1"}
    if bands:
        return facts | {"bands": _json(list(bands))}
    return facts | {"Image.BitmapPixelFormat": "Rgb8", "Image.ColorSpaceGamma": "SRGB"}


def classifier_facts(classes: Sequence[str], side: int) -> Facts:
    """Of a classifier of `dpd fit`. classes: in the order of the logits."""
    return {"classes": _json(list(classes))} | _of_images(side, side)


def bundle_facts(graph: str, manifest: Manifest, classes: Sequence[str]) -> Facts:
    """Of a bundle's graph, such as unet/model.onnx. Sizes are those that its images are made with."""
    height, width, _ = manifest.image_shape
    images = _of_images(height, width, [band.name for band in manifest.bands])
    latents = {"latent_shape": _json(manifest.latent_shape), "scaling_factor": _json(manifest.scaling_factor)}
    names = {"classes": _json(list(classes))}
    facts = {
        "unet": latents | {"prediction_type": _json(manifest.prediction_type)},
        "vae_decoder": latents | images,
        "vae_encoder": latents | images,
        "classifier": names | images,
        "latent_classifier": names | latents,
    }
    return facts.get(graph.partition("/")[0], {})
