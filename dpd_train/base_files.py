"""Find the folder of a base (`nano`, a folder or a hub id) and check its parts. Nothing is fetched."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dpd_runtime.bands import Band
from dpd_runtime.errors import InputError
from dpd_runtime.files import expanded
from dpd_runtime.text import counted
from dpd_train.model_files import cached_snapshot, fetch_command

KINDS = ("StableDiffusionPipeline", "Text2EarthDiffusionPipeline")
SUPPORTED = "nano, and StableDiffusionPipeline folders: SD-1.x, SD-2.x, Text2Earth and models derived from them"
TOKENIZER_FILES = ("vocab.json", "merges.txt")
PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
FETCHED = ("*.json", "tokenizer/*", *(f"{part}/{stem}.safetensors" for part, stem in PARTS.items()))
# UNet options that need other inputs than prompt and timestep are refused; class embeddings are folded when loaded.
PLAIN_UNET = {
    "encoder_hid_dim_type": (None,),
    "addition_embed_type": (None, "text"),
    "time_cond_proj_dim": (None,),
    "class_embeddings_concat": (None, False),
    "class_embed_type": (None, "timestep"),
}


SHIPPED_BASE = "nano"
RECORD_NAME = "pretrain.json"  # of the training of a base, in its folder


def nano_folder() -> Path:
    """The folder of the base that comes with the package."""
    return Path(str(resources.files("dpd_train") / "data" / "nano"))


def base_folder(name: str) -> Path:
    """The folder of the base `name`: `nano`, a folder, or the id of a repository in the local hub cache.

    Raises:
        InputError: there is no such base; for an id the message has the command that fetches it.
    """
    if name == SHIPPED_BASE:
        return nano_folder()
    folder = expanded(name)
    if folder.exists():
        return folder
    from huggingface_hub.errors import HFValidationError  # only here: it takes a quarter of a second

    try:
        return cached_snapshot(name)
    except HFValidationError:
        raise InputError(f"base {name!r}: no such folder; give nano, a diffusers folder or a hub id") from None
    except (OSError, ValueError):
        raise InputError(
            f"base {name!r}: no such folder, and not in this machine's hub cache; fetch it once: {fetch_base(name)}"
        ) from None


def hub_id(name: str) -> str | None:
    """The id of a base that lies in this machine's hub cache; None for the shipped one and for a folder of any name."""
    if name == SHIPPED_BASE or expanded(name).exists():
        return None
    try:
        cached_snapshot(name)
    except (OSError, ValueError):  # of which an id that is none is one
        return None
    return name


def fetch_base(name: str) -> str:
    """The command that fetches only those files of a base that are needed."""
    return " ".join([fetch_command(name), *(f'--include "{pattern}"' for pattern in FETCHED)])


def weights_variant(folder: Path, part: str) -> str | None:
    """The variant of the safetensors weights: None for plain ones, "fp16" if there are only those.

    Raises:
        FileNotFoundError: neither is there; its text is the missing file.
    """
    stem = folder / part / PARTS[part]
    for variant in (None, "fp16"):
        end = f".{variant}.safetensors" if variant else ".safetensors"
        if stem.with_name(stem.name + end).is_file():
            return variant
    raise FileNotFoundError(f"{part}/{PARTS[part]}.safetensors")


def check_base(name: str, folder: Path) -> None:
    """Check the folder before weights are read.

    Raises:
        InputError: another kind of model, a missing file, or weights that exist only as a pickle.
    """
    again = f"; fetch it: {fetch_base(name)}" if name != SHIPPED_BASE and not expanded(name).exists() else ""
    if not (folder / "model_index.json").is_file():
        hint = again or f"; supported: {SUPPORTED}"
        raise InputError(f"base {name!r}: {folder / 'model_index.json'} is missing{hint}")
    kind = _config(name, folder, "model_index.json").get("_class_name")
    if kind not in KINDS:
        raise InputError(f"base {name!r} is a {kind}; supported: {SUPPORTED}")
    for file in TOKENIZER_FILES:
        if not (folder / "tokenizer" / file).is_file():
            hint = again or "; copy it from the model's first release"
            raise InputError(f"base {name!r}: tokenizer/{file} is missing{hint}")
    for part in PARTS:
        try:
            weights_variant(folder, part)
        except FileNotFoundError as error:
            pickled = any((folder / part).glob("*.bin"))
            why = "; its weights are a pickle, which is never opened: take a model that has safetensors"
            raise InputError(f"base {name!r}: {error} is missing{why if pickled else again}") from None
    _check_sizes(name, folder)


def known_bands(name: str) -> tuple[str, ...]:
    """Names of the bands that the VAE of a base was trained on by `dpd pretrain --bands`; empty for RGB.

    Raises:
        InputError: there is no such base, or its record cannot be read.
    """
    folder = base_folder(name)
    bands = _config(name, folder, RECORD_NAME).get("bands") if (folder / RECORD_NAME).is_file() else None
    return tuple(map(str, bands)) if isinstance(bands, list) else ()


def check_base_bands(name: str, bands: Sequence[Band]) -> None:
    """Check that the base can be used for images of these bands; empty for RGB.

    Raises:
        InputError: its VAE was trained on other ones.
    """
    known, asked = known_bands(name), tuple(band.name for band in bands)
    if known and known != asked:
        of = f"bands {', '.join(asked)}" if asked else "red, green and blue"
        raise InputError(
            f"base {name!r}: its VAE is for bands {', '.join(known)}, and the images have {of}; give the same --bands "
            "in this order, or another --base"
        )
    channels, wanted = _config(name, base_folder(name), "vae/config.json").get("in_channels", 3), len(bands) or 3
    if channels not in (3, wanted):
        raise InputError(
            f"base {name!r}: its VAE is for {counted(channels, 'band')}, and the images have {wanted}; give another"
        )


def base_sides(name: str, folder: Path) -> tuple[int, int] | None:
    """Side in pixels that a base makes, and what other sides must be a multiple of; None if its configs do not say."""
    unet, vae = (_config(name, folder, f"{part}/config.json") for part in ("unet", "vae"))
    latent, widths, stages = unet.get("sample_size"), unet.get("block_out_channels"), vae.get("block_out_channels")
    if not isinstance(latent, int) or not isinstance(widths, list) or not isinstance(stages, list):
        return None
    pixels = 2 ** (len(stages) - 1)  # per latent
    return latent * pixels, int(pixels * 2 ** (len(widths) - 1))


def _check_sizes(name: str, folder: Path) -> None:
    """Check that the parts fit together.

    Raises:
        InputError: they are not the parts of a plain text-to-image model.
    """
    unet, vae, text = (_config(name, folder, f"{part}/config.json") for part in ("unet", "vae", "text_encoder"))
    for option, allowed in PLAIN_UNET.items():
        if unet.get(option) not in allowed:
            raise InputError(f"base {name!r}: its UNet has {option} {unet.get(option)!r}; supported: {SUPPORTED}")
    channels, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latent:
        raise InputError(
            f"base {name!r}: its UNet takes {channels} channels and its VAE makes {latent}: an inpainting, depth or "
            f"upscaling model; supported: {SUPPORTED}"
        )
    width, wanted = text.get("hidden_size", 512), unet.get("cross_attention_dim", 1280)
    if width != wanted:
        raise InputError(f"base {name!r}: its text encoder is {width} wide and its UNet wants {wanted}: not one model")


def _config(name: str, folder: Path, file: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"base {name!r}: {file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"base {name!r}: {file} is not a JSON object")
    return content
