"""Configs, tokenizer and scheduler in the layout which optimum's ORTStableDiffusionPipeline opens (DEPLOYMENT §3)."""

import json
from pathlib import Path

from dpd_train.bases.base import Base
from dpd_train.bases.folder import TOKENIZER_FILES

CONFIGS = {
    "unet/config.json": "unet/config.json",
    "vae_decoder/config.json": "vae/config.json",
    "text_encoder/config.json": "text_encoder/config.json",
    "scheduler/scheduler_config.json": "scheduler/scheduler_config.json",
    "model_index.json": "model_index.json",
}


def json_bytes(content: object) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def layout_files(base: Base, run: Path, *, vae_encoder: bool) -> dict[str, bytes]:
    """Every file beside the graphs which describes them, and the class table."""
    pipeline = run / "pipeline"
    files = {target: (pipeline / source).read_bytes() for target, source in CONFIGS.items()}
    if vae_encoder:
        files["vae_encoder/config.json"] = files["vae_decoder/config.json"]
    files["classes.json"] = (run / "classes.json").read_bytes()
    for name in (*TOKENIZER_FILES, "tokenizer_config.json", "tokenizer.json"):
        path = pipeline / "tokenizer" / name
        if path.exists():  # transformers before 5 writes no tokenizer.json
            files[f"tokenizer/{name}"] = path.read_bytes()
    tokenizer = base.tokenizer
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    special |= {"pad_token": tokenizer.pad_token, "unk_token": tokenizer.unk_token}
    files["tokenizer/special_tokens_map.json"] = json_bytes(special)
    return files
