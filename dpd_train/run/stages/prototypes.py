"""The stage that makes prototypes: find or match them, add noise, and drop those too near to a training image."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from dpd_runtime.errors import DataError, InputError
from dpd_train.bases.base import DECODER_LIMIT, Base, decode_in_parts, decoder_fits
from dpd_train.captions.captions import PromptTable, aggregate_prompts
from dpd_train.classifiers.network import ResNet
from dpd_train.classifiers.tdds import kept_count
from dpd_train.compute.device import placed
from dpd_train.config import OWN, TrainConfig, pruned_share
from dpd_train.prototypes.noise import guarantee, with_noise
from dpd_train.prototypes.prototypes import ClassPrototypes, find_prototypes
from dpd_train.prototypes.too_near import drop_too_near, far_enough
from dpd_train.run.context import MadePrototypes, Parts, Phrases, Run
from dpd_train.run.data import RunData, rows_by_class
from dpd_train.run.folder import check_matched_counts
from dpd_train.run.stages.matching import matched_prototypes

log = logging.getLogger(__name__)


def with_prototype_kind(config: TrainConfig, base: Base, data: RunData, device: torch.device) -> TrainConfig:
    """The config with the kind of prototypes that the run makes, if none was asked for: matched if it can, or pooled.

    Raises:
        InputError: matched or further watchers were asked for, and the base's decoder is too large for a CPU.
        DataError: matched or further watchers were asked for, and a class has too few images.
    """
    if config.prototypes not in (None, "matched"):
        return config
    sizes = [len(rows) for rows in rows_by_class(data.train)]
    if config.prune:
        sizes = [kept_count(size, pruned_share(config.prune)) for size in sizes]
    try:
        check_matched_counts(dict(zip(data.train.classes, sizes, strict=True)), bool(data.train.bands))
        if not decoder_fits(base, device):
            raise InputError(
                "--prototypes matched runs the VAE's decoder and its gradient thousands of times, which on a CPU suits "
                f"decoders below {DECODER_LIMIT / 1e6:.0f} M parameters; use pooled, or --device cuda"
            )
    except (DataError, InputError) as error:
        if config.prototypes == "matched" or config.watchers != OWN:
            raise
        log.warning("prototypes are pooled: %s", str(error).partition(";")[0])
        return replace(config, prototypes="pooled")
    return replace(config, prototypes="matched")


def make_prototypes(
    run: Run, base: Base, latent_classifier: ResNet, pixels: Parts, latents: torch.Tensor, phrases: Phrases
) -> MadePrototypes:
    """Prototypes of the kind that the config names.

    Args:
        latents: scaled, of the training part [n, C, h, w]. phrases: of its images.

    Raises:
        TimeUp: the deadline passed while codes were matched; the state is saved.
    """
    if run.config.prototypes == "matched":
        return _matched(run, base, latent_classifier, pixels, latents, phrases)
    return _of_latents(run, base, latents)


def prompts(run: Run, base: Base, made: MadePrototypes, phrases: Phrases) -> PromptTable:
    """One prompt for each prototype, from the phrases of the images behind it."""
    by_class = [[phrases[i] for i in members] for members in rows_by_class(run.data.train)]
    return aggregate_prompts(run.classes, by_class, made.of_class, run.config.k_min, tokenizer=base.tokenizer)


def _of_latents(run: Run, base: Base, latents: torch.Tensor) -> MadePrototypes:
    config, data = run.config, run.data
    by_class = [latents.numpy()[rows] for rows in rows_by_class(data.train)]
    kind = config.prototypes or "pooled"
    prototypes = find_prototypes(kind, by_class, count=config.ipc, k_min=config.k_min, seed=config.seed)
    if kind == "medoid":
        return MadePrototypes(prototypes)
    privacy = None
    if config.prototype_noise:
        secret = np.random.default_rng()  # not from --seed, which the model card tells
        privacy = guarantee(prototypes, config.prototype_noise)
        prototypes = [
            p and with_noise(p, values, config.prototype_noise, secret)
            for p, values in zip(prototypes, by_class, strict=True)
        ]
    decode = partial(decode_in_parts, base)
    with placed(base.vae, run.device), torch.no_grad():
        kept, dropped = drop_too_near(prototypes, data.train, data.held, decode, latents.shape[2])
    return MadePrototypes(kept, dropped, privacy)


def _matched(
    run: Run, base: Base, latent_classifier: ResNet, pixels: Parts, latents: torch.Tensor, phrases: Phrases
) -> MadePrototypes:
    """Matched codes. One that is too near to a training image is replaced by the sampled image that it started from."""
    codes, starts = matched_prototypes(run, base, latent_classifier, pixels, latents, phrases)
    decode, data = partial(decode_in_parts, base), run.data
    with placed(base.vae, run.device), torch.no_grad():
        far = far_enough(codes, data.train, data.held, decode, latents.shape[2])
        mended: Sequence[ClassPrototypes | None] = [
            replace(code, latents=np.where(fine[:, None, None, None], code.latents, start.latents))
            for code, start, fine in zip(codes, starts, far, strict=True)
        ]
        kept, _ = drop_too_near(mended, data.train, data.held, decode, latents.shape[2])
    return MadePrototypes(kept, sum(int((~fine).sum()) for fine in far))
