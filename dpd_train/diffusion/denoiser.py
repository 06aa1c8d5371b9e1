"""The training loop of the denoiser: `pretrain` starts it from random weights, `train` from a base."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from dpd_runtime.errors import InputError
from dpd_runtime.sampling.schedule import Schedule
from dpd_train.bases.base import rows_a_call
from dpd_train.captions.captions import CaptionTable
from dpd_train.classifiers.network import learning_rate, rewarmed, set_learning_rate
from dpd_train.compute.checkpoint import (
    load_state,
    optimizer_tensors,
    prefixed,
    save_state,
    step_generator,
    without_prefix,
)
from dpd_train.compute.device import (
    NEVER,
    Deadline,
    adamw,
    autocast,
    checkpointed,
    decay_groups,
    norms_in_float32,
    on_cpu,
    restore_moments,
    to_device,
)
from dpd_train.compute.distributed import ALONE, Team
from dpd_train.compute.rs_dgc import RsDgc
from dpd_train.compute.tracking import Track
from dpd_train.config import Precision
from dpd_train.diffusion.averages import PowerAverage
from dpd_train.diffusion.consistency import ConsistencyClassifier, consistency_loss
from dpd_train.diffusion.step import Drawn, decoder_loss, denoise, draw, parts
from dpd_train.diffusion.uncertainty import Uncertainty
from dpd_train.images.symmetry import d4_each

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
    compression: float | None = None  # times fewer bytes of gradients between processes (`dpd_train.compute.rs_dgc`)
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


class _Run:
    """Networks, averages and optimiser of one training, saved to and restored from the state file."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        vae: AutoencoderKL | None,
        classifier: ConsistencyClassifier | None,
        training: DenoiserTraining,
        device: torch.device,
        team: Team,
    ) -> None:
        self.training, self.device, self.team = training, device, team
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
        self.scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")
        self.averages = [PowerAverage(self.modules, length) for length in training.ema_lengths if team.leads]
        self.history: list[dict[str, float]] = []
        self.recent = torch.zeros((), dtype=torch.float64, device=device)  # smoothed loss, read only when logged
        self.fresh_since = 0  # step at which the optimiser's moments were lost
        self.compression = RsDgc(training.compression) if training.compression else None

    @property
    def best(self) -> PowerAverage:
        """The average with the lowest validation loss when it was last measured."""
        length = self.history[-1]["ema_length"] if self.history else self.training.ema_lengths[0]
        return next(average for average in self.averages if average.length == length)

    def restore(self, state: Path) -> int:
        """Read `state` and return its step.

        A state that holds only one average is continued from it, with a fresh optimiser and a second warm-up.

        Raises:
            InputError: its losses were weighed in another way, so that they cannot be compared.
        """
        tensors, meta = load_state(state)
        if meta.get("min_snr_gamma", MIN_SNR_GAMMA) != self.training.min_snr_gamma:
            raise InputError(
                f"{state} was trained with other weights of the noise levels, by another version; finish it with that "
                "version, or begin again with another --state, and with --start from the base that it made"
            )
        best, moments = without_prefix("ema", tensors), without_prefix("optimizer", tensors)
        self.modules.load_state_dict(without_prefix("modules", tensors) or best)
        for i, average in enumerate(self.averages):
            average.modules.load_state_dict(without_prefix(f"average{i}", tensors) or best)
        if self.uncertainty is not None and (levels := without_prefix("uncertainty", tensors)):
            self.uncertainty.load_state_dict(levels)
        restore_moments(self.optimizer, moments)
        if meta.get("scaler"):
            self.scaler.load_state_dict(meta["scaler"])
        step = int(meta["step"])
        self.history = meta["history"]
        self.recent.fill_(meta["recent"])
        self.fresh_since = meta.get("fresh_since", 0) if moments else step
        log.info("resumed at step %d%s", step, "" if moments else ", with a fresh optimiser")
        return step

    def save(self, state: Path, step: int) -> None:
        if not self.team.leads:
            return
        tensors = prefixed("modules", self.modules.state_dict()) | prefixed("ema", self.best.modules.state_dict())
        for i, average in enumerate(self.averages):
            tensors |= prefixed(f"average{i}", average.modules.state_dict())
        if self.uncertainty is not None:
            tensors |= prefixed("uncertainty", self.uncertainty.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(self.optimizer))
        meta = {"step": step, "history": self.history, "recent": float(self.recent), "fresh_since": self.fresh_since}
        meta |= {
            "min_snr_gamma": self.training.min_snr_gamma,
            "steps": self.training.steps,
            "scaler": self.scaler.state_dict(),
        }
        save_state(state, on_cpu(tensors), meta)

    def step(self, step: int, latents: torch.Tensor, data: LatentData, schedule: Schedule) -> None:
        """One update. latents: those of `data`, on the device.

        A part's losses are sums divided by the size of the whole batch, so that the parts of all processes add up to
        the batch's mean. Gradients are added up once after the last part. A DDP wrapper would do so after every part,
        and would wrap the networks that the loop averages, saves and, with adapters, shares.
        """
        training = self.training
        generator, dropout = step_generator(training.seed, step), training.prompt_dropout
        drawn = draw(
            training.batch, latents.shape, data.labels, data.captions, dropout, schedule, generator, data.weights
        )
        rate = learning_rate(step, training.steps, training.peak_rate, training.warmup, training.decay_from)
        set_learning_rate(self.optimizer, rewarmed(rate, step, self.fresh_since, training.warmup))
        self.optimizer.zero_grad()
        squared = torch.zeros((), device=self.device)
        for part in parts(self.team.share(training.batch), training.micro_batch):
            loss, own = self._losses(step, drawn, part, latents, data, schedule)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            squared += own.detach()
        trained = [(id(p), p.grad) for p in self.trained if p.grad is not None]
        gradients = [gradient for _, gradient in trained]
        if self.compression is None:
            self.team.add_up([*gradients, squared])
        else:
            self.compression.exchange(gradients, [key for key, _ in trained], self.team.gather)
            self.team.add_up([squared])
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for average in self.averages:
            average.update(self.modules, step)
        smoothed = squared.double()
        self.recent = smoothed if step == 0 else 0.98 * self.recent + 0.02 * smoothed

    def _losses(
        self, step: int, drawn: Drawn, part: slice, latents: torch.Tensor, data: LatentData, schedule: Schedule
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The share of `part` in the loss, and in its squared error alone."""
        training, device = self.training, self.device
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

    def validate(self, step: int, validation: LatentData, schedule: Schedule) -> None:
        if not self.team.leads:
            return
        gamma = self.training.min_snr_gamma
        losses = [validation_loss(average.modules, validation, schedule, gamma) for average in self.averages]
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
    run = _Run(unet, text_encoder, vae, classifier, training, torch.device(device), team)
    start = run.restore(state) if team.agree(state.exists()) else 0
    latents = data.latents.to(run.device)
    hooks, save = norms_in_float32(run.modules), partial(run.save, state)
    steps, deadline = range(start, training.steps if until is None else until), team.shared(deadline)
    rises = team.agree(run.memorises)
    try:
        for step in checkpointed(steps, save, training.checkpoint_seconds, deadline, progress):
            if rises:
                log.warning("step %d: the validation loss rises, training stops here", step)
                save(step)
                break
            run.step(step, latents, data, schedule)
            measured = (step + 1) % training.validate_every == 0 or step + 1 == training.steps
            if measured:
                run.validate(step + 1, validation, schedule)
                rises = team.agree(run.memorises)
            if track is not None and (measured or (step + 1) % TRACK_EVERY == 0):
                track(step + 1, run.figures(measured))
    finally:
        for hook in hooks:
            hook.remove()
    result = (run.best.modules if team.leads else run.modules).cpu()
    return result["unet"], result["text_encoder"], run.history
