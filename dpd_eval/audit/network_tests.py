"""Membership tests of every network in the bundle or run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_eval.audit.data import AuditData
from dpd_eval.audit.denoiser_scores import denoiser_scores
from dpd_eval.audit.encoder import AuditVae
from dpd_eval.audit.membership import Scores, membership_tests
from dpd_eval.audit.model import Model
from dpd_eval.audit.network_scores import classifier_scores, logits_of, prototype_score, reconstruction_score
from dpd_eval.audit.outcome import Outcome, not_run
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.sampling.sample import Denoise, from_uint8
from dpd_runtime.sampling.schedule import Schedule
from dpd_train.images import SceneSet

MOST = 4000  # members, and as many others, for all networks but the denoiser
MOST_DENOISER = 3000  # a denoiser is called 18 times per image
PARTS = ("denoiser", "latent classifier", "VAE decoder", "prototypes")  # whose tests need the encoder
Stage = Callable[[str], Progress]


@dataclass(frozen=True)
class AuditSample:
    """Images of T or H with labels in the data's order, and their latents if there is an encoder."""

    images: Images
    labels: Int64
    latents: Float32 | None


def sample(
    data: AuditData, latents: tuple[Float32, Float32] | None, most: int = MOST
) -> tuple[AuditSample, AuditSample]:
    """Choose members and others, with equal numbers of each class."""
    rows = data.members(most)

    def part(scenes: SceneSet, chosen: Int64, encoded: Float32 | None) -> AuditSample:
        return AuditSample(scenes.images[chosen], scenes.labels[chosen], None if encoded is None else encoded[chosen])

    encoded = latents or (None, None)
    return part(data.train, rows[0], encoded[0]), part(data.held, rows[1], encoded[1])


def compare_denoiser(
    denoise: Denoise, schedule: Schedule, sides: Sequence[tuple[Float32, Float32]], progress: Progress
) -> dict[str, Scores]:
    """Score members and others, each given as (latents [n, C, h, w], prompts [n, L, D])."""
    scores = []
    for number, (latents, prompts) in enumerate(sides):
        scores.append(denoiser_scores(denoise, schedule, latents, prompts, seed=number, progress=progress))
    return {name: Scores(scores[0][name], scores[1][name]) for name in scores[0]}


def network_tests(
    model: Model, data: AuditData, latents: tuple[Float32, Float32] | None, encoder: AuditVae | None, stage: Stage
) -> list[Outcome]:
    """Test the teacher and, with an encoder, the prototypes, latent classifier, VAE decoder and denoiser.

    A network that does not leave the site has no test: a codes-only bundle has prototypes and the VAE decoder.

    Args:
        latents: of T and H, scaled.
    """
    sides = sample(data, latents)
    names = [c.name for c in model.bundle.classes]
    order = np.array([names.index(name) for name in data.classes])  # data's label → the bundle's
    labels = [order[side.labels] for side in sides]
    held = len(data.held.labels)
    tests = _teacher(model, sides, labels, held)
    if encoder is None or latents is None:
        reason = "no encoder: give --run RUN, the run from which the bundle was exported"
        parts = ("VAE decoder", "prototypes") if model.codes_only else PARTS
        return [*tests, *(not_run(f"membership of the {part}", reason) for part in parts)]
    tests += _prototypes(model, sides, labels, held)
    if not model.codes_only:
        logits = [logits_of(model.networks.latent_classifier, "latents", _latents(side)) for side in sides]
        scores = [classifier_scores(*both) for both in zip(logits, labels, strict=True)]
        tests += membership_tests("latent classifier", _paired(scores), held=held)
    decoded = [reconstruction_score(side.images, model.decode(_latents(side))) for side in sides]
    tests += membership_tests("VAE decoder", {"reconstruction": Scores(*decoded)}, held=held)
    if model.codes_only:
        return tests
    fewer = sample(data, latents, MOST_DENOISER)
    prompts = model.class_prompts()[order]
    encoded = [(_latents(side), prompts[side.labels]) for side in fewer]
    paired = compare_denoiser(model.denoise, model.bundle.schedule, encoded, stage("scoring the denoiser"))
    return tests + membership_tests("denoiser", paired, held=held)


def _latents(side: AuditSample) -> Float32:
    assert side.latents is not None
    return side.latents


def _teacher(model: Model, sides: Sequence[AuditSample], labels: Sequence[Int64], held: int) -> list[Outcome]:
    if model.teacher is None:
        return []  # the bundle has no teacher
    logits = [logits_of(model.teacher, "images", from_uint8(side.images)) for side in sides]
    scores = [classifier_scores(*both) for both in zip(logits, labels, strict=True)]
    return membership_tests("teacher", _paired(scores), held=held)


def _prototypes(model: Model, sides: Sequence[AuditSample], labels: Sequence[Int64], held: int) -> list[Outcome]:
    latents, owners = model.prototypes()
    if not len(latents):
        return []
    scores = [prototype_score(_latents(s), own, latents, owners) for s, own in zip(sides, labels, strict=True)]
    return membership_tests("prototypes", {"correlation": Scores(*scores)}, held=held)


def _paired(scores: Sequence[dict[str, NDArray[np.floating]]]) -> dict[str, Scores]:
    return {name: Scores(scores[0][name], scores[1][name]) for name in scores[0]}
