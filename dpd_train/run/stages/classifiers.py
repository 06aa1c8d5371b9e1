"""The stage that trains the run's classifiers, and the metrics that they and the VAE get at the end."""

import logging
from typing import Any

import torch

from dpd_train.bases.base import Base, decoder_fits
from dpd_train.bases.latents import reconstruct
from dpd_train.classifiers.network import ResNet, accuracy, latent_classifier_shape, teacher_shape
from dpd_train.classifiers.training import ClassifierTraining, Labelled, evenly, trained_classifier
from dpd_train.compute.device import placed
from dpd_train.diffusion.consistency import ConsistencyClassifier, real_floors, with_noise
from dpd_train.diffusion.fine_tune import consistency_network
from dpd_train.run.context import Classifiers, Parts, Run
from dpd_train.vae.autoencoder import reconstruction_metrics

RATED = 500  # images that the VAE is measured on, less than twice as many
MOST_LOST = 5.0  # percentage points that the teacher may lose on reconstructions by a decoder that is not tuned
log = logging.getLogger(__name__)


def train_teacher(run: Run, pixels: Parts) -> ResNet:
    """Train the teacher on pixels, or read that of an earlier session.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    return trained_classifier(
        run.out / "classifier",
        *pixels,
        teacher_shape(len(run.classes), run.channels),
        ClassifierTraining(steps=run.config.teacher_steps, seed=run.config.seed + 1),
        run.progress("teacher"),
        state=run.state("classifier"),
        device=run.device,
        deadline=run.deadline,
    )


def train_latent_classifier(run: Run, latents: Parts) -> ResNet:
    """Train the classifier of latents, or read that of an earlier session.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    return trained_classifier(
        run.out / "latent_classifier",
        *latents,
        latent_classifier_shape(len(run.classes), latents[0][0].shape[1]),
        ClassifierTraining(steps=run.config.latent_classifier_steps, seed=run.config.seed + 2),
        run.progress("latent classifier"),
        state=run.state("latent_classifier"),
        device=run.device,
        deadline=run.deadline,
    )


def consistency_classifier(run: Run, base: Base, latents: Parts) -> ConsistencyClassifier | None:
    """The classifier of the consistency loss, with the margins of the validation part; None without that loss.

    Raises:
        TimeUp: the deadline passed while the classifier of noisy latents was trained; the state is saved.
    """
    if not run.config.lambda_cls:
        return None
    if run.config.judge_on == "latents":
        _train_on_noisy(run, latents)
    network = consistency_network(run.out, run.config, base)
    with placed(network, run.device):
        floors = real_floors(network, *latents[1], len(run.classes))
    return ConsistencyClassifier(network, floors)


def _train_on_noisy(run: Run, latents: Parts) -> None:
    """Train a classifier of noisy latents: one of clean latents calls any texture that suits it a clear image."""
    seed = run.config.seed + 3
    data, (held, labels) = latents
    trained_classifier(
        run.checkpoints / "noisy_latent_classifier",
        data,
        (with_noise(held, torch.Generator().manual_seed(seed)), labels),
        latent_classifier_shape(len(run.classes), held.shape[1]),
        ClassifierTraining(steps=run.config.latent_classifier_steps, seed=seed),
        run.progress("classifier of noisy latents"),
        noise=with_noise,
        state=run.state("noisy_latent_classifier"),
        device=run.device,
        deadline=run.deadline,
    )


def points_lost(base: Base, teacher: ResNet, data: Labelled) -> float:
    """Percentage points of its accuracy that the teacher loses on reconstructions, on less than 2 · RATED images."""
    images, labels = evenly(data, RATED)
    return 100 * (accuracy(teacher, images, labels) - accuracy(teacher, reconstruct(base.vae, images), labels))


def wants_tuning(run: Run, base: Base, teacher: ResNet, pixels: Parts) -> bool:
    """Whether to tune the decoder: as `--tune-vae` says, or else if reconstructions cost the teacher too much."""
    if run.config.tune_vae is not None:
        return run.config.tune_vae
    lost = points_lost(base, teacher, pixels[1])
    if lost <= MOST_LOST:
        return False
    fits = decoder_fits(base, run.device)
    log.info(
        "the teacher loses %.1f points on reconstructions: the VAE's decoder %s",
        lost,
        "is trained on the images" if fits else "is too large to be trained on a CPU",
    )
    return fits


def metrics(base: Base, classifiers: Classifiers, pixels: Labelled, latents: Labelled) -> dict[str, Any]:
    """Accuracies of the classifiers and quality of the VAE on the validation part, for run.json."""
    (some, labels), teacher = evenly(pixels, RATED), classifiers.teacher
    return {
        "teacher_oa": accuracy(teacher, *pixels),
        "teacher_oa_on_the_same_images": accuracy(teacher, some, labels),
        "teacher_oa_on_reconstructions": accuracy(teacher, reconstruct(base.vae, some), labels),
        "latent_classifier_oa": accuracy(classifiers.latent_classifier, *latents),
        "vae": reconstruction_metrics(base.vae, some),
    }
