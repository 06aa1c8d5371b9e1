"""The extractor `swimdiff:PATH`: an encoder that was trained without labels."""

from functools import partial
from pathlib import Path

import torch

from dpd_eval.extractors import Extractor, in_batches, stage_statistics
from dpd_runtime.annotations import Float32, Images
from dpd_train.config import FAMILY
from dpd_train.encoder import load_encoder
from dpd_train.networks import count_parameters


def swimdiff_extractor(folder: Path) -> Extractor:
    """Open the encoder in `folder`. Larger images than it was trained on are reduced to that size.

    Raises:
        InputError: as `load_encoder`.
    """
    encoder = load_encoder(folder)
    model = encoder.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    widths = model.config.widths

    def embed(images: Images) -> Float32:
        features: Float32 = in_batches(partial(stage_statistics, model), images, encoder.side).numpy()
        return features

    description = (
        f"{encoder.name}: ResNet {'-'.join(map(str, widths))} trained without labels at {encoder.side} px, means and "
        f"deviations of all stages but the last [{2 * sum(widths[:-1])}], "
        f"{count_parameters(model) / 1e6:.1f} M parameters, weights {encoder.sha256[:12]}"
    )
    return Extractor(f"{FAMILY}{folder}", description, None, embed, symmetric=True)
