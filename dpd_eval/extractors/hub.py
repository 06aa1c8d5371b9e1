"""The extractor `hf:ID_OR_PATH`: pooled features of a transformers image model that is on this machine already."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModel

from dpd_eval.extractors.extractor import Extractor, Floats, short_hash
from dpd_runtime.annotations import Images
from dpd_runtime.errors import InputError
from dpd_train.bases.hub import cached_snapshot, first_sentence

BATCH = 32


def hub_extractor(name: str) -> Extractor:
    """Extractor of `hf:ID_OR_PATH`; it knows no labels.

    Features are the model's own pooled output where its checkpoint holds what makes that, else the mean over the
    last hidden state's tokens or places. Of a model for images and text (CLIP) it is the image tower's.
    Only safetensors weights and code of transformers itself are loaded, and nothing is fetched.

    Raises:
        InputError: no such model here, weights as pickle, weights missing, or not an image model.
    """
    source = name.removeprefix("hf:")
    here = Path(source).exists()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        # for an ID, transformers asks the hub for an adapter in spite of local_files_only; a folder it just opens
        folder = source if here else str(cached_snapshot(source))
        # the PIL variant also where torchvision is there: both resize a little differently
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, **local)
        model, report = AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
    except Exception as error:  # transformers raises almost any type on a folder that it cannot use
        files = "config.json, preprocessor_config.json and model.safetensors"
        way_out = f"its folder needs {files}" if here else f"fetch it once: hf download {source}"
        raise InputError(f"extractor {name}: cannot be loaded ({first_sentence(error)}); {way_out}") from None
    missing = sorted(report["missing_keys"])
    pooled = not any("pooler" in key for key in missing)  # a pooler that was not loaded has random weights
    absent = [key for key in missing if "pooler" not in key]
    if absent:
        raise InputError(f"extractor {name}: its weights lack {len(absent)} tensors, first {absent[0]}; take another")
    model = getattr(model, "vision_model", model).eval()
    embed = partial(_embed, model, processor, pooled)
    try:
        width = embed(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]
    except Exception as error:  # what is no image model fails in its own way
        reason = first_sentence(error)
        raise InputError(f"extractor {name}: gives no features of an image ({reason}); take an image model") from None
    public = f"hf:{Path(source).name}" if here else name  # results do not tell of local folders
    kind = f"{type(model).__name__}, {'pooled' if pooled else 'mean'} features [{width}]"
    return Extractor(name, f"{public}: {kind}, weights {short_hash(model)}", None, embed)


@torch.no_grad()
def _embed(model: torch.nn.Module, processor: Any, pooled: bool, images: Images) -> Floats:
    parts = []
    for i in range(0, len(images), BATCH):
        batch = processor(images=list(images[i : i + BATCH]), return_tensors="pt", input_data_format="channels_last")
        output = model(pixel_values=batch["pixel_values"])
        found = getattr(output, "pooler_output", None) if pooled else None
        if found is None:
            hidden = output.last_hidden_state
            found = hidden.mean(dim=1) if hidden.ndim == 3 else hidden.mean(dim=(2, 3))
        parts.append(found.flatten(1))
    features: Floats = torch.cat(parts).float().numpy()
    return features
