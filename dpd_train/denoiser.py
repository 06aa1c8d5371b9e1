"""Train the denoiser: its task, a step, losses, averages."""

import copy
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from dpd_runtime.errors import InputError
from dpd_runtime.solvers import Schedule, add_noise
from dpd_train.bases import DECODED, rows_a_call
from dpd_train.captions import CaptionTable
from dpd_train.compute import (
    NEVER,
    Deadline,
    adamw,
    autocast,
    decay_groups,
    draw_rows,
    norms_in_float32,
    prefixed,
    to_device,
    without_prefix,
)
from dpd_train.config import Precision
from dpd_train.distributed import ALONE, GradientExchange, Team
from dpd_train.loop import State, Task, Tensors, train, trapezium
from dpd_train.networks import ResNet, predict
from dpd_train.symmetry import ORDER, d4_each
from dpd_train.tracking import Track

# -- One step of denoiser training: the batch with its noise, and the losses of the network's output.


class Drawn(NamedTuple):
    """A whole batch on the CPU, the same in every process.

    rows, elements, timesteps: [B] int64; ids: [B, L] int64; noise: [B, C, h, w]; snr: [B] float64.
    """

    rows: torch.Tensor
    elements: torch.Tensor
    ids: torch.Tensor
    timesteps: torch.Tensor
    noise: torch.Tensor
    snr: torch.Tensor


def draw(
    batch: int,
    shape: torch.Size,
    labels: torch.Tensor,
    captions: CaptionTable,
    dropout: float,
    schedule: Schedule,
    generator: torch.Generator,
    weights: torch.Tensor | None = None,
) -> Drawn:
    """Draw images, their symmetries, captions, timesteps and noise.

    Args:
        shape: of all latents [n, C, h, w]. labels: [n] int64. dropout: share of empty captions.
        weights: of the images, see `draw_rows`.
    """
    rows = draw_rows(shape[0], batch, weights, generator)
    elements = torch.randint(ORDER, (batch,), generator=generator)
    ids = captions.draw(rows, labels, elements % 2 == 1, dropout, generator)
    timesteps = torch.randint(schedule.num_train_timesteps, (batch,), generator=generator)
    noise = torch.randn((batch, *shape[1:]), generator=generator)
    alphas = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[timesteps]
    return Drawn(rows, elements, ids, timesteps, noise, alphas / (1 - alphas))


def parts(share: range, most: int | None) -> list[slice]:
    """Cut the rows `share` of a batch into almost equal parts of at most `most` rows; None: one part."""
    count = 1 if most is None else -(-len(share) // most)
    ends = [share.start + i * len(share) // count for i in range(count + 1)]
    return [slice(*between) for between in pairwise(ends)]


def min_snr_weight(alpha: torch.Tensor, sigma: torch.Tensor, prediction_type: str, gamma: float) -> torch.Tensor:
    """Weight of the squared error of the network's own output (Hang et al. 2023, eq. 6 and appendix).

    The error of ẑ0 has weight min(SNR, γ); that of ε has it divided by SNR, that of v by SNR + 1.
    """
    snr = (alpha / sigma).square()
    capped = snr.clamp(max=gamma)
    return capped / (snr + 1) if prediction_type == "v_prediction" else capped / snr


@dataclass(frozen=True)
class Denoised:
    """The network's output for a noisy batch.

    output, target, original: [B, C, h, w]; `original` are the predicted clean latents. snr, weight: [B].
    """

    output: torch.Tensor
    target: torch.Tensor
    original: torch.Tensor
    snr: torch.Tensor
    weight: torch.Tensor

    def squared_error(self) -> torch.Tensor:
        """Weighted squared error of each sample [B]."""
        losses: torch.Tensor = self.weight * (self.output - self.target).square().mean(dim=(1, 2, 3))
        return losses

    def direction_error(self) -> torch.Tensor:
        """Weighted 1 − cosine over the channels, mean over the positions, of each sample [B]."""
        cosine = F.cosine_similarity(self.output, self.target, dim=1).mean(dim=(1, 2))
        losses: torch.Tensor = self.weight * (1 - cosine)
        return losses


def denoise(
    unet: nn.Module,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    context: torch.Tensor,
    schedule: Schedule,
    gamma: float | None,
) -> Denoised:
    """Add noise to latents and call the network.

    Args:
        latents, noise: [B, C, h, w]; timesteps: [B] int64 on the CPU; context: [B, L, D].
        gamma: γ of the weights min(SNR, γ); None for weights of 1 on the network's own output.
    """
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[timesteps]
    alpha = to_device(table.sqrt().float()[:, None, None, None], latents.device)
    sigma = to_device((1 - table).sqrt().float()[:, None, None, None], latents.device)
    noisy = add_noise(latents, noise, alpha, sigma)  # type: ignore[arg-type]
    is_velocity = schedule.prediction_type == "v_prediction"
    target = alpha * noise - sigma * latents if is_velocity else noise
    output = unet(noisy, to_device(timesteps, latents.device), context).sample.float()
    original = alpha * noisy - sigma * output if is_velocity else (noisy - sigma * output) / alpha
    snr = (alpha / sigma).square().flatten()
    kind, plain = schedule.prediction_type, torch.ones_like(snr)
    weight = plain if gamma is None else min_snr_weight(alpha, sigma, kind, gamma).flatten()
    return Denoised(output, target, original, snr, weight)


def decoder_features(vae: AutoencoderKL, latents: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps of the decoder after its middle block and after its first upsampling block."""
    middle = vae.decoder.mid_block(vae.decoder.conv_in(vae.post_quant_conv(latents)))
    return [middle, vae.decoder.up_blocks[0](middle)]


def decoder_loss(vae: AutoencoderKL, predicted: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Latent perceptual loss (Berrada et al. 2025, eq. 5) of unscaled latents [B, C, h, w].

    It is the squared distance of the decoder's features, each channel in units of its deviation in the clean image plus
    0.01. Beyond five units an entry counts as 25, without a gradient.
    """
    losses = []
    with torch.no_grad():
        wanted = [features.float() for features in decoder_features(vae, latents)]
    for estimated, clean in zip(decoder_features(vae, predicted), wanted, strict=True):
        unit = clean.std(dim=(2, 3), keepdim=True) + 1e-2
        losses.append(((estimated.float() - clean) / unit).square().clamp(max=25).mean())
    return torch.stack(losses).mean()


# -- Classification consistency: a trained classifier judges the predicted clean latents ẑ0 (arXiv 2601.15829).
#
# L = … + λ · max(0, m_c − margin(f(ẑ0), c)) where ᾱ_t > ½. The margin is the logit of class c minus the best other one,
# and m_c the margin that four fifths of the real images of the class reach: an image that is as clear as they are is
# not pushed further, towards what only this classifier sees. The paper adds the cross-entropy, without a floor.


CLEAR = 0.5  # ᾱ_t above which ẑ0 is judged; below it is a guess
REACHED_BY = 0.8  # share of the real images that reach the floor
FLOOR_IMAGES = 50  # of a class
NOISIEST = 1.0  # standard deviation of the noise that the classifier is trained with: that of z_t / √ᾱ_t at ᾱ_t = CLEAR


def alphas_of(snr: torch.Tensor) -> torch.Tensor:
    """ᾱ_t from SNR = ᾱ_t / (1 − ᾱ_t)."""
    return snr / (1 + snr)


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logit of the label minus the best other logit, [B]."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - others.max(dim=1).values


class ConsistencyClassifier(nn.Module):
    """A frozen copy of a classifier of latents, with the margin m_c that each class has to reach.

    Args:
        network: scaled latents [B, C, h, w] → logits [B, classes].
        floors: m_c [classes]; see `real_floors`.
    """

    floors: torch.Tensor

    def __init__(self, network: nn.Module, floors: torch.Tensor) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.register_buffer("floors", floors.clone())
        self.eval().requires_grad_(False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(latents)
        return logits


def consistency_loss(
    original: torch.Tensor, snr: torch.Tensor, labels: torch.Tensor, classifier: ConsistencyClassifier
) -> torch.Tensor:
    """max(0, m_c − margin) of each sample [B] with ᾱ_t > CLEAR, 0 for the others; a gradient for `original` only.

    Args:
        original: ẑ0 [B, C, h, w], scaled latents. snr: [B]. labels: [B] int64.

    Raises:
        ValueError: the classifier is in training mode, where batch norm would mix the samples.
    """
    if classifier.training:
        raise ValueError("the classifier is in training mode, where batch norm mixes the samples")
    clear = (alphas_of(snr) > CLEAR).nonzero().flatten()
    if not len(clear):
        return torch.zeros_like(snr)
    short = classifier.floors[labels[clear]] - margins(classifier(original[clear]), labels[clear])
    return torch.zeros_like(snr, dtype=short.dtype).index_put((clear,), short.clamp_min(0))


def real_floors(network: nn.Module, latents: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """The margin [classes] that REACHED_BY of the real latents [n, C, h, w] of each class reach.

    At most FLOOR_IMAGES of a class are judged, its first ones: a classifier on pixels decodes each of them.
    """
    rows = torch.cat([(labels == label).nonzero().flatten()[:FLOOR_IMAGES] for label in range(classes)])
    latents, labels = latents[rows], labels[rows]
    reached = margins(predict(network, latents, DECODED), labels)
    return torch.stack([reached[labels == label].quantile(1 - REACHED_BY) for label in range(classes)])


def with_noise(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latents [B, C, h, w] with noise of a random standard deviation up to NOISIEST for each of them."""
    strength = NOISIEST * torch.rand((len(latents), 1, 1, 1), generator=generator)
    return latents + (strength * torch.randn(latents.shape, generator=generator)).to(latents)


class DecodedTeacher(nn.Module):
    """The teacher on decoded ẑ0: scaled latents [B, C, h, w] → logits. Each call costs a pass of the VAE's decoder.

    Decoded values are not clamped to [-1, 1], because a clamp has no gradient where it acts.
    """

    def __init__(self, teacher: ResNet, vae: AutoencoderKL) -> None:
        super().__init__()
        self.teacher, self.vae = teacher, vae
        self.scale = 1 / float(vae.config.scaling_factor)
        self.eval()

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.teacher(self.vae.decode(self.scale * latents).sample)
        return logits


# -- Power-function averages of the weights (Karras et al. 2024, EDM2).


def power_exponent(length: float) -> float:
    """γ of the power-function average whose relative width is `length` (Karras et al. 2024, EDM2, algorithm 2).

    Raises:
        ValueError: a length outside (0, 0.28); the widest average, γ = 0, has 0.289.
    """
    if not 0 < length < 0.28:
        raise ValueError(f"an average of relative width {length} does not exist: give a number between 0 and 0.28")
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerAverage:
    """Power-function average of the weights: after t steps it covers a fixed share of the last t steps."""

    def __init__(self, modules: nn.ModuleDict, length: float) -> None:
        self.modules = copy.deepcopy(modules)
        self.modules.requires_grad_(False).eval()
        self.length, self.gamma = length, power_exponent(length)

    @torch.no_grad()
    def update(self, modules: nn.Module, step: int) -> None:
        """Add the weights after `step`, counted from 0."""
        kept = (1 - 1 / (step + 1)) ** (self.gamma + 1)
        torch._foreach_lerp_(list(self.modules.parameters()), list(modules.parameters()), 1 - kept)


# -- The training of the denoiser: `pretrain` starts it from random weights, `train` from a base.


log = logging.getLogger(__name__)
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MIN_SNR_GAMMA = 5.0  # 2303.09556; that of every state that does not say
TRACK_EVERY = 10  # steps, as reading a loss waits for the GPU
MOST = 100  # validation latents in one call


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining:
    """Settings of a denoiser training."""

    steps: int
    batch: int = 48
    micro_batch: int | None = None  # at most so many of them at once, their gradients added up; None: all
    peak_rate: float = 6e-4
    warmup: int = 200
    decay_from: float = 0.7  # share of the steps after which the rate falls to zero; 1: never
    min_snr_gamma: float | None = MIN_SNR_GAMMA  # None: a learned uncertainty weighs the levels (2312.02696)
    direction_weight: float = 0.0  # 1 − cosine between the network's output and its target (FasterDiT, 2410.10356)
    decoder_weight: float = 0.0  # distance of ẑ0 and z0 in the decoder's features (LPL, 2411.04873)
    decoder_from: float = 0.6  # share of the steps after which the decoder's features count
    decoder_min_snr: float = 1.0  # noisier samples have no details to compare
    consistency_weight: float = 0.0  # λ of the classification consistency (arXiv 2601.15829)
    prompt_dropout: float = 0.1
    ema_lengths: tuple[float, ...] = (0.05, 0.1)  # relative widths σ_rel; the better one on validation is kept
    stop_rise: float = 0.02  # stop when the validation loss stands this share above its best: memorising begins
    exchange: Callable[[], GradientExchange] | None = None  # of gradients between processes; None: they travel whole
    seed: int = 0
    precision: Precision = "bf16"  # of autocast; fp32 is none
    validate_every: int = 500
    checkpoint_seconds: float = 240.0


@dataclass(frozen=True)
class LatentData:
    """Scaled latents [n, C, h, w] with labels [n] and captions; validation in the same form.

    weights: of the images, see `draw_rows`.
    """

    latents: torch.Tensor
    labels: torch.Tensor
    captions: CaptionTable
    weights: torch.Tensor | None = None


@torch.no_grad()
def validation_loss(modules: nn.ModuleDict, data: LatentData, schedule: Schedule, gamma: float | None) -> float:
    """Loss with fixed noise, evenly spread timesteps and the class captions.

    Args:
        gamma: of the min-SNR weights. None: the geometric mean of the squared errors, to which every noise level
            contributes by its relative error, as in training with a learned uncertainty.
    """
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(data.latents.shape, generator=generator)
    timesteps = torch.linspace(0, schedule.num_train_timesteps - 1, len(data.latents)).long()
    timesteps = timesteps[torch.randperm(len(timesteps), generator=generator)]
    device = next(modules.parameters()).device
    losses = []
    rows = rows_a_call(modules["unet"], data.latents.shape[-1], MOST)
    for i in range(0, len(data.latents), rows):
        part = slice(i, i + rows)
        ids = to_device(data.captions.template[data.labels[part]], device)
        context = modules["text_encoder"](ids).last_hidden_state
        latents = to_device(data.latents[part], device)
        shaken = to_device(noise[part], device)
        said = denoise(modules["unet"], latents, shaken, timesteps[part], context, schedule, gamma)
        losses.append(said.squared_error())
    errors = torch.cat(losses)
    return float(errors.log().mean().exp() if gamma is None else errors.mean())


class _Denoising:
    """Networks, averages and figures of one training: what a step computes, and what it leaves behind."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        data: LatentData,
        validation: LatentData,
        schedule: Schedule,
        training: DenoiserTraining,
        device: torch.device,
        team: Team,
        *,
        vae: AutoencoderKL | None,
        classifier: ConsistencyClassifier | None,
        track: Track | None,
    ) -> None:
        self.training, self.device, self.team, self.track = training, device, team, track
        self.data, self.validation, self.schedule = data, validation, schedule
        self.latents = data.latents.to(device)
        modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).train().to(device)
        self.modules: nn.ModuleDict = modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.vae = None if vae is None else copy.deepcopy(vae).eval().requires_grad_(False).to(device)
        self.classifier = None if classifier is None else classifier.to(device)
        self.uncertainty = Uncertainty().to(device) if training.min_snr_gamma is None else None
        levels = [] if self.uncertainty is None else [*self.uncertainty.parameters()]
        self.trained = [*self.modules.parameters(), *levels]
        groups = decay_groups(self.modules.parameters(), 0.01)
        groups[1]["params"] += levels
        self.optimizer = adamw(groups, device, betas=(0.9, 0.99))
        self.averages = [PowerAverage(self.modules, length) for length in training.ema_lengths if team.leads]
        self.history: list[dict[str, float]] = []
        self.squared = torch.zeros((), device=device)  # squared error of the step, of all processes after `exchange`
        self.recent = torch.zeros((), dtype=torch.float64, device=device)  # smoothed loss, read only when logged
        self.compression = training.exchange() if training.exchange else None
        self.rises = False  # whether the validation loss does, as all processes know after a validation

    @property
    def task(self) -> Task:
        training = self.training
        levels = {} if self.uncertainty is None else {"uncertainty": self.uncertainty}
        averages = {f"average{i}": average.modules for i, average in enumerate(self.averages)}
        return Task(
            modules={"modules": self.modules, **averages, **levels},
            trained=self.trained,
            optimizer=self.optimizer,
            rate=trapezium(training.steps, training.peak_rate, training.warmup, training.decay_from),
            loss=self.losses,
            exchange=self.exchange,
            after=self.after,
            stopped=self.stopped,
            kept=self.kept,
            restore=self.restore,
            warmup=training.warmup,
            fp16=training.precision == "fp16",
        )

    @property
    def best(self) -> PowerAverage:
        """The average with the lowest validation loss when it was last measured."""
        length = self.history[-1]["ema_length"] if self.history else self.training.ema_lengths[0]
        return next(average for average in self.averages if average.length == length)

    def restore(self, path: Path, tensors: Tensors, meta: dict[str, Any]) -> None:
        """Restore the figures. A state that holds only one average is continued from it.

        Raises:
            InputError: its losses were weighed in another way, so that they cannot be compared.
        """
        if meta.get("min_snr_gamma", MIN_SNR_GAMMA) != self.training.min_snr_gamma:
            raise InputError(
                f"{path} was trained with other weights of the noise levels, by another version; finish it with that "
                "version, or begin again with another --state, and with --start from the base that it made"
            )
        best = without_prefix("ema", tensors)
        for name in ("modules", *(f"average{i}" for i in range(len(self.averages)))):
            if not without_prefix(name, tensors):
                tensors.update(prefixed(name, best))
        if self.uncertainty is not None and not without_prefix("uncertainty", tensors):
            tensors.update(prefixed("uncertainty", self.uncertainty.state_dict()))
        self.history = meta["history"]
        self.recent.fill_(meta["recent"])
        self.rises = self.team.agree(self.memorises)

    def stopped(self, step: int) -> bool:
        """Whether the validation loss rises, as memorising begins."""
        if self.rises:
            log.warning("step %d: the validation loss rises, training stops here", step)
        return self.rises

    def kept(self, done: int) -> State | None:
        if not self.team.leads:
            return None
        meta = {"history": self.history, "recent": float(self.recent), "min_snr_gamma": self.training.min_snr_gamma}
        return prefixed("ema", self.best.modules.state_dict()), meta | {"steps": self.training.steps}

    def losses(self, step: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """The losses of this process's share of the batch, a part at a time.

        A part's losses are sums divided by the size of the whole batch, so that the parts of all processes add up to
        the batch's mean.
        """
        training, data, dropout = self.training, self.data, self.training.prompt_dropout
        drawn = draw(
            training.batch,
            self.latents.shape,
            data.labels,
            data.captions,
            dropout,
            self.schedule,
            generator,
            data.weights,
        )
        self.squared = torch.zeros((), device=self.device)
        for part in parts(self.team.share(training.batch), training.micro_batch):
            loss, own = self._losses(step, drawn, part)
            self.squared += own.detach()
            yield loss

    def exchange(self) -> None:
        """Add up the gradients of all processes, once after the last part. A DDP wrapper would do so after every part,
        and would wrap the networks that are averaged, saved and, with adapters, shared.
        """
        trained = [(id(p), p.grad) for p in self.trained if p.grad is not None]
        gradients = [gradient for _, gradient in trained]
        if self.compression is None:
            self.team.add_up([*gradients, self.squared])
        else:
            self.compression.exchange(gradients, [key for key, _ in trained], self.team.gather)
            self.team.add_up([self.squared])

    def after(self, done: int) -> None:
        training = self.training
        for average in self.averages:
            average.update(self.modules, done - 1)
        smoothed = self.squared.double()
        self.recent = smoothed if done == 1 else 0.98 * self.recent + 0.02 * smoothed
        measured = done % training.validate_every == 0 or done == training.steps
        if measured:
            self.validate(done)
            self.rises = self.team.agree(self.memorises)
        if self.track is not None and (measured or done % TRACK_EVERY == 0):
            self.track(done, self.figures(measured))

    def _losses(self, step: int, drawn: Drawn, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The share of `part` in the loss, and in its squared error alone."""
        training, device, latents, data, schedule = self.training, self.device, self.latents, self.data, self.schedule
        rows, ids, timesteps = drawn.rows[part], drawn.ids[part], drawn.timesteps[part]
        batch = d4_each(latents[to_device(rows, device)], to_device(drawn.elements[part], device))
        with self._autocast():
            context = self.modules["text_encoder"](to_device(ids, device)).last_hidden_state
            unet, shaken = self.modules["unet"], to_device(drawn.noise[part], device)
            said = denoise(unet, batch, shaken, timesteps, context, schedule, training.min_snr_gamma)
        squared = loss = said.squared_error().sum() / training.batch
        if self.uncertainty is not None:
            uncertain = self.uncertainty(said.snr)
            said = replace(said, weight=(-uncertain).exp())
            loss = (said.squared_error() + uncertain).sum() / training.batch
        if training.direction_weight:
            loss = loss + training.direction_weight * (said.direction_error().sum() / training.batch)
        if training.decoder_weight and self.vae is not None and step >= training.decoder_from * training.steps:
            all_clear = drawn.snr > training.decoder_min_snr
            clear = all_clear[part].nonzero().flatten()
            if len(clear):  # the mean over the whole batch's clear samples
                share, scale = len(clear) / int(all_clear.sum()), 1 / float(self.vae.config.scaling_factor)
                clear = to_device(clear, device)
                with self._autocast():
                    error = decoder_loss(self.vae, scale * said.original[clear], scale * batch[clear])
                if self.uncertainty is not None:  # it keeps its share beside the squared errors
                    error = error * (-self.uncertainty(to_device(drawn.snr[all_clear], device))).exp().mean().detach()
                loss = loss + training.decoder_weight * (share * error)
        if training.consistency_weight and self.classifier is not None:
            named = to_device((ids != data.captions.empty).any(dim=1), device)  # an empty prompt asks for no class
            losses = consistency_loss(said.original, said.snr, to_device(data.labels[rows], device), self.classifier)
            loss = loss + training.consistency_weight * ((named * losses).sum() / training.batch)
        return loss, squared

    def _autocast(self) -> torch.autocast:
        precision = self.training.precision
        return autocast(self.device, AUTOCAST[precision], enabled=precision != "fp32")

    def validate(self, step: int) -> None:
        if not self.team.leads:
            return
        gamma = self.training.min_snr_gamma
        losses = [validation_loss(one.modules, self.validation, self.schedule, gamma) for one in self.averages]
        best = min(range(len(losses)), key=losses.__getitem__)
        entry = {"step": step, "loss": float(self.recent), "validation_loss": losses[best]}
        sent = {} if self.compression is None else self.compression.figures()
        self.history.append(entry | {"ema_length": self.averages[best].length} | sent)
        log.info("step %d loss %.4f validation %s", step, float(self.recent), " ".join(f"{x:.4f}" for x in losses))

    def figures(self, measured: bool) -> dict[str, float]:
        """Figures for a tracker: smoothed loss, learning rate, and the validation loss if it was just `measured`."""
        last = {"validation_loss": self.history[-1]["validation_loss"]} if measured else {}
        return {"loss": float(self.recent), "rate": self.optimizer.param_groups[0]["lr"]} | last

    @property
    def memorises(self) -> bool:
        """Whether the validation loss has risen above its best by more than `stop_rise`."""
        if not self.history:
            return False
        losses = [entry["validation_loss"] for entry in self.history]
        return losses[-1] > (1 + self.training.stop_rise) * min(losses)


def train_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    data: LatentData,
    validation: LatentData,
    schedule: Schedule,
    training: DenoiserTraining,
    state: Path,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    *,
    vae: AutoencoderKL | None = None,
    classifier: ConsistencyClassifier | None = None,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    team: Team = ALONE,
    track: Track | None = None,
    until: int | None = None,
) -> tuple[UNet2DConditionModel, CLIPTextModel, list[dict[str, float]]]:
    """Train both networks. Training resumes from `state` if that file exists, whatever device wrote it.

    Args:
        vae: its decoder's features enter the loss with `training.decoder_weight`.
        classifier: of the classification consistency, which enters the loss with `training.consistency_weight`.
        team: each process calls this with the same arguments, and trains on its share of each batch. Only the leader
            validates, averages and writes; the others need no validation part.
        track: called with loss, learning rate and validation loss.
        until: end this session after this step, with the state saved; None trains to the last step.

    Returns:
        the networks on the CPU, averaged if this is the leader, and the log: step, loss, validation_loss and the length
        of the average that had it. A rising validation loss ends the training early.

    Raises:
        TimeUp: the deadline passed; the state is saved.
        PeerError: another process has gone.
    """
    run = _Denoising(
        unet,
        text_encoder,
        data,
        validation,
        schedule,
        training,
        torch.device(device),
        team,
        vae=vae,
        classifier=classifier,
        track=track,
    )
    hooks, resumed = norms_in_float32(run.modules), team.agree(state.exists())
    try:
        train(
            run.task,
            training.steps if until is None else until,
            training.seed,
            progress,
            state=state,
            resume=resumed,
            seconds=training.checkpoint_seconds,
            deadline=team.shared(deadline),
        )
    finally:
        for hook in hooks:
            hook.remove()
    result = (run.best.modules if team.leads else run.modules).cpu()
    return result["unet"], result["text_encoder"], run.history


# -- A learned weight of each noise level (Karras et al. 2024, EDM2, 2312.02696, eq. 21 and appendix B).


class Uncertainty(nn.Module):
    """u of a noise level: with the loss e^−u · L + u it becomes ln E[L], so that every level counts by relative error.

    L is all that has this weight: with `direction_weight` also that part of the loss.

    u is linear in random Fourier features of ln(σ / α) / 4, and 0 before training.
    """

    def __init__(self, features: int = 128) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        frequencies = 2 * math.pi * torch.randn(features, generator=generator)
        phases = 2 * math.pi * torch.rand(features, generator=generator)
        self.waves: torch.Tensor
        self.register_buffer("waves", torch.stack([frequencies, phases]), persistent=False)
        self.head = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, snr: torch.Tensor) -> torch.Tensor:
        """u [B] of signal-to-noise ratios α²/σ² [B]."""
        noise = -0.5 * snr.float().log() / 4
        frequencies, phases = self.waves
        features = math.sqrt(2) * (noise[:, None] * frequencies + phases).cos()
        uncertainty: torch.Tensor = self.head(features)[:, 0]
        return uncertainty
