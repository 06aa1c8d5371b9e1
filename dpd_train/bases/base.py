"""The latent diffusion model: read from a folder in diffusers' layout, called, and written."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from dpd_runtime.annotations import Float32, Images
from dpd_runtime.errors import InputError
from dpd_runtime.files import naming
from dpd_runtime.sampling.sample import Denoise, to_uint8
from dpd_runtime.sampling.schedule import Schedule, schedule_from_config
from dpd_train.bases.folder import TOKENIZER_FILES, base_folder, check_base, weights_variant
from dpd_train.classifiers.network import count_parameters

DECODER_LIMIT = 10_000_000  # parameters of a VAE's decoder up to which a CPU can train it, or match codes through it
DECODED = 6  # latents in one call of the decoder, if there may be many
LARGE = 100_000_000  # parameters of a UNet from which a step is slow
FIRST_MAP = 2**28  # bytes of a network's first map in one call, which takes about eight times as much in all


@dataclass(frozen=True)
class Base:
    """The parts of a text-to-image latent diffusion model; float32, in evaluation mode."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    @property
    def schedule(self) -> Schedule:
        return schedule_from_config(self.scheduler.config)

    @property
    def downsampling(self) -> int:
        """Pixels of an image per latent along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def resolution(self) -> int:
        """Side of its images in pixels."""
        return int(self.unet.config.sample_size * self.downsampling)


def load_base(name: str) -> Base:
    """Open `nano`, a local folder, or a repository of the local hub cache by its id.

    A class embedding of the UNet is folded into its time embedding for class 0.

    Raises:
        InputError: there is no such base, or it is a model of another kind.
    """
    folder = base_folder(name)
    check_base(name, folder)
    try:
        base = Base(
            vae=_part(AutoencoderKL, folder, "vae", torch_dtype=torch.float32),
            unet=fold_class_embedding(_part(UNet2DConditionModel, folder, "unet", torch_dtype=torch.float32)),
            text_encoder=_part(CLIPTextModel, folder, "text_encoder", dtype=torch.float32),
            tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
            scheduler=_scheduler(folder),
        )
        schedule_from_config(base.scheduler.config)
        if base.vae.config.get("shift_factor"):
            raise ValueError("its VAE shifts latents (shift_factor), which a bundle cannot store; use a VAE without")
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"base {name!r} cannot be opened: {error}") from error
    longest = int(base.text_encoder.config.max_position_embeddings)  # a tokenizer without a length has 10^30
    base.tokenizer.model_max_length = min(base.tokenizer.model_max_length, longest)
    return base


def _part(kind: Any, folder: Path, part: str, **dtype: torch.dtype) -> Any:
    """One network, from safetensors; other weight files are pickles."""
    variant = weights_variant(folder, part)
    options = {"use_safetensors": True, "local_files_only": True} | ({"variant": variant} if variant else {})
    return kind.from_pretrained(folder, subfolder=part, **options, **dtype).eval()


def _scheduler(folder: Path) -> DDIMScheduler:
    """The schedule of the sampler that the base names, not clipped unless its config asks for it (DDIM's default)."""
    content = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    silent = {} if "clip_sample" in content else {"clip_sample": False}
    return DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True, **silent)


def is_large(base: Base) -> bool:
    """Whether the UNet has at least LARGE parameters."""
    return count_parameters(base.unet) >= LARGE


def rows_a_call(network: AutoencoderKL | UNet2DConditionModel, side: int, most: int) -> int:
    """Images or latents of `side` in one call, if there may be many: at most `most`, fewer if memory would not do."""
    one = 4 * int(network.config.block_out_channels[0]) * side**2
    return max(1, min(most, FIRST_MAP // one))


def decoder_fits(base: Base, device: torch.device) -> bool:
    """Whether the VAE's decoder can run thousands of times with its gradient: on a GPU, or because it is small."""
    return device.type != "cpu" or count_parameters(base.vae.decoder) <= DECODER_LIMIT


def at_resolution(base: Base, side: int) -> Base:
    """The same convolutional networks for images of `side` pixels. Changes the configs in place."""
    # diffusers sets small sizes of UNets from before 0.9 to 64, as it takes them for a mistake.
    size = {"sample_size": side // base.downsampling, "_diffusers_version": diffusers.__version__}
    base.unet.register_to_config(**size)
    base.vae.register_to_config(sample_size=side)
    return base


def torch_denoise(base: Base) -> Denoise:
    """The UNet as the function that `dpd_runtime.sampling.sample.sample` takes."""

    def denoise(latents: Float32, timestep: int, prompts: Float32) -> Float32:
        device = base.unet.device
        noisy, context = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (latents, prompts))
        with torch.no_grad():
            output: Float32 = base.unet(noisy, torch.tensor(timestep, device=device), context).sample.cpu().numpy()
        return output

    return denoise


def frozen_decoder(base: Base) -> Callable[[torch.Tensor], torch.Tensor]:
    """Scaled latents [B, C, h, w] → images [B, N, H, W] in about [-1, 1], with a gradient for the latents.

    Freezes the VAE, in place.
    """
    vae, scale = base.vae.requires_grad_(False), float(base.vae.config.scaling_factor)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = vae.decode(latents / scale).sample
        return images

    return decode


@torch.no_grad()
def decode_images(base: Base, latents: Float32) -> Images:
    """Scaled latents [B, C, h, w] → uint8 [B, H, W, 3]; the VAE stays where it is."""
    scaled = torch.from_numpy(latents).to(base.vae.device) / base.vae.config.scaling_factor
    return to_uint8(base.vae.decode(scaled).sample.cpu().numpy())


def decode_in_parts(base: Base, latents: Float32) -> Images:
    """`decode_images` in several calls, so that the activations fit into memory."""
    rows = rows_a_call(base.vae, latents.shape[-1] * base.downsampling, DECODED)
    parts = [decode_images(base, latents[i : i + rows]) for i in range(0, len(latents), rows)]
    return np.concatenate(parts)


def save_base(base: Base, folder: Path, tokenizer_source: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder so that plain `StableDiffusionPipeline.from_pretrained` opens it.

    transformers 5 saves tokenizer.json alone; vocab.json and merges.txt are copied beside it for older readers.
    """

    def cast(module: torch.nn.Module) -> torch.nn.Module:
        return module if all(p.dtype == dtype for p in module.parameters()) else copy.deepcopy(module).to(dtype)

    _forget_last_call(base.tokenizer)
    pipeline = StableDiffusionPipeline(
        vae=cast(base.vae),
        text_encoder=cast(base.text_encoder),
        tokenizer=base.tokenizer,
        unet=cast(base.unet),
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with naming(folder):
        pipeline.save_pretrained(folder, safe_serialization=True)
        _load_as_float32(folder / "text_encoder" / "config.json")
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer_source / name, folder / "tokenizer" / name)
        _remove_local_paths(folder)


def _forget_last_call(tokenizer: CLIPTokenizer) -> None:
    """Without this tokenizer.json would hold length and padding of the last call."""
    fast = getattr(tokenizer, "backend_tokenizer", None)  # transformers 4 may have a slow one, which lacks this
    if fast is not None:
        fast.no_truncation()
        fast.no_padding()


def _load_as_float32(path: Path) -> None:
    """Write float32 to the config: transformers loads in the dtype of the config, diffusers in float32."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps(content | {"dtype": "float32"}, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
    )


def _remove_local_paths(folder: Path) -> None:
    """Remove from saved configs the folders that they were loaded from, which are private."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and {"_name_or_path", "name_or_path"} & set(content):
            kept = {k: v for k, v in content.items() if k not in ("_name_or_path", "name_or_path")}
            path.write_text(json.dumps(kept, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


@torch.no_grad()
def fold_class_embedding(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """`unet` without its class embedding, with the outputs that it had for class 0.

    The network adds the class vector to the output of the time embedding's last layer, so it can be added to that
    layer's bias. The result takes sample, timestep and prompt, as plain pipelines pass them. Text2Earth has such an
    embedding for the map's zoom level, with 0 for "unknown".
    """
    if unet.class_embedding is None:
        return unet
    bias = unet.time_embedding.linear_2.bias
    sample = torch.zeros(1, unet.config.in_channels, 1, 1, dtype=bias.dtype, device=bias.device)
    zero = torch.zeros(1, dtype=torch.int64, device=bias.device)
    bias += unet.get_class_embed(sample=sample, class_labels=zero)[0]
    unet.class_embedding = None
    unet.register_to_config(class_embed_type=None, num_class_embeds=None)
    return unet
