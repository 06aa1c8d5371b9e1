"""The extractor `swimdiff:PATH`: an encoder that was trained without labels."""

from pathlib import Path

import torch

from dpd_eval.extractors.extractor import Extractor
from dpd_eval.extractors.own import pooled_features
from dpd_runtime.annotations import Float32, Images
from dpd_train.classifiers.encoder import load_encoder
from dpd_train.classifiers.network import count_parameters
from dpd_train.config import FAMILY


def swimdiff_extractor(folder: Path) -> Extractor:
    """Open the encoder in `folder`. Larger images than it was trained on are reduced to that size.

    Raises:
        InputError: as `load_encoder`.
    """
    encoder = load_encoder(folder)
    model = encoder.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    widths = model.config.widths

    def embed(images: Images) -> Float32:
        found: Float32 = pooled_features(model, images, encoder.side).numpy()
        return found

    description = (
        f"{encoder.name}: ResNet {'-'.join(map(str, widths))} trained without labels at {encoder.side} px, features "
        f"[{widths[-1]}], {count_parameters(model) / 1e6:.1f} M parameters, weights {encoder.sha256[:12]}"
    )
    return Extractor(f"{FAMILY}{folder}", description, None, embed)
