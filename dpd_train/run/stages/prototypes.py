"""The stage of `dpd train` in which prototypes are made: found, given noise, and held against the training images."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from dpd_runtime.sampling.prototype_kinds import PRIVATE_KINDS
from dpd_train.bases.base import Base, decode_in_parts
from dpd_train.classifiers.network import ResNet
from dpd_train.classifiers.training import Labelled
from dpd_train.compute.device import placed
from dpd_train.prototypes.noise import guarantee, with_noise
from dpd_train.prototypes.prototypes import ClassPrototypes, find_prototypes
from dpd_train.prototypes.too_near import drop_too_near, far_enough
from dpd_train.run.data import rows_by_class
from dpd_train.run.record import MadePrototypes
from dpd_train.run.stages.matching import Words, matched_prototypes
from dpd_train.run.stages.tuning import Run


def make_prototypes(
    run: Run, base: Base, judge: ResNet, pixels: tuple[Labelled, Labelled], latents: torch.Tensor, words: Words
) -> MadePrototypes:
    """Of the training part's scaled latents [n, C, h, w].

    Raises:
        TimeUp: the deadline passed while `matched` ones were made; the state is saved.
    """
    if run.config.prototypes == "matched":
        return _matched(run, base, judge, pixels, latents, words)
    return _of_latents(run, base, latents)


def _of_latents(run: Run, base: Base, latents: torch.Tensor) -> MadePrototypes:
    config, scenes = run.config, run.scenes
    by_class = [latents.numpy()[rows] for rows in rows_by_class(scenes.train)]
    found = find_prototypes(config.prototypes, by_class, count=config.ipc, k_min=config.k_min, seed=config.seed)
    if config.prototypes in PRIVATE_KINDS:
        return MadePrototypes(found, None, None)
    privacy = None
    if config.prototype_noise:
        secret = np.random.default_rng()  # not from --seed, which the model card tells
        privacy = guarantee(found, config.prototype_noise)
        found = [
            p and with_noise(p, values, config.prototype_noise, secret)
            for p, values in zip(found, by_class, strict=True)
        ]
    decode = partial(decode_in_parts, base)
    with placed(base.vae, run.device), torch.no_grad():
        kept, dropped = drop_too_near(found, scenes.train, scenes.held, decode, latents.shape[2])
    return MadePrototypes(kept, dropped, privacy)


def _matched(
    run: Run, base: Base, judge: ResNet, pixels: tuple[Labelled, Labelled], latents: torch.Tensor, words: Words
) -> MadePrototypes:
    """A code too near to a training image goes back to where it began: each code is an image of the set."""
    codes, starts = matched_prototypes(run, base, judge, pixels, latents, words)
    decode, scenes = partial(decode_in_parts, base), run.scenes
    with placed(base.vae, run.device), torch.no_grad():
        far = far_enough(codes, scenes.train, scenes.held, decode, latents.shape[2])
        mended: Sequence[ClassPrototypes | None] = [
            replace(code, latents=np.where(fine[:, None, None, None], code.latents, start.latents))
            for code, start, fine in zip(codes, starts, far, strict=True)
        ]
        kept, _ = drop_too_near(mended, scenes.train, scenes.held, decode, latents.shape[2])
    return MadePrototypes(kept, sum(int((~fine).sum()) for fine in far), None)
