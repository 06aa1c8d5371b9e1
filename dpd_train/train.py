"""`dpd train`: a labelled scene set → a run directory (docs/guides/train.md)."""

import logging
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_runtime.files import cache_folder, worked_in
from dpd_runtime.remarks import network_remarks
from dpd_train.base_files import check_base_bands
from dpd_train.bases import Base, load_base
from dpd_train.captioners import check_captioner
from dpd_train.compute import Deadline, TimeUp
from dpd_train.config import AUTO, OWN, TrainConfig, for_bands
from dpd_train.context import (
    Classifiers,
    RunData,
    Trained,
    Training,
    assist,
    fitted,
    read_parts,
    rows_by_class,
    run_record,
    write_record,
    write_run,
)
from dpd_train.distributed import ALONE, Team, Word
from dpd_train.doors import OtherTuning
from dpd_train.model_files import public_name
from dpd_train.networks_here import licence_remarks, networks_here, remarks, settled
from dpd_train.published import check_published, decoder_judge, tried
from dpd_train.records import RunRecord
from dpd_train.run import check_inputs, match_config
from dpd_train.samples import Stage
from dpd_train.scene_set import fingerprint, write_quarantine
from dpd_train.scenes import Scenes
from dpd_train.stages import (
    Announce,
    code_sheet,
    fine_tuned,
    make_prototypes,
    metrics,
    prompts,
    prototype_sheets,
    sample_sheet,
    stages_ahead,
    train_latent_classifier,
    train_teacher,
    tuned_here,
    wants_tuning,
    with_prototype_kind,
    with_tuned_decoder,
    with_vae_of_bands,
)
from dpd_train.tracking import Stopwatch, check_tracker, tracked
from dpd_train.tuning import noise_levels

log = logging.getLogger(__name__)


def silent(stage: str) -> Progress:
    """No progress."""
    return lambda step, steps: None


def _train(run: Training, base: Base, tuning: OtherTuning | None, announce: Announce) -> RunRecord:
    """Run all stages, each from where an earlier session left it, and write what they made.

    Args:
        announce: as in `train`.

    Returns:
        the content of run.json except the times.

    Raises:
        TimeUp: the deadline passed.
    """
    config, bands = run.config, bool(run.data.train.bands)
    ahead = partial(stages_ahead, config, bands=bands, tuning=tuning)
    judge = decoder_judge(config.watchers) if config.tune_vae and not bands else None
    announce(ahead(tuned_decoder=bool(config.tune_vae), published=judge is not None))
    pixels = run.pixels
    teacher = train_teacher(run, pixels)
    tuned_vae = bands or wants_tuning(run, base, teacher, pixels)
    if bands:
        base = with_vae_of_bands(run, base)
    elif tuned_vae:
        judge = judge or decoder_judge(config.watchers)
        announce(ahead(tuned_decoder=True, published=judge is not None))
        base = with_tuned_decoder(run, base, pixels, judge)
    latents = run.latents(base)
    classifiers = Classifiers(teacher, train_latent_classifier(run, latents))
    phrases = run.phrases(run.data.train, "captions")
    tuned = fine_tuned(run, base, latents, phrases, tuning.tune if tuning else tuned_here)
    base, values, rows = tuned.base, latents[0][0], rows_by_class(run.data.train)
    made = make_prototypes(run, base, classifiers.latent_classifier, pixels, values, phrases)
    table = prompts(run, base, made, phrases)
    measured = metrics(base, classifiers, pixels[1], latents[1]) | {"decoder_tuned": tuned_vae}
    if judge is not None:
        measured["decoder_tuned_by"] = public_name(judge)
    if config.steps:
        measured["noise_levels"] = noise_levels(base, *latents, run.classes, run.device)
    trained = Trained(
        tuned=tuned,
        classes=run.classes,
        prompts=table,
        prototypes=made,
        samples=code_sheet(base, run.data.train, made.of_class)
        if bands
        else sample_sheet(base, run.classes, table, config.seed, run.device),
        sheets=prototype_sheets(base, run.data.train, rows, values.numpy(), made.of_class, run.device),
        metrics=measured,
    )
    write_run(run.out, trained)
    return run_record(run, trained)


def _open(
    data: Path | Scenes,
    out: Path,
    config: TrainConfig,
    device: torch.device,
    progress: Stage,
    resume: bool,
    cache: Path | None,
) -> tuple[Base, RunData, TrainConfig]:
    """Check the input before anything is written; then make the run directory.

    Returns:
        base, data, and the config with the kind of prototypes.

    Raises:
        DataError, InputError: unusable data, base or output folder, or options that do not fit them.
    """
    scenes = check_inputs(data, out, config, resume=resume, cache=cache)
    config = scenes.settle(config)
    check_captioner(config.captioner)
    check_published(config.watchers)
    base = fitted(load_base(config.base), config)
    run_data = read_parts(scenes, config, base.resolution, device, progress, cache)
    check_base_bands(config.base, run_data.train.bands)
    if run_data.train.bands:
        config = for_bands(config)
    config = _with_watchers(with_prototype_kind(config, base, run_data, device))
    if not run_data.train.bands:  # others leave as codes alone
        different = dict(zip(run_data.train.classes, map(len, rows_by_class(run_data.train)), strict=True))
        for line in network_remarks(different, matched=config.prototypes == "matched"):
            log.info(line)
    of_data = run_data.fingerprint
    if config.samples is not None:  # which images are used may hang on a cache or a machine
        of_data = of_data | {"samples": fingerprint(run_data.train)["sha256"]}
    match_config(out, config, of_data, scenes.root, cache)  # first: by it a resumed run knows its folder
    (out / "private").mkdir(exist_ok=True, mode=0o700)
    write_quarantine(out / "private" / "quarantine.csv", run_data.findings)
    for number, picture in enumerate(taken.picture for taken in run_data.taken if taken.picture is not None):
        Image.fromarray(picture).save(out / "private" / f"decisions{number or ''}.png")
    return base, run_data, config


def _with_watchers(config: TrainConfig) -> TrainConfig:
    """The config with what `--watchers auto` means here: published networks watch where codes are matched to RGB.

    A network that cannot be opened is passed over with a line, as nobody asked for it.
    """
    if config.watchers != AUTO:
        for line in licence_remarks(config.watchers):
            log.info(line)
        return config
    if config.prototypes != "matched" or config.reading.carries:
        return replace(config, watchers=OWN)
    found = tried(networks_here())
    for line in remarks(found):
        log.info(line)
    return replace(config, watchers=settled(AUTO, found))


def _check_machine(
    config: TrainConfig, device: torch.device, team: Team, tracker: str | None, tuning: OtherTuning | None
) -> None:
    """Check options that depend on the machine and the number of processes.

    Raises:
        InputError: an option cannot be used here.
    """
    if config.precision == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs CUDA: a CPU takes ten times as long as with fp32; use bf16 or fp32")
    if config.batch < team.size:
        raise InputError(f"--batch {config.batch} for {team.size} processes: give each at least one image")
    if config.grad_compression and team.size == 1:
        raise InputError("--grad-compression is for several processes, and this is one: start with accelerate launch")
    if tuning and config.reading.carries:
        raise InputError(f"--tuning tunes a denoiser of RGB, and --bands {config.bands} carries other bands")
    if tuning and team.size > 1:
        raise InputError(f"--tuning with {team.size} processes: it takes one; start without a launcher")
    check_tracker(tracker)


def train(
    data: Path | Scenes,
    out: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    cache: Path | None = None,
    keep_checkpoints: bool = False,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    progress: Stage = silent,
    announce: Announce = lambda ahead: None,
    team: Team = ALONE,
    tracker: str | None = None,
    tuning: OtherTuning | None = None,
) -> dict[str, Any]:
    """Fine-tune `config.base` on scenes and write a run directory to `out`.

    Args:
        data: a folder or a list, which is read and divided as `config` says; or scenes that were opened so.
        cache: folder for latents and captions of single images.
        max_minutes: stop at a checkpoint after this time; the same call with `resume` continues.
        announce: gets the stages that will run, before the first one; and again once the teacher has decided that the
            VAE's decoder is trained, which `config.tune_vae` left open.
        team: its processes all call this with the same arguments, and can read `out` and the base.
        tracker: name of one that accelerate knows; it gets losses and learning rate.
        tuning: in place of the run's own.

    Returns:
        the content of run.json, {"unfinished": {stage, step, steps}, "seconds"} if time ran out, {} if not the leader.

    Raises:
        DataError, InputError: unusable data, base or output folder; nothing is written then. Only the leader raises.
        InputError: another process trains in `out`.
        PeerError: another process has gone. Further ones are those of `tuning`.
    """
    deadline, device = Deadline(max_minutes), torch.device(device)
    if not team.leads:
        assist(out, config, team, device, deadline)
        return {}
    with team.leading():
        _check_machine(config, device, team, tracker, tuning)
        base, read, config = _open(data, out, config, device, progress, resume, cache)
        with worked_in(out, "dpd train"), tracked(tracker, out / "tracker", asdict(config)) as track:
            team.tell(Word.LOAD)
            watch = Stopwatch(out / "checkpoints" / "seconds.json")
            run = Training(
                data=read,
                config=config,
                out=out,
                cache=cache or cache_folder("latents"),
                device=device,
                deadline=deadline,
                progress=watch.around(progress),
                team=team,
                track=track,
            )
            try:
                record = _train(run, base, tuning, announce)
                record["seconds"], record["stages"] = watch.seconds, watch.times()["stages"]
            except TimeUp as stop:
                return watch.unfinished(stop)
        write_record(out, record)
        if not keep_checkpoints:
            shutil.rmtree(out / "checkpoints")
        return {**record}
