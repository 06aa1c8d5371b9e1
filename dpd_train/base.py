"""The latent diffusion model as one folder in diffusers' layout: read, checked, written."""

import copy
import json
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from dpd_runtime.errors import InputError
from dpd_runtime.sampling import Denoise, Float32, to_uint8
from dpd_runtime.schedule import Schedule, schedule_from_config

TOKENIZER_FILES = ("vocab.json", "merges.txt")


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
    def resolution(self) -> int:
        """Side of its images in pixels."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.unet.config.sample_size * factor)


def nano_folder() -> Path:
    """The base that comes with the package."""
    return Path(str(resources.files("dpd_train") / "data" / "nano"))


def load_base(name: str) -> Base:
    """Open `nano` or a local folder.

    Raises:
        InputError: no such folder, or a model of another kind.
    """
    folder = nano_folder() if name == "nano" else Path(name)
    index = folder / "model_index.json"
    if not index.is_file():
        raise InputError(f"base {name!r}: {index} is missing; give nano or a folder in diffusers' layout")
    kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise InputError(f"base {name!r} is a {kind}; StableDiffusionPipeline folders are supported")
    for file in TOKENIZER_FILES:
        if not (folder / "tokenizer" / file).is_file():
            raise InputError(
                f"base {name!r}: tokenizer/{file} is missing; copy it there from the model's first release"
            )
    local = {"local_files_only": True}
    weights = {"use_safetensors": True, **local}  # anything else would be a pickle
    try:
        return Base(
            vae=AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32, **weights).eval(),
            unet=UNet2DConditionModel.from_pretrained(
                folder, subfolder="unet", torch_dtype=torch.float32, **weights
            ).eval(),
            text_encoder=CLIPTextModel.from_pretrained(
                folder, subfolder="text_encoder", dtype=torch.float32, **weights
            ).eval(),
            tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), **local),
            scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler", **local),
        )
    except (OSError, ValueError) as error:
        raise InputError(f"base {name!r} cannot be opened: {error}") from error


def torch_denoise(base: Base) -> Denoise:
    """The UNet as the function which `dpd_runtime.sampling.sample` takes: PyTorch behind the site's own sampler."""

    def denoise(latents: Float32, timestep: int, prompts: Float32) -> Float32:
        context = torch.from_numpy(np.ascontiguousarray(prompts))
        with torch.no_grad():
            output: Float32 = base.unet(torch.from_numpy(latents), torch.tensor(timestep), context).sample.numpy()
        return output

    return denoise


@torch.no_grad()
def decode_images(base: Base, latents: Float32) -> npt.NDArray[np.uint8]:
    """Scaled latents [B, C, h, w] → uint8 [B, H, W, 3]."""
    decoded = base.vae.decode(torch.from_numpy(latents) / base.vae.config.scaling_factor).sample
    return to_uint8(decoded.numpy())


def save_base(base: Base, folder: Path, tokenizer_source: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder so that plain `StableDiffusionPipeline.from_pretrained` opens it.

    transformers 5 saves tokenizer.json alone; vocab.json and merges.txt are copied beside it for older readers.
    """
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(base.vae).to(dtype),
        text_encoder=copy.deepcopy(base.text_encoder).to(dtype),
        tokenizer=base.tokenizer,
        unet=copy.deepcopy(base.unet).to(dtype),
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    _load_as_float32(folder / "text_encoder" / "config.json")
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_source / name, folder / "tokenizer" / name)
    _remove_local_paths(folder)


def _load_as_float32(path: Path) -> None:
    """transformers loads a model in the dtype that its config names, diffusers in float32: one pipeline needs one."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _remove_local_paths(folder: Path) -> None:
    """Saved configs remember where they were loaded from; that is nobody's business."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and {"_name_or_path", "name_or_path"} & set(content):
            kept = {k: v for k, v in content.items() if k not in ("_name_or_path", "name_or_path")}
            path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
