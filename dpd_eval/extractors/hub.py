"""The extractor `hf:ID_OR_PATH`: pooled features of a transformers image model that is already on this machine."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModel

from dpd_eval.extractors.extractor import Extractor, short_hash
from dpd_runtime.annotations import Float32, Images
from dpd_runtime.errors import InputError
from dpd_train.bases.hub import cached_snapshot, first_sentence, public_name
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
    source = name.removeprefix(HUB)
    here = Path(source).exists()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        # given an ID, transformers asks the hub for an adapter despite local_files_only; a folder is just opened
        folder = source if here else str(cached_snapshot(source))
        # the PIL processor even if torchvision is installed: the two resize slightly differently
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, **local)
        model, report = AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
    except Exception as error:  # transformers raises many types for a folder that it cannot use
        files = "config.json, preprocessor_config.json and model.safetensors"
        way_out = f"its folder needs {files}" if here else f"fetch it once: hf download {source}"
        raise InputError(f"extractor {name}: cannot be loaded ({first_sentence(error)}); {way_out}") from None
    missing = sorted(report["missing_keys"])
    pooled = not any("pooler" in key for key in missing)  # a pooler that was not loaded has random weights
    absent = [key for key in missing if "pooler" not in key]
    if absent:
        raise InputError(
            f"extractor {name}: its weights lack {len(absent)} tensors, first {absent[0]}; use another model"
        )
    model = getattr(model, "vision_model", model).eval()
    embed = partial(_embed, model, processor, pooled)
    try:
        width = embed(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]
    except Exception as error:  # other kinds of models fail in many ways
        reason = first_sentence(error)
        raise InputError(f"extractor {name}: gives no features of an image ({reason}); use an image model") from None
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
