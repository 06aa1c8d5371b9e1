"""Measure how fast this machine is on idle cores: a few steps of each kind of work, on random images."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from dpd_distill.plan import WorkSpeed
from dpd_runtime.annotations import Progress
from dpd_train.bases import Base, decoder_fits, frozen_decoder, load_base
from dpd_train.captions import caption_table
from dpd_train.classifiers import ClassifierTraining, train_classifier
from dpd_train.compute import placed, use_device
from dpd_train.config import TrainConfig, published_watchers
from dpd_train.context import fitted
from dpd_train.denoiser import LatentData, train_denoiser
from dpd_train.matching import (
    Matching,
    See,
    Standard,
    Statistics,
    Watcher,
    attention_shapes,
    embed,
    match_codes,
    residual_shapes,
    seeing,
    seeing_only,
)
from dpd_train.networks import Classifier, ResNet, Shape, teacher_shape
from dpd_train.published import PublishedModel, open_published
from dpd_train.tuning import denoiser_training, frozen_norms_in_float32, trained_parts
from dpd_train.vae import bands_training, decoder_training, perceptual_shapes, train_autoencoder, with_bands

CLASSES, CODES, STEPS = 10, 10, 4  # of two classes a watcher's call is small, and a code seemed half again as slow
IMAGES = CLASSES * CODES


def step_seconds(train: Callable[[Progress], object]) -> float:
    """Seconds of a step of `train`, which reports each step, on idle cores.

    The first step, which warms up, does not count. Of the others the quickest does: other programs only add. Where
    they add to all steps, the seconds of computing tell what is left without them.
    """
    ends: list[tuple[float, float]] = []
    on_gpu = torch.cuda.is_available()

    def tell(done: int, total: int) -> None:
        if on_gpu:  # which works on after a call has returned
            torch.cuda.synchronize()
        ends.append((time.perf_counter(), time.process_time()))

    train(tell)
    if on_gpu:  # and the seconds of computing are not those of the processor
        return min(later - before for (before, _), (later, _) in pairwise(ends))
    cores = max(1.0, 0.8 * torch.get_num_threads())
    return min(
        min(later - before, (computed - earlier) / cores) for (before, earlier), (later, computed) in pairwise(ends)
    )


def measure_speed(
    base: Base,
    config: TrainConfig,
    device: torch.device,
    progress: Progress = lambda done, total: None,
    judge: str | None = None,
) -> WorkSpeed:
    """Time a few steps of every kind of work that a run with this base does. Each kind is one step of `progress`.

    Args:
        base: at the run's resolution; it is changed, so it cannot be used afterwards.
        config: for the batch of a fine-tuning step and its precision, whether images carry bands of their own, and
            the published models that watch, which are settled.
        judge: published model that judges the set.
    """
    side, bands, generator = base.resolution, int(base.vae.config.in_channels), torch.Generator().manual_seed(0)
    images = 2 * torch.rand((IMAGES, bands, side, side), generator=generator) - 1
    labels = torch.arange(IMAGES) % CLASSES
    latents = torch.randn((IMAGES, int(base.unet.config.in_channels), *[int(base.unet.config.sample_size)] * 2))
    training = ClassifierTraining(steps=STEPS, validate_every=STEPS + 1)
    published = [open_published(name, device) for name in published_watchers(config.watchers)]
    compares = next((model for model in published if model.looks_at_crops), None)  # what `decoder_judge` chooses
    judges = [] if judge is None else [open_published(judge, device)]
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        place = Path(folder)
        tuned = config.reading.carries or decoder_fits(base, device)
        few, shape = (images[:CLASSES], labels[:CLASSES]), teacher_shape(CLASSES, bands)
        kinds: dict[str, Callable[[], float]] = {
            "view": lambda: (
                step_seconds(lambda tell: train_classifier(images, labels, few, shape, training, tell, device=device))
                / training.batch
            ),
            "call": lambda: _call_seconds(base, latents[: 2 * CODES], device),
            "decoded": lambda: _matching_seconds(base, (), latents[: CLASSES * CODES], images, device, place),
            "watched": lambda: sum(
                _matching_seconds(base, (one,), latents[: CLASSES * CODES], images, device, place / str(number))
                / len(published)  # one of them, drawn at random, watches a step
                for number, one in enumerate(published)
            ),
            "published": lambda: _published_seconds(published, images[:CLASSES], device),
            "judge": lambda: _published_seconds(judges, images[:CLASSES], device),
            "decoder": lambda: _decoder_seconds(base, images, config, device, place, compares) if tuned else 0.0,
            "tuning": lambda: _tuning_seconds(base, latents, labels, config, device, place),
        }
        seconds: dict[str, float] = {}
        for done, (name, measure) in enumerate(kinds.items()):
            progress(done, len(kinds))
            seconds[name] = measure()
        progress(len(kinds), len(kinds))
        seconds["perceptual"] = 0.0 if compares else seconds["view"]
        return WorkSpeed(**seconds, threads=torch.get_num_threads())


def speed_of(
    config: TrainConfig, threads: int, progress: Progress, bands: int = 0, judge: str | None = None
) -> WorkSpeed:
    """Measure this machine for runs with this config.

    Args:
        bands: of images that carry others than RGB; 0 for RGB. judge: as in `measure_speed`.
    """
    torch.set_num_threads(threads)
    base = fitted(load_base(config.base), config)
    return measure_speed(with_bands(base, bands) if bands else base, config, use_device("auto"), progress, judge)


def _call_seconds(base: Base, latents: torch.Tensor, device: torch.device) -> float:
    context = torch.zeros((len(latents), 8, int(base.unet.config.cross_attention_dim)), device=device)

    def call(tell: Progress) -> None:
        for step in range(STEPS):
            base.unet(latents.to(device), torch.tensor(10, device=device), context)
            tell(step + 1, STEPS)

    with placed(base.unet, device), torch.no_grad():
        return step_seconds(call) / len(latents)


def _published_seconds(published: Sequence[PublishedModel], images: torch.Tensor, device: torch.device) -> float:
    """Of one image through each model, without its gradient."""

    def see(tell: Progress) -> None:
        for step in range(STEPS):
            for model in published:
                model.features(images.to(device))
            tell(step + 1, STEPS)

    with torch.no_grad():
        return step_seconds(see) / len(images) if published else 0.0


def _matching_seconds(
    base: Base,
    published: Sequence[PublishedModel],
    latents: torch.Tensor,
    images: torch.Tensor,
    device: torch.device,
    place: Path,
) -> float:
    watchers = []

    def add(see: See, width: int, *, extra: bool) -> None:
        zeros, ones = torch.zeros((CLASSES, width), device=device), torch.ones((CLASSES, width), device=device)
        statistics = Statistics(Standard(zeros[0], ones[0]), zeros, ones, torch.eye(width, device=device))
        watchers.append(Watcher(see, statistics, extra))

    bands = images.shape[1]
    shapes: list[Shape[Classifier]] = [*residual_shapes(CLASSES, bands), *attention_shapes(CLASSES, bands)]
    for shape in shapes:
        network = shape.build().eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        add(seeing(network, logits=True), embed(network.features(images[:1].to(device))).shape[1], extra=False)
    for model in published:
        add(seeing_only(model.features), model.features(images[:2].to(device)).shape[1], extra=True)
    start = latents.reshape(CLASSES, CODES, *latents.shape[1:])
    trainable = [p for p in base.vae.parameters() if p.requires_grad]
    decode = frozen_decoder(base)
    with placed(base.vae, device):
        seconds = step_seconds(
            lambda tell: match_codes(
                start,
                decode,
                watchers,
                Matching(steps=STEPS),
                tell,
                state=place / "codes",
                device=device,
            )
        )
    for parameter in trainable:
        parameter.requires_grad_()
    return seconds / (CLASSES * CODES)


def _decoder_seconds(
    base: Base,
    images: torch.Tensor,
    config: TrainConfig,
    device: torch.device,
    place: Path,
    compares: PublishedModel | None,
) -> float:
    bytes_ = ((images.permute(0, 2, 3, 1) + 1) * 127.5).to(torch.uint8)
    parts, short, state = (bytes_, bytes_[:CLASSES]), TrainConfig(vae_steps=STEPS, seed=config.seed), place / "decoder"
    carries, networks = config.reading.carries, compares or list[ResNet]()
    if not carries and compares is None:
        networks = [ResNet(shape).eval().requires_grad_(False) for shape in perceptual_shapes(CLASSES)]
    training = bands_training(short) if carries else decoder_training(short, published=compares is not None)
    return step_seconds(
        lambda tell: train_autoencoder(base.vae, *parts, training, state, networks, not carries, tell, device=device)
    )


def _tuning_seconds(
    base: Base, latents: torch.Tensor, labels: torch.Tensor, config: TrainConfig, device: torch.device, place: Path
) -> float:
    names = [str(label) for label in range(CLASSES)]
    captions = caption_table(base.tokenizer, names, labels.tolist(), [()] * len(labels))
    data = LatentData(latents, labels, captions)
    short = TrainConfig(steps=STEPS, batch=config.batch, precision=config.precision, tune=config.tune)
    training = replace(denoiser_training(short), validate_every=STEPS + 1)
    parts, state = trained_parts(base, short), place / "unet"
    with frozen_norms_in_float32(base, short):
        return step_seconds(
            lambda tell: train_denoiser(*parts, data, data, base.schedule, training, state, tell, device=device)
        )
