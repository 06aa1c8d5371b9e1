"""A base model: networks, tokenizer, and latents of images in it."""

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dpd_runtime.annotations import Float32, Images, Progress
from dpd_runtime.errors import DiskError, InputError
from dpd_runtime.files import is_own, naming
from dpd_runtime.sampling import Denoise, to_uint8
from dpd_runtime.solvers import Schedule, schedule_from_config
from dpd_train.base_files import TOKENIZER_FILES, base_folder, check_base, weights_variant
from dpd_train.compute import load_state, placed, save_state, to_device
from dpd_train.networks import count_parameters
from dpd_train.scene_set import to_float

# -- The latent diffusion model: read from a folder in diffusers' layout, called, and written.


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
    """The UNet as the function that `dpd_runtime.sampling.sample` takes."""

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


# -- Architecture of the nano base: a small Stable-Diffusion-type model, 22 MB in fp16.


LATENT_CHANNELS = 4
DOWNSAMPLING = 4
TEXT_WIDTH = 128


def nano_vae(resolution: int = 64, latent_channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    """f=4, 0.6 M + 1.0 M parameters, no attention."""
    widths = (32, 64, 96)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=resolution,
        scaling_factor=1.0,
    )


def nano_unet(
    resolution: int = 64, latent_channels: int = LATENT_CHANNELS, attention_levels: int = 1
) -> UNet2DConditionModel:
    """6.9 M parameters with one level of attention, 7.5 M with two.

    The network itself adds the pooled text to the time embedding (`addition_embed_type="text"`), so its inputs are
    sample, timestep and encoder_hidden_states, as in plain pipelines.

    Args:
        attention_levels: the coarsest levels that have attention. At 64 px one is 4 × 4 positions, where attention is
            cheap on a CPU; two add 8 × 8, for a step that takes 1.15 times as long; three add 16 × 16.
    """
    down = tuple("CrossAttnDownBlock2D" if level < attention_levels else "DownBlock2D" for level in (2, 1, 0))
    return UNet2DConditionModel(
        sample_size=resolution // DOWNSAMPLING,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        down_block_types=down,
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(down)),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def with_attention(unet: UNet2DConditionModel, attention_levels: int) -> UNet2DConditionModel:
    """A nano UNet with attention at more levels, which gives the same output as `unet` until it is trained.

    Raises:
        ValueError: `unet` is no nano UNet, or has attention at other levels.
    """
    grown = nano_unet(unet.config.sample_size * DOWNSAMPLING, unet.config.in_channels, attention_levels)
    missing, unexpected = grown.load_state_dict(unet.state_dict(), strict=False)
    if unexpected or any(".attentions." not in name for name in missing):
        raise ValueError("it is no nano UNet with attention at fewer levels")
    for name, module in grown.named_modules():
        if f"{name}.proj_out.weight" in missing:
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    return grown


def nano_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two CLIP layers of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=int(tokenizer.model_max_length),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def nano_scheduler() -> DDIMScheduler:
    """v-prediction on the cosine schedule (Nichol & Dhariwal 2021), whose last step is almost pure noise."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused with trailing spacing; plain pipelines warn about 0
    )


# -- A CLIP tokenizer with a small vocabulary: byte-level BPE over remote-sensing words, 32 tokens long.


MAX_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
SCENE_WORDS = """
a an the of with and in on at near satellite aerial image photo view scene high low resolution
airplane airport annual crop agricultural area bare land barren baseball diamond field basketball court beach bridge
buildings building bus cemetery center chaparral church circular cloud commercial crosswalk dense residential desert
dock farmland ferry football forest freeway golf course grass green greenhouse ground track harbor herbaceous
vegetation highway house houses industrial intersection island lake lawn meadow medium mobile home park mountain
overpass palace parking lot pasture permanent playground pond port power plant railway station resort river road
roundabout runway sand school sea ice ship snow solar panel sparse square stadium storage tanks tank swimming pool
tennis terrace thermal town tower transformer tree trees village vineyard viaduct water wetland wind turbine woods
"""


def build_tokenizer(phrases: Sequence[str], folder: Path) -> CLIPTokenizer:
    """Learn merges from scene words and `phrases`, write vocab.json and merges.txt, and open the tokenizer."""
    words = sorted({word for text in (SCENE_WORDS, *phrases) for word in text.lower().split()})
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, min_frequency=1, end_of_word_suffix="</w>", show_progress=False, special_tokens=[]
    )
    learner.train_from_iterator([word for word in words for _ in range(2)], trainer)
    with tempfile.TemporaryDirectory() as scratch:
        learner.model.save(scratch)
        merges = Path(scratch, "merges.txt").read_text(encoding="utf-8").splitlines()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [line for line in merges if not line.startswith("#")]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    tokens += [merge.replace(" ", "", 1) for merge in merges] + [START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, allow_nan=False), encoding="utf-8")
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Open what `build_tokenizer` wrote."""
    return CLIPTokenizer.from_pretrained(str(folder))


# -- Encode pixels to latents, cached outside the run by content and VAE (docs/guides/train.md).


MOST = 64  # images in one call


def weights_hash(module: torch.nn.Module) -> str:
    """sha256 over names and float32 bytes of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encode(
    vae: AutoencoderKL,
    images: Images,
    progress: Progress = lambda done, total: None,
    *,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Posterior means [n, C, h, w] float32 on the CPU, unscaled, of uint8 images [n, H, W, 3]."""
    device, parts, batch = torch.device(device), [], rows_a_call(vae, images.shape[2], MOST)
    with placed(vae, device):
        for i in range(0, len(images), batch):
            pixels = to_float(to_device(torch.from_numpy(images[i : i + batch]), device))
            parts.append(vae.encode(pixels).latent_dist.mode().cpu())
            progress(min(i + batch, len(images)), len(images))
    return torch.cat(parts).contiguous()


def encode_cached(
    vae: AutoencoderKL,
    images: Images,
    hashes: Sequence[str],
    cache: Path,
    progress: Progress = lambda done, total: None,
    *,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Scaled latents [n, C, h, w] on the CPU, from the cache if the same images were encoded before.

    One file holds one image set in its order. Its name is the hash of the content hashes, the pixels, which a later
    version may read otherwise from the same files, and the encoder's weights.

    Raises:
        DiskError: the cache cannot be written.
    """
    encoder = weights_hash(vae.encoder) + weights_hash(vae.quant_conv)
    pixels = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    key = hashlib.sha256("\n".join([*hashes, str(images.shape), pixels, encoder]).encode()).hexdigest()
    path = cache / f"{key[:32]}.safetensors"
    scaling_factor = float(vae.config.scaling_factor)
    if is_own(path):
        tensors, meta = load_state(path)
        if meta.get("key") == key:
            return tensors["latents"] * scaling_factor
    latents = encode(vae, images, progress=progress, device=device)
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)  # latents decode to the images
        save_state(path, {"latents": latents}, {"key": key})
    except OSError as error:
        raise DiskError(
            f"{cache}: latents cannot be stored ({error.strerror}); free space there, or set XDG_CACHE_HOME to another "
            "folder (dpd train: --cache-dir)"
        ) from error
    return latents * scaling_factor


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode and decode float images [n, 3, H, W]; the result is clamped to [-1, 1]."""
    parts, batch = [], rows_a_call(vae, images.shape[3], MOST)
    for i in range(0, len(images), batch):
        latents = vae.encode(images[i : i + batch]).latent_dist.mode()
        parts.append(vae.decode(latents).sample)
    return torch.cat(parts).clamp(-1, 1)
