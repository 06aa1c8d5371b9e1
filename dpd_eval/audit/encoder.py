"""Find the VAE encoder that belongs to what is audited. Latents of real images cannot be computed without it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from dpd_eval.audit.kind import check_run
from dpd_eval.audit.model import Model
from dpd_eval.audit.subject import Subject
from dpd_runtime.errors import InputError
from dpd_train.bases.base import load_base
from dpd_train.bases.folder import SHIPPED_BASE

SAME_DECODER = 0.01  # mean absolute difference of decoded pixels in [-1, 1]; half precision causes 1e-3
PROBES = 4


@dataclass(frozen=True)
class AuditVae:
    """A VAE whose decoder is the audited one. source: where it comes from."""

    vae: AutoencoderKL
    source: str


def find_encoder(subject: Subject, run: Path | None) -> AuditVae | None:
    """Return the run's encoder, or the embedded base's if its decoder is the audited one; None if there is none.

    Raises:
        InputError: `run` is not a run, or its decoder is a different one.
    """
    model = subject.model
    check_run(subject.kind, run)
    if model is None:
        return None
    if subject.kind == "run":
        return _encoder(model.bundle.path / "pipeline", model, "the run's")
    if run is None:
        return _encoder(SHIPPED_BASE, model, "the embedded base's")
    encoder = _encoder(run / "pipeline", model, "the run's")
    if encoder is None:
        raise InputError(f"--run {run}: its VAE decoder is not the bundle's; give the run that it was exported from")
    return encoder


def _encoder(base: Path | str, model: Model, source: str) -> AuditVae | None:
    vae, manifest = load_base(str(base)).vae.eval(), model.bundle.manifest
    channels = int(vae.config.latent_channels)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if (channels, manifest.latent_shape[1] * factor) != (manifest.latent_shape[0], manifest.image_shape[0]):
        return None
    return AuditVae(vae, source) if _same_decoder(vae, model) else None


def _same_decoder(vae: AutoencoderKL, model: Model) -> bool:
    manifest = model.bundle.manifest
    shape = (PROBES, *manifest.latent_shape)
    latents = np.random.default_rng(0).normal(size=shape).astype(np.float32) / np.float32(manifest.scaling_factor)
    with torch.no_grad():
        ours = vae.decode(torch.from_numpy(latents)).sample.numpy()
    theirs = model.networks.decoder.run(latent_sample=latents)
    return ours.shape == theirs.shape and float(np.abs(ours - theirs).mean()) < SAME_DECODER
