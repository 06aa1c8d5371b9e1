"""Random bases in the shapes and folders of the Stable Diffusion family: of ten thousand parameters, and in full."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from dpd_train.attributes import VOCABULARY
from dpd_train.bases import build_tokenizer

SIDE = 32  # pixels: 4 latents of 8 pixels along an axis
LENGTH = 77

# As the configs of SD-1.5 and SD-2.1 have them; the first names no `timestep_spacing`, so that the default counts.
SD1_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SD2_SCHEDULER = SD1_SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}


@dataclass(frozen=True)
class Sizes:
    """Configs of the networks, without what is the same for all sizes."""

    vae: dict[str, Any]
    unet: dict[str, Any]
    text_encoder: dict[str, Any]
    dtype: torch.dtype = torch.float32


TINY = Sizes(
    vae={"block_out_channels": (4, 4, 8, 8), "layers_per_block": 1, "norm_num_groups": 2, "sample_size": SIDE},
    unet={
        "sample_size": SIDE // 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    },
    text_encoder={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
)
TINY_SD2 = {"attention_head_dim": [2, 4], "use_linear_projection": True}
SD15 = Sizes(  # of version 1.5: 860, 84 and 123 million parameters, saved in half precision as people get them
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512},
    unet={
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    text_encoder={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    dtype=torch.float16,
)


def sd_like(
    folder: Path,
    *,
    version: int = 1,
    pipeline: str = "StableDiffusionPipeline",
    sizes: Sizes = TINY,
    **unet: Any,
) -> Path:
    """A base of version 1 (ε) or 2 (v, linear projections) in `folder`; `unet` adds to the UNet's config."""
    torch.manual_seed(version)
    tokenizer = build_tokenizer(VOCABULARY, folder / "tokenizer")
    settings = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    settings |= {"model_max_length": LENGTH}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=0.18215,
        **sizes.vae,
    ).to(sizes.dtype).save_pretrained(folder / "vae")
    UNet2DConditionModel(
        **{"in_channels": 4, "out_channels": 4} | sizes.unet | (TINY_SD2 if version == 2 else {}) | unet
    ).to(sizes.dtype).save_pretrained(folder / "unet")
    CLIPTextModel(
        CLIPTextConfig(
            **{"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH} | sizes.text_encoder,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).to(sizes.dtype).save_pretrained(folder / "text_encoder")
    (folder / "scheduler").mkdir()
    scheduler = SD1_SCHEDULER if version == 1 else SD2_SCHEDULER
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
