"""The extractor `hf:ID_OR_PATH`: pooled features of a transformers image model that is already on this machine."""

from functools import partial
from typing import Any

import numpy as np
import torch

from dpd_eval.extractors.extractor import Extractor, short_hash
from dpd_runtime.annotations import Float32, Images
from dpd_runtime.errors import InputError
from dpd_train.bases.hub import find_model, first_sentence, image_model, image_processor, public_name
from dpd_train.config import HUB

BATCH = 32


def hub_extractor(name: str) -> Extractor:
    """Open the model of `hf:ID_OR_PATH` as an extractor without labels.

    Features are the model's pooled output if its checkpoint contains the pooling weights, otherwise the mean of the
    last hidden state over tokens or positions. Models for images and text (CLIP) contribute their image tower.
    Only safetensors weights and the code of transformers itself are loaded. Nothing is downloaded.

    Raises:
        InputError: no such model on this machine, pickled or missing weights, or not an image model.
    """
    source, what = name.removeprefix(HUB), f"extractor {name}"
    folder, _ = find_model(source)
    processor = image_processor(what, folder)
    model, pooled = image_model(what, folder)
    embed = partial(_embed, model, processor, pooled)
    try:
        width = embed(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]
    except Exception as error:  # other kinds of models fail in many ways
        reason = first_sentence(error)
        raise InputError(f"{what}: gives no features of an image ({reason}); use an image model") from None
    kind = f"{type(model).__name__}, {'pooled' if pooled else 'mean'} features [{width}]"
    return Extractor(name, f"{public_name(source)}: {kind}, weights {short_hash(model)}", None, embed)


@torch.no_grad()
def _embed(model: torch.nn.Module, processor: Any, pooled: bool, images: Images) -> Float32:
    parts = []
    for i in range(0, len(images), BATCH):
        batch = processor(images=list(images[i : i + BATCH]), return_tensors="pt", input_data_format="channels_last")
        output = model(pixel_values=batch["pixel_values"])
        vectors = getattr(output, "pooler_output", None) if pooled else None
        if vectors is None:
            hidden = output.last_hidden_state
            vectors = hidden.mean(dim=1) if hidden.ndim == 3 else hidden.mean(dim=(2, 3))
        parts.append(vectors.flatten(1))
    features: Float32 = torch.cat(parts).float().numpy()
    return features
