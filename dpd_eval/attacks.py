"""Membership tests: what a bundle's networks and students trained on its images tell of the training images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]
from torch import nn

from dpd_eval.audited_model import Model
from dpd_eval.extractors import LARGEST_SIDE, small_pixels
from dpd_eval.recipe import Recipe
from dpd_eval.students import train_student
from dpd_eval.subject import SEED, AuditData, Rows, Subject, check_run
from dpd_eval.verdict import Control, Ends, FewHeld, Outcome, control, decide, not_run
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.engines import Engine
from dpd_runtime.errors import InputError
from dpd_runtime.sampling import Denoise, from_uint8, to_uint8
from dpd_runtime.solvers import Schedule, add_noise, predicted_original
from dpd_runtime.text import counted
from dpd_train.base_files import SHIPPED_BASE
from dpd_train.bases import load_base
from dpd_train.compute import one_thread
from dpd_train.scene_set import SceneSet, to_float
from dpd_train.symmetry import ORDER, d4, unit

# -- Membership: can a network's score tell training images from hold-out images? (docs/reference/privacy.md)


AUC_HARMLESS, AUC_FAIL = 0.55, 0.60
TPR_FAIL = 0.03
FALSE_POSITIVES = 0.01
FEWEST_HELD = 100  # hold-out images; with fewer, one per cent of them is less than one image
Float = NDArray[np.floating]


@dataclass(frozen=True)
class Scores:
    """Scores of training images [a] and of hold-out images [b]; a higher score means a likely member."""

    members: Float
    others: Float


def area_under_curve(members: Float, others: Float) -> float:
    """Return the area under the ROC curve: P(member's score > other's) + ½ P(equal) (Mann & Whitney 1947)."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left") + np.searchsorted(ordered, members, side="right")
    return float(below.mean() / (2 * len(others)))


def true_positive_rate(members: Float, others: Float, false_positives: float = FALSE_POSITIVES) -> float:
    """Return the share of members above the threshold that `false_positives` of the others exceed (2112.03570)."""
    allowed = int(np.floor(false_positives * len(others) + 1e-9))
    if allowed >= len(others):
        return 1.0
    return float((members > np.partition(others, len(others) - 1 - allowed)[len(others) - 1 - allowed]).mean())


def membership_tests(
    name: str, scores: Mapping[str, Scores], *, held: int | None = None, seed: int = 0
) -> list[Outcome]:
    """Test the AUC and the TPR at 1 % FPR of each score; members and others are resampled 1,000 times.

    Args:
        held: hold-out images that there are. If the others are all of them, more would decide what is open.
    """
    tests = []
    for score, values in scores.items():
        tests += _both(f"membership of the {name}, {score}", values, len(values.others) == held, seed)
    return tests


def _both(name: str, scores: Scores, of_held: bool, seed: int) -> list[Outcome]:
    members, others = scores.members, scores.others
    areas, rates = np.empty(REPLICATES), np.empty(REPLICATES)
    for number, generator in enumerate(generators(seed)):
        ours, theirs = members[resampled(len(members), generator)], others[resampled(len(others), generator)]
        areas[number], rates[number] = area_under_curve(ours, theirs), true_positive_rate(ours, theirs)
    note = f"{len(members)} of T, {len(others)} of H"
    area = area_under_curve(members, others)
    ends = percentile_ends(areas)
    tests = [
        decide(f"{name}: AUC", area, ends, AUC_FAIL, harmless=AUC_HARMLESS, note=note, of_held=of_held),
    ]
    rated = f"{name}: TPR at 1 % FPR"
    if len(others) < FEWEST_HELD:
        few = FewHeld(FEWEST_HELD / len(others)) if of_held else None
        return [
            *tests,
            not_run(rated, f"{counted(len(others), 'hold-out image')}: one per cent needs at least {FEWEST_HELD}", few),
        ]
    rate = true_positive_rate(members, others)
    ends = widened(percentile_ends(rates), round(rate * len(members)), len(members))
    return [*tests, decide(rated, rate, ends, TPR_FAIL, note=note, of_held=of_held)]


# -- Percentile intervals from resampled statistics (Efron 1979).


REPLICATES = 1000


def generators(seed: int, count: int = REPLICATES) -> Iterator[np.random.Generator]:
    """Yield one generator per replicate, so that a replicate does not depend on the others."""
    return (np.random.default_rng([seed, number]) for number in range(count))


def resampled(count: int, generator: np.random.Generator) -> Int64:
    """Sample rows [count] with replacement from 0 … count − 1."""
    return generator.integers(count, size=count)


def resampled_by_class(members: list[Int64], generator: np.random.Generator) -> Int64:
    """Sample rows with replacement within each class, so that no class becomes empty."""
    return np.concatenate([rows[resampled(len(rows), generator)] for rows in members])


def percentile_ends(values: NDArray[np.float64]) -> Ends:
    """Return the 2.5th and 97.5th percentile of the replicates [R]."""
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high


def widened(ends: Ends, hits: int, count: int, shift: float = 0.0) -> Ends:
    """The far end of a share's interval, at least that of Clopper and Pearson (1934) for `hits` of `count`.

    The bootstrap of a share without a hit has no width.

    Args:
        shift: subtracted from the share.
    """
    return ends[0], max(ends[1], float(binomtest(hits, count).proportion_ci(0.95, "exact").high) - shift)


def members_of(labels: Int64) -> list[Int64]:
    """Return the rows of each class that occurs."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


# -- Find the VAE encoder that belongs to what is audited. Latents of real images cannot be computed without it.


SAME_DECODER = 0.01  # mean absolute difference of decoded pixels in [-1, 1]; half precision causes 1e-3
PROBES = 4


@dataclass(frozen=True)
class AuditVae:
    """A VAE whose decoder is the audited one. source: where it comes from."""

    vae: AutoencoderKL
    source: str


def find_encoder(subject: Subject, run: Path | None) -> AuditVae | None:
    """Return the run's encoder, or the embedded base's if its decoder is the audited one; None if there is none.

    Raises:
        InputError: `run` is not a run, or its decoder is a different one.
    """
    model = subject.model
    check_run(subject.kind, run)
    if model is None:
        return None
    if subject.kind == "run":
        return _encoder(model.bundle.path / "pipeline", model, "the run's")
    if run is None:
        return _encoder(SHIPPED_BASE, model, "the embedded base's")
    encoder = _encoder(run / "pipeline", model, "the run's")
    if encoder is None:
        raise InputError(f"--run {run}: its VAE decoder is not the bundle's; give the run that it was exported from")
    return encoder


def _encoder(base: Path | str, model: Model, source: str) -> AuditVae | None:
    vae, manifest = load_base(str(base)).vae.eval(), model.bundle.manifest
    channels = int(vae.config.latent_channels)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if (channels, manifest.latent_shape[1] * factor) != (manifest.latent_shape[0], manifest.image_shape[0]):
        return None
    return AuditVae(vae, source) if _same_decoder(vae, model) else None


def _same_decoder(vae: AutoencoderKL, model: Model) -> bool:
    manifest = model.bundle.manifest
    shape = (PROBES, *manifest.latent_shape)
    latents = np.random.default_rng(0).normal(size=shape).astype(np.float32) / np.float32(manifest.scaling_factor)
    with torch.no_grad():
        ours = vae.decode(torch.from_numpy(latents)).sample.numpy()
    theirs = model.networks.decoder.run(latent_sample=latents)
    return ours.shape == theirs.shape and float(np.abs(ours - theirs).mean()) < SAME_DECODER


# -- Membership scores of the classifiers, the prototypes and the VAE, higher for images that they were trained on.


SCORED_PER_CALL = 100


def logits_of(engine: Engine, name: str, inputs: Float32) -> Float32:
    """Compute logits [n, C] in calls of CALL images; name: the graph's input."""
    parts = [engine.run(**{name: inputs[i : i + SCORED_PER_CALL]}) for i in range(0, len(inputs), SCORED_PER_CALL)]
    return np.concatenate(parts)


def classifier_scores(logits: Float32, labels: Int64) -> dict[str, Float]:
    """Return the largest probability, and minus the cross-entropy of the true label (Yeom et al. 2018)."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    logs = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return {"confidence": np.exp(logs.max(axis=1)), "loss": logs[np.arange(len(labels)), labels]}


def prototype_score(latents: Float32, labels: Int64, prototypes: Float32, owners: Int64) -> Float:
    """Return the highest correlation [n] of an image's latent with a prototype of its class; −1 without prototypes.

    A mean of n latents correlates with each of them by about 1/√n, beyond what the class has in common. Differences
    between neighbouring positions are compared, because they are specific to an image while broad colours are not.

    Args:
        latents [n, C, h, w] with labels [n]; prototypes [K, C, h, w] with labels owners [K].
    """
    correlations = np.full(len(latents), -1.0)
    ours, theirs = unit(_steps(latents)), unit(_steps(prototypes))
    for label in np.unique(owners):
        rows = labels == label
        if rows.any():
            correlations[rows] = (ours[rows] @ theirs[owners == label].T).max(axis=1)
    return correlations


def _steps(latents: Float32) -> Float32:
    return np.concatenate([np.diff(latents, axis=a).reshape(len(latents), -1) for a in (2, 3)], axis=1)


def reconstruction_score(images: Images, decoded: Images) -> Float:
    """Return minus the mean squared error [n] of images [n, H, W, C], in grey levels."""
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(images, decoded, strict=True)]
    return -np.array(errors)


# -- Three membership scores of a denoiser, each higher for images that it was trained on.
#
# loss: error of the predicted noise (Matsumoto et al. 2023, 2302.03262). PIA: consistency of the predicted noise with
# the noise that the network predicts for the clean image (Kong et al. 2024, 2305.18355). SecMI: error of one step forth
# and back on the deterministic path (Duan et al. 2023, 2302.01316).


LOSS_TIMES = (0.1, 0.2, 0.3, 0.4)  # as shares of the timesteps
PIA_TIME, PIA_NORM = 0.2, 4  # as the paper's t = 200 and ℓ4
SECMI_TIME, SECMI_STRIDE = 0.1, 0.01  # as the paper's t = 100 in strides of 10


@dataclass(frozen=True)
class Query:
    """A denoiser, and the latents [n, C, h, w] with prompts [n, L, D] that it is scored on.

    Args:
        called: called after every network call.
    """

    denoise: Denoise
    schedule: Schedule
    latents: Float32
    prompts: Float32
    called: Callable[[], None] = lambda: None

    def at(self, share: float) -> int:
        """Return the timestep at this share of all timesteps."""
        return min(round(share * self.schedule.num_train_timesteps), self.schedule.num_train_timesteps - 1)

    def noise(self, latents: Float32, timestep: int) -> Float32:
        """Predict the noise ε̂ of noisy latents, converted from whatever the network predicts."""
        output: Float32 = self.denoise(latents, timestep, self.prompts)
        self.called()
        alpha, sigma = self.schedule.alpha_sigma(timestep)
        kind = self.schedule.prediction_type
        if kind == "epsilon":
            return output
        noise = sigma * latents + alpha * output if kind == "v_prediction" else (latents - alpha * output) / sigma
        return noise.astype(np.float32)

    def moved(self, latents: Float32, start: int, end: int) -> Float32:
        """Take one deterministic step from timestep `start` to `end` (DDIM, 2010.02502, eq. 12 without noise)."""
        alpha, sigma = self.schedule.alpha_sigma(start)
        noise = self.noise(latents, start)
        original = predicted_original(latents, noise, "epsilon", alpha, sigma)
        return add_noise(original, noise, *self.schedule.alpha_sigma(end))


def loss_score(query: Query, seed: int) -> Float:
    """Return minus the mean of ‖ε − ε̂‖² over four noises, one per timestep."""
    rng = np.random.default_rng(seed)
    errors = np.zeros(len(query.latents))
    for share in LOSS_TIMES:
        timestep = query.at(share)
        noise = rng.normal(size=query.latents.shape).astype(np.float32)
        noisy = add_noise(query.latents, noise, *query.schedule.alpha_sigma(timestep))
        errors += _mean_square(query.noise(noisy, timestep) - noise)
    return -errors / len(LOSS_TIMES)


def pia_score(query: Query) -> Float:
    """Return −‖ε̄ − ε̂(√ᾱ_t z0 + √(1−ᾱ_t) ε̄, t)‖₄ with ε̄ = ε̂(z0, 0)."""
    timestep = query.at(PIA_TIME)
    seen = query.noise(query.latents, 0)
    noisy = add_noise(query.latents, seen, *query.schedule.alpha_sigma(timestep))
    difference = np.abs(query.noise(noisy, timestep) - seen).reshape(len(seen), -1).astype(np.float64)
    scores: Float = -((difference**PIA_NORM).mean(axis=1) ** (1 / PIA_NORM))
    return scores


def secmi_score(query: Query) -> Float:
    """Return minus the t-error: follow the deterministic path to t, then one stride further and back."""
    stride = max(1, query.at(SECMI_STRIDE))
    last = max(stride, query.at(SECMI_TIME))
    latents, timestep = query.latents, 0
    while timestep + stride <= last:
        latents = query.moved(latents, timestep, timestep + stride)
        timestep += stride
    back = query.moved(query.moved(latents, timestep, timestep + stride), timestep + stride, timestep)
    return -_mean_square(back - latents)


def _mean_square(values: Float32) -> Float:
    means: Float = np.square(values.astype(np.float64)).mean(axis=(1, 2, 3))
    return means


def denoiser_scores(
    denoise: Denoise,
    schedule: Schedule,
    latents: Float32,
    prompts: Float32,
    *,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> dict[str, Float]:
    """Compute all three scores [n] of latents [n, C, h, w] with prompts [n, L, D]."""
    count = 0

    def called() -> None:
        nonlocal count
        count += 1
        progress(min(count, CALLS), CALLS)

    query = Query(denoise, schedule, latents, prompts, called)
    return {"loss": loss_score(query, seed), "PIA": pia_score(query), "SecMI": secmi_score(query)}


CALLS = len(LOSS_TIMES) + 2 + round(SECMI_TIME / SECMI_STRIDE) + 2


# -- Membership tests of every network in the bundle or run.


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


# -- Membership by students: do networks trained on the released images know the training images better than others?
#
# The score of an image is the log-odds of its class (Carlini et al. 2022, §IV.C) by students of the released images
# minus those by students of as many images of H1 (calibration by difficulty, Watson et al. 2022). Members are random
# images of T, the others are H2: what the set tells of all its training images. An image that the set repeats is what
# replication finds; among as many others it hardly moves these figures. Their note says what students of copies would
# score, and where these would pass too, a PASS says nothing and is a WARN. Larger images are reduced to 64 px, as the
# time of the six students grows with the pixels.


NAME = "students of the generated images"
REPLAYED, CALIBRATION = "students of T replayed", "students of H1 alone"
STUDENT, STUDENTS = "convnet", 2
FEWEST = 50  # images in each half of H
CALL = 256
EPOCHS = 77  # 600 steps of 64 for 500 images. 600 for 1,500 copies gave an AUC of 0.60 only, 1,800 give 0.68 (EuroSAT)
Float64 = NDArray[np.float64]
RECIPE = Recipe(
    name="attack",
    steps=300,
    batch=64,
    optimizer="adamw",
    peak_rate=3e-3,
    warmup=50,
    weight_decay=0.05,
    d4=False,
    precision="bf16",
)
"""Nothing that would hide what a set knows: no smoothing, symmetries, shifts or mixing."""


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [n, S, S, C] with labels [n] in the data's order."""

    images: Images
    labels: Int64

    def drawn(self, counts: Int64, seed: int) -> "LabelledImages":
        """At most counts[c] random images of each class c."""
        rng = np.random.default_rng([SEED, seed])
        of_class = (np.flatnonzero(self.labels == label) for label in range(len(counts)))
        rows = np.concatenate([rng.permutation(rows)[:n] for rows, n in zip(of_class, counts, strict=True)])
        return LabelledImages(self.images[rows], self.labels[rows])

    @property
    def small(self) -> "LabelledImages":
        """The same at no more than LARGEST_SIDE pixels."""
        if self.images.shape[1] <= LARGEST_SIDE:
            return self
        return replace(self, images=to_uint8(small_pixels(self.images).numpy()))


def student_tests(
    released: LabelledImages, data: AuditData, progress: Progress, *, recipe: Recipe = RECIPE, device: str = "cpu"
) -> tuple[list[Outcome], list[Control]]:
    """Attack the released images.

    Controls: students of T must give away the very images that they were trained on (FAIL). Those of H1 alone must tell
    T from H2 as little as chance (PASS), or the calibration would make a difference of its own.

    Returns:
        NOT RUN for all if there is one class only, or a half of H has fewer than FEWEST images.
    """
    classes, released = len(data.classes), released.small
    train = LabelledImages(data.train.images, data.train.labels).small
    first, second = (_part(data, rows) for rows in (data.first, data.second))
    if reason := _hindrance(classes, len(first.labels)):
        few = FewHeld(FEWEST / len(first.labels)) if classes > 1 else None
        missing = [not_run(f"membership of the {name}", reason, few) for name in (NAME, REPLAYED, CALIBRATION)]
        return missing[:1], [control(missing[1], "FAIL"), control(missing[2], "PASS")]
    counts = [np.bincount(part.labels, minlength=classes) for part in (released, first, train, second)]
    each, both = np.min(counts, axis=0), np.minimum(*counts[2:])
    copied = train.drawn(each, 2)
    groups = []
    for done, part in enumerate((released.drawn(each, 3), first.drawn(each, 4), copied)):
        groups.append(students_of(part, classes, recipe, device))
        progress(done + 1, 3)
    of_released, of_held, of_copies = groups
    parts = (train.drawn(both, 0), second.drawn(both, 1), copied, second.drawn(each, 5))
    members, others, known, strangers = ((part, log_odds(of_held, part)) for part in parts)

    def attack(name: str, students: Sequence[nn.Module], *sides: tuple[LabelledImages, Float64]) -> list[Outcome]:
        scores = (log_odds(students, part) - expected for part, expected in sides)
        return membership_tests(name, {"log-odds": Scores(*scores)}, held=len(second.labels))

    tests = attack(NAME, of_released, members, others)
    if_copied = attack(NAME, of_copies, members, others)
    replayed = attack(REPLAYED, of_copies, known, strangers)
    alone = membership_tests(CALIBRATION, {"log-odds": Scores(-members[1], -others[1])})
    controls = [control(test, "FAIL") for test in replayed if test.name.endswith("AUC")]
    controls += [control(test, "PASS") for test in alone if test.name.endswith("AUC")]
    return [_with_power(*both) for both in zip(tests, if_copied, strict=True)], controls


def _with_power(test: Outcome, if_copied: Outcome) -> Outcome:
    """The test, with what it would score if the set were copies of T. A PASS that copies would have too is a WARN."""
    if if_copied.value is None:
        return test
    note = f"{test.note}; {if_copied.value:.3f} if the set were copies of T"
    if test.verdict == if_copied.verdict == "PASS":
        return replace(
            test,
            verdict="WARN",
            few=None,
            note=f"{note}, so it cannot FAIL: give more images of a class, here and in the hold-out",
        )
    return replace(test, note=note)


def _part(data: AuditData, rows: Rows) -> LabelledImages:
    return LabelledImages(data.held.images[rows], data.held.labels[rows]).small


def _hindrance(classes: int, half: int) -> str:
    if classes < 2:
        return "students need two classes"
    if half < FEWEST:
        return f"students need {FEWEST} images in each half of the hold-out, which has {half}: give more"
    return ""


def students_of(part: LabelledImages, classes: int, recipe: Recipe = RECIPE, device: str = "cpu") -> list[nn.Module]:
    """Students trained for the recipe's steps or EPOCHS, whichever is more, each with a seed of its own."""
    images, labels = part.images, part.labels
    if EPOCHS * len(images) > recipe.steps * recipe.batch:
        recipe = replace(recipe, steps=0, epochs=EPOCHS)
    with one_thread():
        seeds = range(SEED, SEED + STUDENTS)
        return [train_student(STUDENT, images, labels, classes, recipe, seed, device=device) for seed in seeds]


@torch.no_grad()
def log_odds(students: Sequence[nn.Module], part: LabelledImages) -> Float64:
    """ln(p / (1 − p)) [n] of each image's class, the mean over students, in the view (D4) where it is highest.

    It is the class's logit minus the log-sum-exp of the others, which has no rounding near p = 1. A set may hold an
    image turned: of 500 copies turned at random the highest of eight views gives an AUC of 0.73, one view 0.59
    (EuroSAT).
    """
    values = np.empty(len(part.labels))
    for start in range(0, len(part.labels), CALL):
        pixels = to_float(torch.from_numpy(np.ascontiguousarray(part.images[start : start + CALL])))
        labels = torch.from_numpy(part.labels[start : start + CALL])[:, None]
        views = [d4(pixels, element) for element in range(ORDER)]
        odds = [torch.stack([_log_odds(student(view), labels) for student in students]).mean(0) for view in views]
        values[start : start + CALL] = torch.stack(odds).amax(0).numpy()
    return values


def _log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = logits.double()
    rest = logits.scatter(1, labels, -torch.inf).logsumexp(1)
    return logits.gather(1, labels)[:, 0] - rest
