"""The files of a bundle besides its graphs, in the layout that optimum's ORTStableDiffusionPipeline opens."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from dpd_runtime.annotations import Float32
from dpd_train.bases.folder import TOKENIZER_FILES
from dpd_train.run.opened import OpenedRun

CONFIGS = {
    "unet/config.json": "unet/config.json",
    "vae_decoder/config.json": "vae/config.json",
    "text_encoder/config.json": "text_encoder/config.json",
    "scheduler/scheduler_config.json": "scheduler/scheduler_config.json",
    "model_index.json": "model_index.json",
}
"""Path in the bundle: path in the run's pipeline."""
CODES_ONLY_CONFIGS = ("vae_decoder/config.json", "scheduler/scheduler_config.json")


def layout_files(opened: OpenedRun, *, vae_encoder: bool) -> dict[str, bytes]:
    """Configs, tokenizer, scheduler, class table, prompts and prototypes, by their path."""
    pipeline = opened.run.path / "pipeline"
    files = {target: (pipeline / source).read_bytes() for target, source in CONFIGS.items()}
    if vae_encoder:
        files["vae_encoder/config.json"] = files["vae_decoder/config.json"]
    files["classes.json"] = (opened.run.path / "classes.json").read_bytes()
    for name in (*TOKENIZER_FILES, "tokenizer_config.json", "tokenizer.json"):
        path = pipeline / "tokenizer" / name
        if path.exists():  # transformers before 5 writes no tokenizer.json
            files[f"tokenizer/{name}"] = path.read_bytes()
    tokenizer = opened.base.tokenizer
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    special |= {"pad_token": tokenizer.pad_token, "unk_token": tokenizer.unk_token}
    files["tokenizer/special_tokens_map.json"] = (
        json.dumps(special, indent=1, sort_keys=True, allow_nan=False) + "\n"
    ).encode()
    prompts = opened.prompts.astype(np.float16)
    files["prompts.safetensors"] = save({"embeddings": prompts[:-1], "empty": prompts[-1]})
    return files | {"prototypes.safetensors": _prototypes(opened.stored_prototypes)}


def codes_only_files(pipeline: Path, table: dict[str, Any], codes: Mapping[str, Float32]) -> dict[str, bytes]:
    """Configs, class table without prompts, and codes, by their path.

    Args:
        pipeline: folder in diffusers' layout. table: the content of classes.json. codes: by their name in the bundle.
    """
    classes = [entry | {"prompt_rows": []} for entry in table["classes"]]
    files = {target: (pipeline / CONFIGS[target]).read_bytes() for target in CODES_ONLY_CONFIGS}
    files["classes.json"] = (
        json.dumps(table | {"prompts": [], "classes": classes}, indent=1, allow_nan=False) + "\n"
    ).encode()
    return files | {"prototypes.safetensors": _prototypes(codes)}


def _prototypes(stored: Mapping[str, Float32]) -> bytes:
    return save({name: latents.astype(np.float16) for name, latents in stored.items()})
