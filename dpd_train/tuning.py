"""Fine-tune the denoiser: all of it or adapters, with a classifier of noisy latents."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from torch import nn
from torch.func import functional_call

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import MissingExtraError
from dpd_runtime.solvers import Schedule, predicted_original
from dpd_train.attributes import caption
from dpd_train.bases import Base, is_large, rows_a_call
from dpd_train.captions import embed
from dpd_train.classifiers import Labelled, evenly
from dpd_train.compute import NEVER, Deadline, norms_in_float32, placed, to_device
from dpd_train.config import TrainConfig, Tune
from dpd_train.denoiser import ConsistencyClassifier, DecodedTeacher, DenoiserTraining, LatentData, train_denoiser
from dpd_train.distributed import ALONE, Team
from dpd_train.doors import open_named
from dpd_train.networks import count_parameters, load_classifier
from dpd_train.symmetry import ORDER, d4
from dpd_train.tracking import Track

# -- Fine-tuning of a base's denoiser: all its weights, or low-rank adapters beside frozen weights.


log = logging.getLogger(__name__)
History = list[dict[str, float]]


def tune_of(config: TrainConfig, base: Base) -> Tune:
    """The value of `--tune`; without one, what suits the base's size."""
    return config.tune or ("lora" if is_large(base) else "full")


def denoiser_training(config: TrainConfig) -> DenoiserTraining:
    """The settings of the training loop for this config."""
    compressed = config.grad_compression
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
        exchange=None if compressed is None else open_named("dpd.gradients", compressed, "--grad-compression"),
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


# -- Low-rank adapters (Hu et al. 2022) on the attention of a frozen UNet: trained, saved, merged.
#
# The training loop copies, averages and stores the networks that it is given. `Adapted` gives it only the adapters of a
# large base, so that the frozen weights exist once.


TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # all projections of the attention


class Adapted(nn.Module):
    """A network that shows only those of its parameters that require a gradient.

    A copy has its own parameters and shares the network; it runs the network with its own parameters.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = [network]  # in a list it is no child module, and is not counted, copied or saved
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.trained = nn.ParameterDict({name.replace(".", "/"): p for name, p in trained.items()})
        self._in_place = True

    @property
    def network(self) -> nn.Module:
        return self._network[0]

    @property
    def config(self) -> Any:
        return self.network.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._in_place:
            return self.network(*args, **kwargs)
        return functional_call(self.network, self._by_name(), args, kwargs)

    def write_back(self) -> None:
        """Copy this copy's parameters into the network."""
        with torch.no_grad():
            for name, parameter in self._by_name().items():
                self.network.get_parameter(name).copy_(parameter)

    def _by_name(self) -> dict[str, torch.Tensor]:
        return {name.replace("/", "."): parameter for name, parameter in self.trained.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = self.__class__.__new__(self.__class__)
        nn.Module.__init__(twin)
        twin._network, twin._in_place = self._network, False
        twin.trained = copy.deepcopy(self.trained, memo)
        return twin

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Apply to the parameters and to the network, for example when they move to another device."""
        self.network._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn)  # type: ignore[no-untyped-call]
        return self


def add_adapters(unet: UNet2DConditionModel, rank: int, seed: int) -> UNet2DConditionModel:
    """`unet` frozen, with adapters of rank r = α beside its attention layers; they change nothing yet.

    Raises:
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError("peft", "train") from error
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
        unet.add_adapter(config)
    return unet


def save_adapters(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the adapters so that `StableDiffusionPipeline.load_lora_weights(folder)` adds them to the same base."""
    from peft.utils import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)


def merge_adapters(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The plain UNet with the same outputs: W + B·A in place of W."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet.requires_grad_(True)


# -- The error of ẑ0 at each noise level, beside what knows no image: the mean and the Gaussian of each class.
#
# A denoiser is worth its sampling steps only where it knows more than a Gaussian with its class's mean and covariance,
# whose best estimate of z0 has a closed form. The loss of a training does not show that: its weights hide levels.


LEVELS = (500, 600, 700, 800, 900, 940, 960, 980, 999)
"""Timesteps of a schedule of 1,000; of another length their share of it counts."""
LARGEST = 2048  # numbers of a latent, up to which a class's covariance is fitted
MOST_A_CALL = 100  # latents
MOST_LATENTS, OF_LARGE = 400, 20
"""Validation latents, less than twice as many. A call of a large UNet takes seconds on a CPU."""
Levels = dict[str, float]
"""The mean error of ẑ0 at each timestep, by its name as JSON has it."""
Predict = Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]
"""(noisy latents [B, C, h, w], timestep, rows [B] int64) → ẑ0 [B, C, h, w]. rows: which of the latents these are."""


def levels_of(schedule: Schedule) -> tuple[int, ...]:
    """LEVELS as timesteps of this schedule."""
    return tuple(round(level * (schedule.num_train_timesteps - 1) / 999) for level in LEVELS)


@torch.no_grad()
def original_errors(
    predict: Predict,
    latents: torch.Tensor,
    schedule: Schedule,
    timesteps: tuple[int, ...],
    seed: int = 1,
    *,
    call: int = MOST_A_CALL,
) -> torch.Tensor:
    """Squared error of ẑ0, mean over its numbers, for each timestep and latent: [T, n].

    The noise of a latent depends on the seed alone, so that predictions are compared in pairs.

    Args:
        latents: [n, C, h, w], scaled. call: how many are predicted at once.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    errors = torch.empty(len(timesteps), len(latents))
    for place, timestep in enumerate(timesteps):
        alpha, sigma = schedule.alpha_sigma(timestep)
        for start in range(0, len(latents), call):
            rows = torch.arange(start, min(start + call, len(latents)))
            estimate = predict(alpha * latents[rows] + sigma * noise[rows], timestep, rows)
            errors[place, rows] = (estimate.float().cpu() - latents[rows]).square().mean(dim=(1, 2, 3))
    return errors


@dataclass(frozen=True)
class ClassGaussians:
    """Mean and covariance of each class's latents over the symmetries of the square.

    Args:
        means: [classes, D]. bases: [classes, D, D], eigenvectors as columns. variances: [classes, D].
    """

    means: torch.Tensor
    bases: torch.Tensor
    variances: torch.Tensor

    def original(self, noisy: torch.Tensor, alpha: float, sigma: float, labels: torch.Tensor) -> torch.Tensor:
        """E[z0 | z_t] = μ + α Σ (α² Σ + σ² I)⁻¹ (z_t − α μ) of latents [B, C, h, w] of these classes [B]."""
        flat, estimate = noisy.flatten(1), torch.empty_like(noisy.flatten(1))
        for label in sorted(set(labels.tolist())):
            rows, variance = labels == label, self.variances[label]
            gain = alpha * variance / (alpha**2 * variance + sigma**2)
            centred = (flat[rows] - alpha * self.means[label]) @ self.bases[label]
            estimate[rows] = self.means[label] + (gain * centred) @ self.bases[label].T
        return estimate.view_as(noisy)

    def predict(self, labels: torch.Tensor, schedule: Schedule) -> Predict:
        """The Gaussian's ẑ0 of latents with these labels [n]."""
        return lambda noisy, timestep, rows: self.original(noisy, *schedule.alpha_sigma(timestep), labels[rows])

    def predict_mean(self, labels: torch.Tensor) -> Predict:
        """The class's mean as ẑ0."""
        return lambda noisy, _, rows: self.means[labels[rows]].view_as(noisy)


def class_gaussians(latents: torch.Tensor, labels: torch.Tensor, classes: int) -> ClassGaussians:
    """Fit a Gaussian to the latents [n, C, h, w] of each class, each in its eight symmetries."""
    means, bases, variances = [], [], []
    for label in range(classes):
        own = latents[labels == label]
        views = torch.cat([d4(own, element).flatten(1) for element in range(ORDER)]).double()
        means.append(views.mean(0))
        covariance = torch.cov(views.T, correction=0)
        values, vectors = torch.linalg.eigh(covariance)
        variances.append(values.clamp(min=0))
        bases.append(vectors)
    return ClassGaussians(*(torch.stack(parts).float() for parts in (means, bases, variances)))


def summary(errors: torch.Tensor, timesteps: tuple[int, ...]) -> Levels:
    return {str(timestep): round(float(row.mean()), 5) for timestep, row in zip(timesteps, errors, strict=True)}


def base_predict(base: Base, labels: torch.Tensor, classes: tuple[str, ...], device: torch.device) -> Predict:
    """ẑ0 of a base, without guidance, for latents with these labels [n], each with its class's bare caption."""
    prompts = to_device(embed(base.text_encoder, base.tokenizer, [caption(name, ()) for name in classes]), device)
    schedule = base.schedule

    def predict(noisy: torch.Tensor, timestep: int, rows: torch.Tensor) -> torch.Tensor:
        output = base.unet(to_device(noisy, device), torch.tensor(timestep, device=device), prompts[labels[rows]])
        sample: torch.Tensor = output.sample.float().cpu()
        return predicted_original(noisy, sample, schedule.prediction_type, *schedule.alpha_sigma(timestep))

    return predict


def noise_levels(
    base: Base, train: Labelled, held: Labelled, classes: tuple[str, ...], device: torch.device
) -> dict[str, Levels]:
    """Errors of ẑ0 on less than 2 · MOST_LATENTS validation latents: of the base, and of a class's mean and Gaussian.

    Args:
        train: latents [n, C, h, w], scaled, and labels, from which means and covariances are taken. Of latents with
            more than LARGEST numbers the Gaussian is left out, because its covariances would take minutes.
    """
    latents, labels = evenly(held, OF_LARGE if is_large(base) else MOST_LATENTS)
    schedule, timesteps = base.schedule, levels_of(base.schedule)
    with placed(base.unet, device):
        of_base = base_predict(base, labels, classes, device)
        call = rows_a_call(base.unet, latents.shape[-1], MOST_A_CALL)
        measured = {"denoiser": original_errors(of_base, latents, schedule, timesteps, call=call)}
    if latents[0].numel() <= LARGEST:
        gaussians = class_gaussians(*train, len(classes))
        measured["class Gaussian"] = original_errors(gaussians.predict(labels, schedule), latents, schedule, timesteps)
        measured["class mean"] = original_errors(gaussians.predict_mean(labels), latents, schedule, timesteps)
    return {name: summary(errors, timesteps) for name, errors in measured.items()}
