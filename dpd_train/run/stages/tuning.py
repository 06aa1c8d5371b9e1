"""The stages of `dpd train`: each goes on from where an earlier session left it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dpd_runtime.annotations import Progress
from dpd_train.bases.base import Base, save_base
from dpd_train.bases.folder import base_folder
from dpd_train.bases.latents import encode_cached
from dpd_train.captions.captioners import describe_scenes
from dpd_train.captions.captions import aggregate_prompts, caption_table, embed
from dpd_train.classifiers.network import ResNet, latent_classifier_shape, teacher_shape
from dpd_train.classifiers.training import ClassifierTraining, Labelled, trained_classifier
from dpd_train.compute.device import Deadline, placed
from dpd_train.compute.distributed import Team
from dpd_train.compute.tracking import Track
from dpd_train.config import TrainConfig
from dpd_train.diffusion.denoiser import LatentData
from dpd_train.diffusion.fine_tune import History, fine_tune, is_large
from dpd_train.federated.settings import Federated
from dpd_train.images import SceneSet
from dpd_train.run.data import Scenes, rows_by_class
from dpd_train.run.folder import write_prototypes
from dpd_train.run.ranks import denoiser_state, handover, judge_of, write_handover
from dpd_train.run.record import Trained
from dpd_train.run.sheets import sample_sheet, write_prototype_sheets
from dpd_train.vae.perceptual import load_perceptual_networks, perceptual_training, train_perceptual_networks
from dpd_train.vae.tune import tune_decoder

Stages = Callable[[str], Progress]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every stage works on: data, config, places, device and time, processes and a tracker."""

    scenes: Scenes
    config: TrainConfig
    out: Path
    cache: Path
    device: torch.device
    deadline: Deadline
    progress: Stages
    team: Team
    track: Track | None
    federated: Federated | None = None

    def state(self, name: str) -> Path:
        return self.out / "checkpoints" / f"{name}.safetensors"

    def latents(self, base: Base) -> tuple[Labelled, Labelled]:
        """Of the training and the validation part."""
        encoded = [
            encode_cached(base.vae, s.images, s.hashes, self.cache, self.progress(title), device=self.device)
            for s, title in ((self.scenes.train, "encoding"), (self.scenes.held, "encoding the validation part"))
        ]
        return (encoded[0], torch.from_numpy(self.scenes.train.labels)), (
            encoded[1],
            torch.from_numpy(self.scenes.held.labels),
        )

    def phrases(self, scenes: SceneSet, title: str) -> list[tuple[str, ...]]:
        """Words of each image; those of an earlier session or run come from the cache."""
        name, progress = self.config.captioner, self.progress(title)
        return describe_scenes(name, scenes, cache=self.cache, device=self.device, progress=progress)


@dataclass(frozen=True)
class Tuned:
    """The base after fine-tuning.

    Args:
        config: the run's, with what a federated tuning's server decided. federated: its record for run.json.
    """

    base: Base
    history: History
    config: TrainConfig
    federated: dict[str, Any] | None = None


def with_tuned_decoder(run: Run, base: Base, pixels: tuple[Labelled, Labelled]) -> Base:
    """The base after `--tune-vae`."""
    config, scenes, device, deadline = run.config, run.scenes, run.device, run.deadline
    if not config.tune_vae:
        return base
    classes, folder = len(scenes.train.classes), run.out / "checkpoints"
    training, progress = perceptual_training(config.perceptual_steps), run.progress("perceptual networks")
    train_perceptual_networks(folder, *pixels, classes, training, progress, device=device, deadline=deadline)
    networks = load_perceptual_networks(folder, classes)
    images = torch.from_numpy(scenes.train.images), torch.from_numpy(scenes.held.images)
    progress = run.progress("VAE decoder")
    return tune_decoder(
        base, images, networks, config, run.state("decoder"), progress, device=device, deadline=deadline
    )


def judges(run: Run, pixels: tuple[Labelled, Labelled], latents: tuple[Labelled, Labelled]) -> tuple[ResNet, ResNet]:
    """Teacher and latent classifier."""
    count, config = len(run.scenes.train.classes), run.config
    teacher = trained_classifier(
        run.out / "classifier",
        *pixels,
        teacher_shape(count),
        ClassifierTraining(steps=config.teacher_steps, seed=config.seed + 1),
        run.progress("teacher"),
        state=run.state("classifier"),
        device=run.device,
        deadline=run.deadline,
    )
    judge = trained_classifier(
        run.out / "latent_classifier",
        *latents,
        latent_classifier_shape(count, latents[0][0].shape[1]),
        ClassifierTraining(steps=config.latent_classifier_steps, seed=config.seed + 2),
        run.progress("latent classifier"),
        state=run.state("latent_classifier"),
        device=run.device,
        deadline=run.deadline,
    )
    return teacher, judge


def fine_tuned(
    run: Run,
    base: Base,
    latents: tuple[Labelled, Labelled],
    words: list[tuple[str, ...]],
    teacher: ResNet,
    latent_classifier: ResNet,
) -> Tuned:
    """The base after `--steps` of fine-tuning."""
    config, device, deadline = run.config, run.device, run.deadline
    if not config.steps:
        return Tuned(base, [], config)

    def captioned(scenes: SceneSet, values: Labelled, phrases: list[tuple[str, ...]]) -> LatentData:
        return LatentData(*values, caption_table(base.tokenizer, scenes.classes, scenes.labels.tolist(), phrases))

    held = run.phrases(run.scenes.held, "captions of the validation part")
    data = captioned(run.scenes.train, latents[0], words), captioned(run.scenes.held, latents[1], held)
    judge = judge_of(config, teacher, latent_classifier, base)
    if run.federated is not None:
        from dpd_train.federated.stage import tuned_together  # which needs this module

        return tuned_together(run, run.federated, base, data, judge)
    shared, team = handover(run.out), run.team
    if team.size > 1:
        write_handover(shared, data[0], base.resolution, judge)
    try:
        with team.together():
            tuned, history = fine_tune(
                base,
                data,
                config,
                denoiser_state(run.out),
                run.out / "adapter",
                run.progress("fine-tuning"),
                judge=judge,
                device=device,
                deadline=deadline,
                team=team,
                track=run.track,
            )
            return Tuned(tuned, history, config)
    finally:
        shared.unlink(missing_ok=True)


def write_run(run: Run, trained: Trained, words: list[tuple[str, ...]], latents: torch.Tensor) -> None:
    """Everything but run.json."""
    config, out, base, classes = run.config, run.out, trained.base, run.scenes.train.classes
    rows = rows_by_class(run.scenes.train)
    by_class = [[words[i] for i in members] for members in rows]
    table = aggregate_prompts(classes, by_class, trained.prototypes.of_class, config.k_min, tokenizer=base.tokenizer)
    save_base(base, out / "pipeline", base_folder(config.base) / "tokenizer")
    write_prototypes(out, config.prototypes, classes, table, trained.prototypes.of_class)
    (out / "samples").mkdir(exist_ok=True)
    embeddings = embed(base.text_encoder, base.tokenizer, table.texts)
    first_rows = torch.tensor([rows[0] for rows in table.rows])
    columns = 2 if is_large(base) else 6  # a large base takes minutes for one on a CPU
    with placed(base.unet, run.device), placed(base.vae, run.device):
        sheet = sample_sheet(base, classes, embeddings[first_rows], config.seed, columns)
        Image.fromarray(sheet).save(out / "samples" / "final.png")
        sheets = out / "private" / "prototypes"
        write_prototype_sheets(sheets, base, run.scenes.train, rows, latents.numpy(), trained.prototypes.of_class)
    lines = "".join(json.dumps(entry) + "\n" for entry in trained.history)
    (out / "log.jsonl").write_text(lines, encoding="utf-8")
