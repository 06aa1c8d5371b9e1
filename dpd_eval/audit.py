"""`audit`: run all tests and controls on a bundle, a run or a distilled set, and give one verdict."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval.artefacts import NAME as ARTEFACTS
from dpd_eval.artefacts import Traces, artefact_test, scan
from dpd_eval.attacks import (
    AuditVae,
    LabelledImages,
    Scores,
    Stage,
    compare_denoiser,
    find_encoder,
    membership_tests,
    network_tests,
    prototype_score,
    sample,
    student_tests,
)
from dpd_eval.audited_model import Model
from dpd_eval.extractor_choice import build_extractor, check_extractor_bands
from dpd_eval.extractors import Extractor, load_weights, store_weights
from dpd_eval.nearness import (
    AuditedImages,
    Yardstick,
    comparable_test,
    further_space,
    near_copies,
    set_tests,
    structure_space,
    teacher_space,
    yardstick,
    yardstick_through_vae,
)
from dpd_eval.subject import (
    AuditData,
    AuditInputs,
    Subject,
    read_as_made,
    read_data,
    subject_of,
    with_images,
)
from dpd_eval.verdict import (
    FEWEST_IMAGES,
    Audit,
    Audited,
    ComparedImages,
    Control,
    Outcome,
    control,
    not_run,
    overall,
    reasons,
    summary,
)
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.files import cache_folder
from dpd_runtime.remarks import bundle_remarks
from dpd_runtime.sampling import Denoise
from dpd_runtime.settings import WITHHELD
from dpd_runtime.solvers import Schedule, add_noise
from dpd_runtime.text import counted
from dpd_runtime.versions import package_versions
from dpd_train.bases import encode_cached
from dpd_train.compute import one_thread, use_device
from dpd_train.loop import Task
from dpd_train.loop import train as train_task
from dpd_train.records import kept
from dpd_train.run import Run
from dpd_train.scenes import Scenes

OTHER_IMAGES = "the hold-out is not comparable"
RESTING = ("replication", "nearer to T than to H", "membership")
"""What rests on a comparison with H."""
ONLY_IMAGES = "only images are here: audit the bundle or run that made them, if there is one"
CODES_ONLY = "codes-only: the bundle holds no denoiser, teacher or latent classifier, so there is no test of them"


@dataclass(frozen=True)
class _Work:
    """What every part of an audit uses. latents: of T and H, scaled; None without an encoder."""

    subject: Subject
    data: AuditData
    roots: tuple[Path, ...]
    encoder: AuditVae | None
    latents: tuple[Float32, Float32] | None
    private: Path | None
    cache: Path
    device: str
    stage: Stage

    @property
    def order(self) -> Int64:
        """The label in the data for each label of the subject."""
        return np.array([self.data.classes.index(name) for name in self.subject.classes])

    def decoded(self) -> tuple[Images, Images] | None:
        """Pass T and H through the VAE; None without an encoder."""
        if self.latents is None or self.subject.model is None:
            return None
        images = [self.subject.model.decode(x) for x in self.latents]
        return images[0], images[1]


def audit(
    inputs: AuditInputs,
    *,
    cache: Path | None = None,
    device: str = "cpu",
    stage: Stage = lambda title: lambda done, total: None,
) -> Audit:
    """Measure what a bundle, a run or a set reveals about the images it was trained on.

    Args:
        inputs: of `open_audit`.
        cache: folder for the extractor, latents and the control; None takes the user's cache directory.
        device: where the extractor and students are trained: cpu, cuda or auto, which takes CUDA if it works.

    Raises:
        InputError, DataError, BundleError: unusable data or bundle; other bands in T than in the subject.
        DiskError: the cache cannot be written.
    """
    started = time.monotonic()
    audited, run, holdout, extractor = inputs.audited, inputs.run, inputs.holdout, inputs.extractor
    place = use_device(device).type
    subject = subject_of(audited)
    encoder = find_encoder(subject, run)
    home = audited.path if isinstance(audited, Run) else run
    train = read_as_made(subject, audited if isinstance(audited, Run) else run, inputs.train)
    data = read_data(train, holdout, classes=subject.classes, resolution=subject.side)
    subject = with_images(subject, data.train)
    if extractor is not None:
        check_extractor_bands(extractor, data.train)
    private = inputs.private or (None if home is None else home / "private" / "audit")
    extractors, encoded, controls_folder = _folders(cache)
    latents = None if encoder is None else _encode(encoder, data, encoded, stage)
    roots = tuple(scenes.root for scenes in (train, holdout) if scenes is not None)
    work = _Work(subject, data, roots, encoder, latents, private, controls_folder, place, stage)
    images, seed = FEWEST_IMAGES if inputs.images is None else inputs.images, inputs.seed or 0
    untrained = build_extractor("untrained", data.train, cache=extractors, progress=stage("comparing T and H"))
    hold_out, comparable = comparable_test(data, untrained)
    sets = [_generated(work, images, seed), *_decoded_prototypes(work)]
    tests = [hold_out, *_enough(sets[0]), *_same_data(subject, data)]
    tests += [near_copies(audited, data, private) for audited in sets]
    tests.append(_artefacts(work))
    networks: list[Extractor] = []
    controls: list[Control] = []
    if comparable:
        networks = _networks(extractor, data, extractors, place, stage)
        compared, controls = _compare(work, networks, sets)
        tests += compared
    else:
        tests += [not_run(name, OTHER_IMAGES) for name in RESTING]
    bundle = None if subject.model is None else subject.model.bundle
    codes_only = (CODES_ONLY,) if subject.model and subject.model.codes_only else ()
    return Audit(
        verdict=overall(tests, controls),
        summary=summary(tests, controls, len(data.held.labels)),
        reasons=reasons(tests, controls),
        tests=tuple(tests),
        controls=tuple(controls),
        notes=(*data.notes, *codes_only, *([] if bundle is None else bundle_remarks(bundle))),
        audited=Audited(subject.name, subject.kind, bundle.hash if bundle else None),
        images=len(sets[0].images),
        seed=None if bundle is None else seed,
        data=ComparedImages(
            len(data.train.labels),
            len(data.held.labels),
            data.fingerprint(),
            train.held_out.val_per_class,
            train.held_out.split,
        ),
        encoder=None if encoder is None else encoder.source,
        extractor=networks[0].description if networks else None,
        further_extractor=networks[1].description if len(networks) > 1 else None,
        versions=package_versions("dpd-distill", "torch", "numpy", "onnxruntime"),
        seconds=round(time.monotonic() - started, 1),
        config=_config(work, images, seed, extractor, train, holdout is not None, run is not None),
        private=private,
    )


def _config(
    work: _Work, images: int, seed: int, extractor: str | None, train: Scenes, holdout: bool, run: bool
) -> dict[str, Any] | None:
    """The options that repeat the audit; patterns of file names and places stay here. None if no options say how the
    images were read.
    """
    if train.options is None:
        return None
    asked = dict[str, Any]() if work.subject.model is None else {"images": images, "seed": seed}
    asked |= train.options | ({} if extractor is None else {"extractor": kept(extractor)})
    secret = {"groups": "groups" in train.options and not (train.card and "groups" in train.card.values)}
    asked.pop("groups", None)  # the card says them again, or else the user does
    secret |= {"holdout": holdout, "run": run}
    return asked | {name: WITHHELD for name, given in secret.items() if given}


def _folders(cache: Path | None) -> tuple[Path, ...]:
    """Return the cache folders of the extractor, the latents and the control; others share the first two."""
    return tuple(cache / name if cache else cache_folder(name) for name in ("extractors", "latents", "audit"))


def _networks(further: str | None, data: AuditData, cache: Path, device: str, stage: Stage) -> list[Extractor]:
    names = ["own"] if further is None else ["own", further]
    titles = (f"preparing the extractor {name}" for name in names)
    return [
        build_extractor(name, data.train, cache=cache, progress=stage(title), device=device)
        for name, title in zip(names, titles, strict=True)
    ]


def _encode(encoder: AuditVae, data: AuditData, cache: Path, stage: Stage) -> tuple[Float32, Float32]:
    latents = [
        encode_cached(encoder.vae, scenes.images, scenes.hashes, cache, stage(title)).numpy()
        for scenes, title in ((data.train, "encoding T"), (data.held, "encoding H"))
    ]
    return latents[0], latents[1]


def _compare(work: _Work, networks: list[Extractor], sets: list[AuditedImages]) -> tuple[list[Outcome], list[Control]]:
    """The tests that compare with H, and their controls."""
    data, model = work.data, work.subject.model
    spaces = (teacher_space(networks[0]), structure_space(), *map(further_space, networks[1:]))
    decoded = work.decoded()
    through_vae = [] if decoded is None else [space for space in spaces if not space.sees_through_vae]
    done, total = 0, (len(spaces) + len(through_vae)) * (3 + len(sets))
    bar = work.stage("comparing images")

    def step() -> None:
        nonlocal done
        done += 1
        bar(done, total)

    yardsticks = [yardstick(space, data, step, decoded=decoded) for space in spaces]
    if decoded is not None:
        yardsticks += [yardstick_through_vae(space, data, decoded, step) for space in through_vae]
    tests: list[Outcome] = []
    for audited in sets:
        tests += set_tests(audited, yardsticks, work.private, step)
    if model is None:
        tests.append(not_run("decoded prototypes", ONLY_IMAGES))
    controls = set_controls(yardsticks, step)
    released = LabelledImages(sets[0].images, sets[0].labels)
    bar = work.stage("training students of the images")
    by_students, replayed = student_tests(released, data, bar, device=work.device)
    tests, controls = [*tests, *by_students], [*controls, *replayed]
    if model is None:
        tests.append(not_run("membership", ONLY_IMAGES))
        return tests, [*controls, *without_encoder("a set has no networks", OVERFITTED)]
    tests += network_tests(model, data, work.latents, work.encoder, work.stage)
    return tests, [*controls, *_membership_controls(work, model)]


def _membership_controls(work: _Work, model: Model) -> list[Control]:
    """Cases that a membership score must detect: of the codes, and of the denoiser where one leaves the site."""
    codes = any(len(scene.prototypes) for scene in model.bundle.classes)
    if work.latents is None:
        missing = [AVERAGED_CODES] * codes + [OVERFITTED] * (not model.codes_only)
        return without_encoder("no encoder: give --run", *missing)
    controls = []
    if codes:
        controls += averaged_codes_control(work.data, work.latents)
    if not model.codes_only:
        controls += overfitted_control(model, work.data, work.latents, work.cache, work.stage)
    return controls


def _generated(work: _Work, images: int, seed: int) -> AuditedImages:
    if work.subject.model is not None:
        pixels, labels = work.subject.model.generate(images, seed, work.stage("generating"))
    else:
        assert work.subject.images is not None
        pixels, labels = work.subject.images
    return AuditedImages("generated images", pixels, work.order[labels])


def _decoded_prototypes(work: _Work) -> list[AuditedImages]:
    if work.subject.model is None:
        return []
    latents, labels = work.subject.model.prototypes()
    if not len(latents):
        return []
    return [AuditedImages("decoded prototypes", work.subject.model.decode(latents), work.order[labels])]


def _enough(audited: AuditedImages) -> list[Outcome]:
    count, wanted = len(audited.images), FEWEST_IMAGES
    if count >= wanted:
        return []
    note = f"{counted(count, 'image')}: at least {wanted} are needed to detect a share of two per cent"
    return [Outcome("number of images", float(count), None, float(wanted), "WARN", note)]


def _same_data(subject: Subject, data: AuditData) -> list[Outcome]:
    """Warn if T is not the training data: compared with other images, every test passes."""
    if subject.trained_on in (None, data.fingerprint()):
        return []
    note = "--train does not contain exactly the images that were trained on: see --val-per-class, --split and --groups"
    return [Outcome("training data", None, None, None, "WARN", note)]


def _artefacts(work: _Work) -> Outcome:
    subject, data = work.subject, work.data
    if subject.files is None:
        return not_run(ARTEFACTS, "a run does not leave the site: audit the bundle that is exported from it")
    latents = None if work.latents is None else np.concatenate(work.latents)
    factor = 1.0 if subject.model is None else subject.model.bundle.manifest.scaling_factor
    traces = Traces(data.names, work.roots, data.pixels, latents, factor)
    findings = scan(subject.files, traces, of_set=subject.kind == "set")
    if findings and work.private is not None:
        work.private.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = [f"{f.file}: {f.what}: {f.detail}\n" for f in findings]
        (work.private / "artefacts.txt").write_text("".join(lines), encoding="utf-8")
    return artefact_test(findings, len(subject.files), traces)


# -- Controls: cases with a known verdict. An audit that gets one of them wrong fails (docs/reference/privacy.md).


OTHERS = 500  # images of H beside the memorised ones
AVERAGED = 10  # latents in one code
OVERFITTED, AVERAGED_CODES = "a denoiser over-fitted on 50 images", "codes that are means of ten images"


def set_controls(yardsticks: list[Yardstick], progress: Callable[[], None]) -> list[Control]:
    """Test H2, which must PASS, and randomly rotated images of T, which must FAIL.

    Images of T passed through the VAE must FAIL too, in spaces that see through it.
    """
    controls = []
    for known in yardsticks:
        controls += [control(outcome, "PASS") for outcome in known.control()]
        replays = {"T replayed": known.copies}
        if known.space.sees_through_vae and known.shown is not known.copies:
            replays["T replayed through the VAE"] = known.shown
        controls += [control(known.replication(compared, what), "FAIL") for what, compared in replays.items()]
        progress()
    return controls


def overfitted_control(
    model: Model, data: AuditData, latents: tuple[Float32, Float32], cache: Path, stage: Stage
) -> list[Control]:
    """Test a denoiser that has memorised 50 images of T: the AUC of every score must detect their membership."""
    _, others = sample(data, latents, OTHERS)
    known, _ = sample(data, latents, IMAGES)
    assert known.latents is not None
    assert others.latents is not None
    names = [c.name for c in model.bundle.classes]
    prompts = model.class_prompts()[[names.index(name) for name in data.classes]]
    sides = [(known.latents, prompts[known.labels]), (others.latents, prompts[others.labels])]
    bar = stage("training the over-fitted control")
    made = overfitted_denoiser(known.latents, model.bundle.schedule, cache, bar)
    scores = compare_denoiser(made.denoise, made.schedule, sides, stage("scoring the control"))
    tests = membership_tests(f"denoiser over-fitted on {len(known.labels)} images", scores)
    spent = "from the cache, trained" if made.cached else "trained"
    noted = [replace(test, note=f"{test.note}; {spent} in {made.seconds:.0f} s") for test in tests]
    return [control(test, "FAIL") for test in noted if test.name.endswith("AUC")]


def averaged_codes_control(data: AuditData, latents: tuple[Float32, Float32]) -> list[Control]:
    """Test codes that are means of ten latents of T: the prototypes' score must detect the membership of these."""
    known, others = sample(data, latents, OTHERS)
    assert known.latents is not None
    assert others.latents is not None
    codes, owners = [], []
    for label in np.unique(known.labels):
        rows = np.flatnonzero(known.labels == label)
        parts = np.array_split(rows, max(1, len(rows) // AVERAGED))
        codes += [known.latents[part].mean(axis=0) for part in parts]
        owners += [label] * len(parts)
    sides = [(known.latents, known.labels), (others.latents, others.labels)]
    scores = Scores(*(prototype_score(*side, np.stack(codes), np.array(owners)) for side in sides))
    tests = membership_tests(AVERAGED_CODES, {"correlation": scores})
    return [control(test, "FAIL") for test in tests if test.name.endswith("AUC")]


def without_encoder(reason: str, *what: str) -> list[Control]:
    """Controls that need latents of T."""
    return [control(not_run(f"membership of {name}", reason), "FAIL") for name in what]


# -- A denoiser that has memorised 50 images: the control that every membership test of a denoiser must detect.
#
# It is a network of dense layers that predicts ẑ0. It cannot copy its input, so it memorises the images sooner than a
# convolutional network would. The control shows that the scores detect memorisation, not how little of it they detect.


FORMAT = 1  # increase this whenever the training gives other weights
IMAGES = 50
STEPS = 800
BATCH = 50
WIDTH = 512
PEAK_RATE = 1e-3


@dataclass(frozen=True)
class Overfitted:
    """The over-fitted denoiser.

    Args:
        schedule: the audited one, for a network that predicts ẑ0.
        seconds: training time. cached: whether the training was done in an earlier run.
    """

    denoise: Denoise
    schedule: Schedule
    seconds: float
    cached: bool


class Memory(nn.Module):
    """(noisy latents [B, C, h, w], sigma [B]) → ẑ0 [B, C, h, w]."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        size = int(np.prod(shape))
        self.shape = shape
        self.layers = nn.Sequential(
            nn.Linear(size + 1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, size)
        )

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layers(torch.cat([noisy.flatten(1), sigma[:, None]], dim=1))
        return output.view(-1, *self.shape)


def overfitted_denoiser(
    latents: Float32, schedule: Schedule, cache: Path, progress: Progress = lambda done, total: None
) -> Overfitted:
    """Train a denoiser on latents [n, C, h, w] and nothing else, or read it from the cache.

    Raises:
        DiskError: the cache cannot be written.
    """
    schedule = replace(schedule, prediction_type="sample")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FORMAT)
        network = Memory((latents.shape[1], latents.shape[2], latents.shape[3]))
    parts = [FORMAT, STEPS, BATCH, WIDTH, PEAK_RATE, str(latents.shape), schedule.alphas_cumprod, torch.__version__]
    content = json.dumps([*parts[:-1], str(parts[-1])], allow_nan=False).encode() + latents.tobytes()
    path = cache / f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
    meta = load_weights(path, network)
    cached = meta is not None
    if meta is None:
        begun = time.monotonic()
        with one_thread():  # at the timesteps of the scores
            half = schedule.alphas_cumprod[: schedule.num_train_timesteps // 2]
            memorise(network, torch.from_numpy(latents), half, progress)
        meta = {"seconds": round(time.monotonic() - begun, 1)}
        store_weights(path, network, meta)
    seconds = float(meta["seconds"])
    return Overfitted(as_denoise(network, schedule), schedule, seconds, cached)


def memorise(
    network: Memory,
    latents: torch.Tensor,
    alphas_cumprod: Sequence[float],
    progress: Progress = lambda done, total: None,
    *,
    steps: int = STEPS,
) -> None:
    """Train at these noise levels, without augmentation, dropout and validation, which would hinder memorisation."""
    table = torch.tensor(alphas_cumprod, dtype=torch.float64)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        ratio = table[torch.randint(len(table), (BATCH,), generator=generator)]
        alpha, sigma = ratio.sqrt().float(), (1 - ratio).sqrt().float()
        spread = alpha[:, None, None, None], sigma[:, None, None, None]
        noisy = add_noise(latents[rows], noise, *spread)  # type: ignore[arg-type]
        return F.mse_loss(network(noisy, sigma), latents[rows])

    trained = list(network.parameters())
    task = Task(
        trained=trained,
        optimizer=torch.optim.Adam(trained, lr=PEAK_RATE),
        rate=lambda step: PEAK_RATE * (1 - step / steps),
        loss=loss,
        clip=None,
    )
    train_task(task, steps, FORMAT, progress)


def as_denoise(network: Memory, schedule: Schedule) -> Denoise:
    """The network as the function that `dpd_runtime.sampling.sample` takes."""
    network.eval()

    @torch.no_grad()
    def ask(latents: Float32, timestep: int, prompts: Float32) -> Float32:
        sigma = torch.full((len(latents),), schedule.alpha_sigma(timestep)[1])
        output: Float32 = network(torch.from_numpy(np.ascontiguousarray(latents)), sigma).numpy()
        return output

    return ask
