"""Fine-tuning of a base's denoiser: all its weights, or low-rank adapters beside frozen weights."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpd_runtime.annotations import Progress
from dpd_train.bases.base import Base, is_large
from dpd_train.classifiers.network import count_parameters, load_classifier
from dpd_train.compute.device import NEVER, Deadline, norms_in_float32
from dpd_train.compute.distributed import ALONE, Team
from dpd_train.compute.tracking import Track
from dpd_train.config import TrainConfig, Tune, compression_ratio
from dpd_train.diffusion.consistency import ConsistencyClassifier, DecodedTeacher
from dpd_train.diffusion.denoiser import DenoiserTraining, LatentData, train_denoiser
from dpd_train.diffusion.lora import Adapted, add_adapters, merge_adapters, save_adapters

log = logging.getLogger(__name__)
History = list[dict[str, float]]


def tune_of(config: TrainConfig, base: Base) -> Tune:
    """The value of `--tune`; without one, what suits the base's size."""
    return config.tune or ("lora" if is_large(base) else "full")


def denoiser_training(config: TrainConfig) -> DenoiserTraining:
    """The settings of the training loop for this config."""
    return DenoiserTraining(
        steps=config.steps,
        batch=config.batch,
        micro_batch=config.micro_batch,
        precision=config.precision,
        peak_rate=config.peak_rate,
        decay_from=1.0 if config.schedule == "constant" else DenoiserTraining.decay_from,
        warmup=min(100, config.steps // 5 + 1) if config.warmup is None else config.warmup,
        seed=config.seed,
        validate_every=max(1, config.steps // 5),
        consistency_weight=config.lambda_cls,
        compression=compression_ratio(config.grad_compression) if config.grad_compression else None,
    )


def trained_parts(base: Base, config: TrainConfig) -> tuple[Any, Any]:
    """UNet and text encoder as the loop trains them: themselves, or adapters beside frozen weights (`Adapted`)."""
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
    if tune_of(config, base) == "full":
        return base.unet, base.text_encoder
    frozen = Adapted(base.text_encoder.requires_grad_(False))
    adapted = Adapted(add_adapters(base.unet, config.lora_rank, config.seed))
    log.info("adapters of rank %d: %d parameters", config.lora_rank, count_parameters(adapted))
    return adapted, frozen


def consistency_network(out: Path, config: TrainConfig, base: Base) -> nn.Module:
    """What judges ẑ0 in the run `out`: the teacher on decoded pixels, or the classifier of noisy latents."""
    if config.judge_on == "pixels":
        return DecodedTeacher(load_classifier(out / "classifier"), base.vae)
    return load_classifier(out / "checkpoints" / "noisy_latent_classifier")


@contextmanager
def frozen_norms_in_float32(base: Base, config: TrainConfig) -> Iterator[None]:
    """Feed float32 to the norms of a frozen UNet in the block; the loop's own hooks reach only the adapters."""
    hooks = norms_in_float32(base.unet) if tune_of(config, base) == "lora" else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def tuned_base(base: Base, config: TrainConfig, unet: Any, text_encoder: Any, adapter: Path | None) -> Base:
    """The base with its `trained_parts` after training; adapters are merged, and saved in the folder `adapter`."""
    base.unet.disable_gradient_checkpointing()
    if tune_of(config, base) == "full":
        unet.disable_gradient_checkpointing()
        return replace(base, unet=unet.eval(), text_encoder=text_encoder.eval())
    unet.write_back()
    if adapter is not None:
        save_adapters(base.unet, adapter)
    return replace(base, unet=merge_adapters(base.unet).eval())


def fine_tune(
    base: Base,
    data: tuple[LatentData, LatentData],
    config: TrainConfig,
    state: Path,
    adapter: Path,
    progress: Progress,
    *,
    classifier: ConsistencyClassifier | None = None,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    team: Team = ALONE,
    track: Track | None = None,
) -> tuple[Base, History]:
    """Train `config.steps` steps on the latents, and resume from `state` if it exists.

    Args:
        data: training and validation part.
        adapter: folder for low-rank adapters, which are also merged into the result.
        classifier: of the classification consistency, if `config.lambda_cls` is above 0.
        team: as in `train_denoiser`; only the leader's result counts.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """

    parts = trained_parts(base, config)
    with frozen_norms_in_float32(base, config):
        unet, text_encoder, history = train_denoiser(
            *parts,
            *data,
            base.schedule,
            denoiser_training(config),
            state,
            progress,
            classifier=classifier,
            device=device,
            deadline=deadline,
            team=team,
            track=track,
        )
    return tuned_base(base, config, unet, text_encoder, adapter if team.leads else None), history
