"""The one diffusion training loop: `pretrain` starts it from random weights, `train` from a base."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from dpd_runtime.schedule import Schedule
from dpd_train.averages import PowerAverage
from dpd_train.captions import CaptionTable
from dpd_train.checkpoint import load_state, optimizer_tensors, prefixed, save_state, step_generator, without_prefix
from dpd_train.classifiers import learning_rate, rewarmed, set_learning_rate
from dpd_train.consistency import consistency_loss
from dpd_train.denoising import Denoised, decoder_loss, denoise
from dpd_train.device import NEVER, Deadline, adamw, checkpointed, on_cpu, restore_moments, to_device
from dpd_train.precision import norms_in_float32
from dpd_train.symmetry import ORDER, d4_each

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining:
    """Length and constants of one piece of denoiser training."""

    steps: int
    batch: int = 48
    peak_rate: float = 6e-4
    warmup: int = 200
    min_snr_gamma: float = 5.0  # 2303.09556
    direction_weight: float = 0.0  # 1 − cosine between the network's output and its target (FasterDiT, 2410.10356)
    decoder_weight: float = 0.0  # distance of ẑ0 and z0 in the decoder's features (LPL, 2411.04873)
    decoder_from: float = 0.6  # share of the steps after which the decoder's features count
    decoder_min_snr: float = 1.0  # noisier samples have no details to compare
    consistency_weight: float = 0.0  # λ of the judge's cross-entropy on ẑ0 (METHOD §1.1)
    prompt_dropout: float = 0.1
    ema_lengths: tuple[float, ...] = (0.05, 0.1)  # relative widths σ_rel; the better one on validation is kept
    stop_rise: float = 0.02  # stop when the validation loss stands this share above its best: memorising begins
    seed: int = 0
    bfloat16: bool = True
    validate_every: int = 500
    checkpoint_seconds: float = 240.0


@dataclass(frozen=True)
class LatentData:
    """Scaled latents [n, C, h, w] with labels [n] and captions; validation in the same form."""

    latents: torch.Tensor
    labels: torch.Tensor
    captions: CaptionTable


@torch.no_grad()
def validation_loss(modules: nn.ModuleDict, data: LatentData, schedule: Schedule, gamma: float) -> float:
    """Loss on fixed noise and evenly spread timesteps, with the class captions."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(data.latents.shape, generator=generator)
    timesteps = torch.linspace(0, schedule.num_train_timesteps - 1, len(data.latents)).long()
    timesteps = timesteps[torch.randperm(len(timesteps), generator=generator)]
    device = next(modules.parameters()).device
    losses = []
    for i in range(0, len(data.latents), 100):
        part = slice(i, i + 100)
        ids = to_device(data.captions.template[data.labels[part]], device)
        context = modules["text_encoder"](ids).last_hidden_state
        latents = to_device(data.latents[part], device)
        shaken = to_device(noise[part], device)
        said = denoise(modules["unet"], latents, shaken, timesteps[part], context, schedule, gamma)
        losses.append(said.squared_error())
    return float(torch.cat(losses).mean())


class _Run:
    """Networks, averages and optimiser of one training, on its device, and their way to and from the state file."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        vae: AutoencoderKL | None,
        judge: nn.Module | None,
        training: DenoiserTraining,
        device: torch.device,
    ) -> None:
        self.training, self.device = training, device
        modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).train().to(device)
        self.modules: nn.ModuleDict = modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.vae = None if vae is None else copy.deepcopy(vae).eval().requires_grad_(False).to(device)
        self.judge = None if judge is None else judge.to(device)
        decayed = [p for p in self.modules.parameters() if p.ndim > 1]
        rest = [p for p in self.modules.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = adamw(groups, device, betas=(0.9, 0.99))
        self.averages = [PowerAverage(self.modules, length) for length in training.ema_lengths]
        self.history: list[dict[str, float]] = []
        self.recent = torch.zeros((), dtype=torch.float64, device=device)  # smoothed loss; read only when logged
        self.fresh_since = 0  # step at which the optimiser's moments were lost

    @property
    def best(self) -> PowerAverage:
        """The average with the lowest validation loss when it was last measured."""
        length = self.history[-1]["ema_length"] if self.history else self.training.ema_lengths[0]
        return next(average for average in self.averages if average.length == length)

    def restore(self, state: Path) -> int:
        """The step at which `state` stands. One that travelled light holds one average alone: training goes on from
        it, with a fresh optimiser and a second warm-up.
        """
        tensors, meta = load_state(state)
        best, moments = without_prefix("ema", tensors), without_prefix("optimizer", tensors)
        self.modules.load_state_dict(without_prefix("modules", tensors) or best)
        for i, average in enumerate(self.averages):
            average.modules.load_state_dict(without_prefix(f"average{i}", tensors) or best)
        restore_moments(self.optimizer, moments)
        step = int(meta["step"])
        self.history = meta["history"]
        self.recent.fill_(meta["recent"])
        self.fresh_since = meta.get("fresh_since", 0) if moments else step
        log.info("resumed at step %d%s", step, "" if moments else ", with a fresh optimiser")
        return step

    def save(self, state: Path, step: int) -> None:
        tensors = prefixed("modules", self.modules.state_dict()) | prefixed("ema", self.best.modules.state_dict())
        for i, average in enumerate(self.averages):
            tensors |= prefixed(f"average{i}", average.modules.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(self.optimizer))
        meta = {"step": step, "history": self.history, "recent": float(self.recent), "fresh_since": self.fresh_since}
        save_state(state, on_cpu(tensors), meta | {"steps": self.training.steps})

    def step(self, step: int, latents: torch.Tensor, data: LatentData, schedule: Schedule) -> None:
        """One update. latents: those of `data`, on the device."""
        training, device = self.training, self.device
        generator = step_generator(training.seed, step)
        rows = torch.randint(len(latents), (training.batch,), generator=generator)
        elements = torch.randint(ORDER, (training.batch,), generator=generator)
        ids = data.captions.draw(rows, data.labels, elements % 2 == 1, training.prompt_dropout, generator)
        timesteps = torch.randint(schedule.num_train_timesteps, (training.batch,), generator=generator)
        noise = torch.randn((training.batch, *latents.shape[1:]), generator=generator)
        batch = d4_each(latents[to_device(rows, device)], to_device(elements, device))
        rate = learning_rate(step, training.steps, training.peak_rate, training.warmup)
        set_learning_rate(self.optimizer, rewarmed(rate, step, self.fresh_since, training.warmup))
        with torch.autocast(device.type, torch.bfloat16, enabled=training.bfloat16):
            context = self.modules["text_encoder"](to_device(ids, device)).last_hidden_state
            unet, shaken = self.modules["unet"], to_device(noise, device)
            said = denoise(unet, batch, shaken, timesteps, context, schedule, training.min_snr_gamma)
        squared = said.squared_error().mean()
        loss = squared
        if training.direction_weight:
            loss = loss + training.direction_weight * said.direction_error().mean()
        if training.decoder_weight and self.vae is not None and step >= training.decoder_from * training.steps:
            loss = loss + training.decoder_weight * self._decoder_loss(said, batch)
        if training.consistency_weight and self.judge is not None:
            named = to_device((ids != data.captions.empty).any(dim=1), device)  # an empty prompt asks for no class
            losses = consistency_loss(said.original, said.snr, to_device(data.labels[rows], device), self.judge)
            loss = loss + training.consistency_weight * (named * losses).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        for average in self.averages:
            average.update(self.modules, step)
        smoothed = squared.detach().double()
        self.recent = smoothed if step == 0 else 0.98 * self.recent + 0.02 * smoothed

    def _decoder_loss(self, said: Denoised, latents: torch.Tensor) -> torch.Tensor:
        assert self.vae is not None
        clear = said.snr > self.training.decoder_min_snr
        if not bool(clear.any()):
            return said.output.sum() * 0
        scale = 1 / float(self.vae.config.scaling_factor)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.bfloat16):
            return decoder_loss(self.vae, scale * said.original[clear], scale * latents[clear])

    def validate(self, step: int, validation: LatentData, schedule: Schedule) -> None:
        gamma = self.training.min_snr_gamma
        losses = [validation_loss(average.modules, validation, schedule, gamma) for average in self.averages]
        best = min(range(len(losses)), key=losses.__getitem__)
        entry = {"step": step, "loss": float(self.recent), "validation_loss": losses[best]}
        self.history.append(entry | {"ema_length": self.averages[best].length})
        log.info("step %d loss %.4f validation %s", step, float(self.recent), " ".join(f"{x:.4f}" for x in losses))

    @property
    def memorises(self) -> bool:
        """The validation loss has risen from its best by more than the share that is allowed."""
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
    judge: nn.Module | None = None,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> tuple[UNet2DConditionModel, CLIPTextModel, list[dict[str, float]]]:
    """Train both networks; the run resumes from `state` where that file exists, on whatever device it was written.

    Args:
        vae: its decoder's features enter the loss where `training.decoder_weight` says so.
        judge: frozen, latents → logits: its verdict on ẑ0 enters where `training.consistency_weight` says so.

    Returns:
        the averaged networks, on the CPU, and the log: step, loss, validation_loss and the average that had it. A
        validation loss that rises ends the training before its last step.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    run = _Run(unet, text_encoder, vae, judge, training, torch.device(device))
    start = run.restore(state) if state.exists() else 0
    latents = data.latents.to(run.device)
    hooks = norms_in_float32(run.modules)

    def save(done: int) -> None:
        run.save(state, done)

    steps = range(start, training.steps)
    try:
        for step in checkpointed(steps, save, training.checkpoint_seconds, deadline, progress):
            if run.memorises:
                log.warning("step %d: the validation loss rises, the training ends here", step)
                save(step)
                break
            run.step(step, latents, data, schedule)
            if (step + 1) % training.validate_every == 0 or step + 1 == training.steps:
                run.validate(step + 1, validation, schedule)
    finally:
        for hook in hooks:
            hook.remove()
    average = run.best.modules.cpu()
    return average["unet"], average["text_encoder"], run.history
