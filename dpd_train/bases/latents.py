"""Encode pixels to latents, cached outside the run by content and VAE (docs/guides/train.md)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from dpd_runtime.annotations import Images, Progress
from dpd_runtime.errors import DiskError
from dpd_runtime.files import is_own
from dpd_train.bases.base import rows_a_call
from dpd_train.compute.checkpoint import load_state, save_state
from dpd_train.compute.device import placed, to_device
from dpd_train.images import to_float

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
