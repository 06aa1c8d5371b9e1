"""The stage that trains the run's classifiers, and the metrics that they and the VAE get at the end."""

from typing import Any

from dpd_train.bases.base import Base
from dpd_train.bases.latents import reconstruct
from dpd_train.classifiers.network import accuracy, latent_classifier_shape, teacher_shape
from dpd_train.classifiers.training import ClassifierTraining, Labelled, trained_classifier
from dpd_train.run.context import Classifiers, Parts, Run
from dpd_train.vae.autoencoder import reconstruction_metrics

RATED = 500  # images that the VAE is measured on, at most


def train_judges(run: Run, pixels: Parts, latents: Parts) -> Classifiers:
    """Train teacher and latent classifier, or read those of an earlier session.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    count, config = len(run.classes), run.config
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
    return Classifiers(teacher, judge)


def metrics(base: Base, judges: Classifiers, pixels: Labelled, latents: Labelled) -> dict[str, Any]:
    """Accuracies of the classifiers and quality of the VAE on the validation part, for run.json."""
    images, labels = pixels
    every = max(1, len(images) // RATED)
    some, teacher = images[::every], judges.teacher
    return {
        "teacher_oa": accuracy(teacher, images, labels),
        "teacher_oa_on_the_same_images": accuracy(teacher, some, labels[::every]),
        "teacher_oa_on_reconstructions": accuracy(teacher, reconstruct(base.vae, some), labels[::every]),
        "latent_classifier_oa": accuracy(judges.judge, *latents),
        "vae": reconstruction_metrics(base.vae, some),
    }
