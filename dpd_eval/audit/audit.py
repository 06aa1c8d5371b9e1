"""`audit`: run all tests and controls on a bundle, a run or a distilled set, and give one verdict."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpd_eval.audit.artefacts.artefact import Traces
from dpd_eval.audit.artefacts.scan import NAME as ARTEFACTS
from dpd_eval.audit.artefacts.scan import artefact_test, scan
from dpd_eval.audit.comparable import comparable_test
from dpd_eval.audit.comparison import yardstick, yardstick_through_vae
from dpd_eval.audit.controls import (
    AVERAGED_CODES,
    OVERFITTED,
    averaged_codes_control,
    overfitted_control,
    set_controls,
    without_encoder,
)
from dpd_eval.audit.data import AuditData, read_data
from dpd_eval.audit.encoder import AuditVae, find_encoder
from dpd_eval.audit.explain import reasons, summary
from dpd_eval.audit.kind import check_further, check_inputs
from dpd_eval.audit.model import Model
from dpd_eval.audit.network_tests import Stage, network_tests
from dpd_eval.audit.outcome import FEWEST_IMAGES, Control, Outcome, not_run, overall
from dpd_eval.audit.record import Audit, Audited, ComparedImages
from dpd_eval.audit.set_tests import AuditedImages, near_copies, set_tests
from dpd_eval.audit.spaces import further_space, structure_space, teacher_space
from dpd_eval.audit.student_attack import LabelledImages, student_tests
from dpd_eval.audit.subject import Subject, open_subject, reading_of, with_images
from dpd_eval.extractors.choice import build_extractor, check_extractor_bands
from dpd_eval.extractors.extractor import Extractor
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.files import cache_folder
from dpd_runtime.machine.versions import package_versions
from dpd_runtime.text import counted
from dpd_train.bases.latents import encode_cached
from dpd_train.compute.device import use_device
from dpd_train.held_out import BY_CONTENT, HeldOut
from dpd_train.images import PLAIN, Reading
from dpd_train.remarks import bundle_remarks

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
    path: Path,
    *,
    train: Path,
    holdout: Path | None = None,
    run: Path | None = None,
    held_out: HeldOut = BY_CONTENT,
    images: int | None = None,
    seed: int | None = None,
    reading: Reading = PLAIN,
    extractor: str | None = None,
    private: Path | None = None,
    cache: Path | None = None,
    device: str = "cpu",
    stage: Stage = lambda title: lambda done, total: None,
) -> Audit:
    """Measure what `path` reveals about the images it was trained on.

    Args:
        path: a bundle, a run directory or a distilled set.
        train: the training images T: the training part without the validation part (`held_out`).
        holdout: images H of the same distribution that were never trained on; None takes the validation part.
        run: the run from which the bundle was exported; its VAE includes the encoder.
        reading: of T and H; if it says nothing, a bundle of other bands than RGB is compared as its run read them.
        images: number of images to generate and test; None for FEWEST_IMAGES. Of a set all are tested.
        seed: for generating them; None for 0.
        extractor: as in `build_extractor`, whose features are compared in addition. The audit's own spaces stay, so
            that no choice of features makes a verdict milder.
        private: folder for pictures and findings that show real images; None takes the run's private/audit, if any.
        cache: folder for the extractor, latents and the control; None takes the user's cache directory.
        device: where the extractor and students are trained: cpu, cuda or auto, which takes CUDA if it works.

    Raises:
        InputError, DataError, BundleError: unusable arguments, data or bundle; other bands in T than in the subject.
        DiskError: the cache cannot be written.
    """
    started = time.monotonic()
    check_inputs(path, train, holdout, run=run, held_out=held_out, images=images, seed=seed)
    check_further(extractor)
    place = use_device(device).type
    subject = open_subject(path)
    encoder = find_encoder(subject, run)
    home = path if subject.kind == "run" else run
    data = read_data(
        train,
        holdout,
        classes=subject.classes,
        resolution=subject.side,
        held_out=held_out,
        reading=reading_of(subject, home, reading),
    )
    subject = with_images(subject, path, data.train)
    if extractor is not None:
        check_extractor_bands(extractor, data.train)
    private = private or (None if home is None else home / "private" / "audit")
    extractors, encoded, controls_folder = _folders(cache)
    latents = None if encoder is None else _encode(encoder, data, encoded, stage)
    roots = tuple(folder for folder in (train, holdout) if folder is not None)
    work = _Work(subject, data, roots, encoder, latents, private, controls_folder, place, stage)
    images, seed = FEWEST_IMAGES if images is None else images, seed or 0
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
            held_out.val_per_class,
            held_out.split,
        ),
        encoder=None if encoder is None else encoder.source,
        extractor=networks[0].description if networks else None,
        further_extractor=networks[1].description if len(networks) > 1 else None,
        versions=package_versions("dpd-distill", "torch", "numpy", "onnxruntime"),
        seconds=round(time.monotonic() - started, 1),
        private=private,
    )


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
