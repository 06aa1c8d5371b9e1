"""`dpd train`: scenes → a run directory."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dpd_cli.options import (
    DataPlace,
    Device,
    Json,
    MaxMinutes,
    Threads,
    Tracker,
    Values,
    begin_with_torch,
    extras_of,
    given_values,
    named,
    named_after,
    options_of,
    require_torch,
    under,
)
from dpd_cli.terminal import Interrupted, NumberedStages, print_json, stage_progress
from dpd_runtime.errors import DpdError, InputError
from dpd_runtime.text import called, counted, shown
from dpd_train.config import PRESETS, TrainConfig, asked_for, check_device, resolve  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    import torch

    from dpd_train.doors import OtherTuning
    from dpd_train.scenes import Scenes

FIRST_SPEAKS_WITHIN = 10.0  # seconds after another of several processes met the same error


Out = Annotated[
    Path | None,
    under("Output", "Run directory: a new one, or an unfinished one with --resume. Default: DATA-run, beside DATA."),
]
PresetName = Annotated[
    str | None, under("Running", "Prepared set of values. Options that are given win over it.", metavar=named(PRESETS))
]
Resume = Annotated[
    bool, under("Running", "Continue the unfinished run at --out, with its own DATA and options.", "--resume")
]
KeepCheckpoints = Annotated[bool, under("Output", "Keep the checkpoints of a finished run.", "--keep-checkpoints")]
TuningName = Annotated[
    str | None,
    under(
        "Several machines",
        "Tune the denoiser by another package instead of here: federated:HOST:PORT, or federated:HOST:PORT,ROOT.pem "
        "with TLS, tunes it together with other sites; no image leaves its site.",
        "--tuning",
        metavar="NAME:ARGUMENT",
    ),
]
CacheDir = Annotated[
    Path | None, under("Running", "Folder for latents and captions, which are private. Default: the user's cache.")
]


@options_of(TrainConfig)
def train_command(
    data: DataPlace = None,
    out: Out = None,
    preset: PresetName = None,
    resume: Resume = False,
    max_minutes: MaxMinutes = None,
    keep_checkpoints: KeepCheckpoints = False,
    tracker: Tracker = None,
    tuning: TuningName = None,
    cache_dir: CacheDir = None,
    device: Device = "auto",
    threads: Threads = None,
    json_output: Json = False,
    *,
    given: Values,
) -> None:
    """Fine-tune a diffusion model on labelled scenes and make prototypes.

    The run directory also holds a teacher, a latent classifier and prompts, which dpd export needs.

    Examples:
        dpd train scenes/
        dpd train scenes/ --out run
        dpd train eurosat/ --out run --val-per-class 100 --steps 2000
        dpd train ucmerced/ --out run --preset standard --max-minutes 60
        dpd train --resume --out run
        accelerate launch --multi_gpu -m dpd_cli train ucmerced/ --out run
        dpd train scenes/ --tuning federated:10.0.0.1:8080 --out run
    """
    from dpd_train.tracking import check_tracker

    with _told_once(DpdError):
        if max_minutes is not None and not max_minutes >= 0:
            raise InputError(f"--max-minutes is {max_minutes}: give 0 or more")
        given = given | {TrainConfig: given_values(given, TrainConfig, data)}
        config = resolve(preset, given[TrainConfig])
        other = None if tuning is None else _other_tuning(tuning, preset, max_minutes, given[TrainConfig])
        goes_on = resume and other is None
        if data is None and not goes_on:
            raise InputError("DATA is missing: give a folder that holds one folder of images per class")
        out = _place(data) if out is None else out
        if goes_on:
            config, data, cache_dir = _continued(out, asked_for(preset, given[TrainConfig]), config, data, cache_dir)
        assert data is not None
        check_device(device)
        require_torch(*extras_of(config.reading, data))
        check_tracker(tracker)
        scenes = _check_inputs(data, out, config, resume, cache_dir)
        chosen = _device(device, threads)
    _train(
        scenes,
        out,
        config,
        json_output,
        device=chosen,
        resume=resume,
        cache=cache_dir,
        keep_checkpoints=keep_checkpoints,
        max_minutes=max_minutes,
        tracker=tracker,
        tuning=other,
    )


def _place(data: Path | None) -> Path:
    """The run directory of a command without --out.

    Raises:
        InputError: DATA is missing, after which it would be named.
    """
    if data is None:
        raise InputError("--out is missing: without DATA, after which a run is named, say which run directory is meant")
    return named_after(data, "-run")


def _train(
    data: "Path | Scenes", out: Path, config: TrainConfig, json_output: bool, *, device: "torch.device", **options: Any
) -> None:
    """Call `train` in each of the processes that were started, and print what the first one made."""
    from dpd_train.distributed import PeerError, joined
    from dpd_train.train import train

    with (
        _told_once(PeerError),
        _resumable(out),
        joined(device) as team,
        stage_progress() if team.leads else nullcontext() as stages,
    ):
        if stages is not None:
            numbered = NumberedStages(stages)
            options |= {"progress": numbered, "announce": numbered.announce}
        run = train(data, out, config, device=device, team=team, **options)
    if team.leads:
        _print_run(out, run, json_output)


def _other_tuning(named: str, preset: str | None, minutes: float | None, given: dict[str, Any]) -> "OtherTuning":
    """Look up the tuning of another package.

    Args:
        given: values of TrainConfig that were given; None for those that were not.

    Raises:
        InputError: no such tuning, or an option that it does not go with.
    """
    from dpd_train.doors import open_named

    other: OtherTuning = open_named("dpd.tuning", named, "--tuning")
    if preset or minutes is not None:
        raise InputError("--tuning goes with neither --preset nor --max-minutes: give options one by one")
    if taken := [name for name in other.decides if given.get(name) is not None]:
        raise InputError(
            f"{called(TrainConfig, taken[0])} has no effect with --tuning {named}, which decides it: leave it out"
        )
    return other


def _continued(
    out: Path, asked: dict[str, Any], config: TrainConfig, data: Path | None, cache_dir: Path | None
) -> tuple[TrainConfig, Path, Path | None]:
    """Return config, data and cache of the unfinished run in `out`; without one those that were given.

    Raises:
        InputError: an option that the run has not, or no DATA.
    """
    from dpd_train.run import check_run_folder, read_unfinished

    check_run_folder(out, resume=True)
    before = read_unfinished(out, asked)
    if before is not None:
        config, data, cache_dir = before.config, data or before.data, cache_dir or before.cache
    if data is None and before is None:
        raise InputError(f"DATA is missing: {out} holds no unfinished run; begin one: dpd train DATA --out {out}")
    if data is None:
        raise InputError(f"DATA is missing: {out} does not say where its images are; give their folder")
    return config, data, cache_dir


def _check_inputs(data: Path, out: Path, config: TrainConfig, resume: bool, cache: Path | None) -> "Path | Scenes":
    """Check paths, names, counts and a sample of the images. Of several processes only the leader looks at --out.

    Returns:
        the scenes, opened; of several processes their place, as the leader opens it.
    """
    from dpd_train.launcher import started_processes
    from dpd_train.run import check_inputs
    from dpd_train.scenes import look_at

    if started_processes() > 1:
        return data
    scenes = check_inputs(data, out, config, resume=resume, cache=cache)
    if not resume:
        look_at(scenes).check(scenes.root)
    return scenes


def _device(name: str, threads: int | None) -> "torch.device":
    from dpd_train.launcher import started_as

    return begin_with_torch(name, threads, logging.ERROR if started_as() else logging.INFO)


@contextmanager
def _told_once(kind: type[Exception]) -> Iterator[None]:
    """Let only the first of several processes report an error that all of them meet."""
    try:
        yield
    except kind as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(FIRST_SPEAKS_WITHIN)  # launchers end all processes as soon as one has ended
            sys.exit(getattr(error, "exit_code", 1))
        raise


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """After an interruption name the command that continues."""
    from dpd_train.run import STORED, resume_command

    try:
        yield
    except KeyboardInterrupt:
        begun = (out / STORED).exists()
        raise Interrupted(resume_command(out) if begun else "run the same command again, nothing is lost") from None


def _print_run(out: Path, run: dict[str, Any], json_output: bool) -> None:
    if json_output:
        print_json({"out": str(out), **run})
    elif "unfinished" in run:
        from dpd_train.run import resume_command

        left = run["unfinished"]
        print(f"time is up     {left['stage']} is at step {left['step']} of {left['steps']}")
        print(f"next           {resume_command(out)}")
    else:
        _print_finished(out, run)


def _print_finished(out: Path, run: dict[str, Any]) -> None:
    from dpd_train.run import told_of_networks

    metrics = run["metrics"]
    rebuilt = 100 * metrics["teacher_oa_on_reconstructions"]
    lost = 100 * metrics["teacher_oa_on_the_same_images"] - rebuilt
    print(f"run            {out}/ in {run['seconds']:.0f} s; look at {out}/samples/final.png")
    print("prototypes     " + ", ".join(f"{name} {count}" for name, count in run["prototypes"].items()))
    if run["prototypes_too_near"]:
        fate = "reset to start " if run["config"]["prototypes"] == "matched" else "dropped        "
        print(f"{fate}{counted(run['prototypes_too_near'], 'prototype')} that decoded too close to a training image")
    if crop := run.get("crop"):
        print(
            f"cut            {crop['cut']} of {counted(crop['images'], 'training image')}; look at "
            f"{out}/private/decisions.png"
        )
        print("warning        dpd audit compares whole images and does not find a copied patch", file=sys.stderr)
    if noise := run.get("prototype_privacy"):
        print(f"noise          epsilon {noise['epsilon']:.3g} at delta {noise['delta']:g}, given the clustering")
    if run.get("private_prototypes"):
        print("private        prototypes of this kind show real images: dpd export refuses them", file=sys.stderr)
    teacher, latents = 100 * metrics["teacher_oa"], 100 * metrics["latent_classifier_oa"]
    print(f"validation     teacher {teacher:.1f} %, latent classifier {latents:.1f} %")
    psnr = metrics["vae"]["psnr"]
    print(f"VAE            {psnr:.1f} dB; teacher on reconstructions {rebuilt:.1f} %, {lost:.1f} points less")
    if run["rejected"]:
        print(f"left out       {counted(run['rejected'], 'file')}; reasons in {out}/private/quarantine.csv")
    if run["near_duplicates"]:
        print(f"duplicates     {run['near_duplicates']} near duplicates left out, listed in the same file")
    if "scenes" in run:
        print(
            f"scenes         {counted(run['data']['images'], 'training image')}, "
            f"{counted(sum(run['scenes'].values()), 'distinct scene')}"
        )
    if lost > 5:
        tuned = "although its decoder was tuned" if metrics["decoder_tuned"] else "try --tune-vae"
        print(
            f"warning        the VAE costs more than 5 points, {tuned}: another base may suit better", file=sys.stderr
        )
    few = told_of_networks(run)
    carried = run.get("rendering", {}).get("carried")
    if few and not carried:
        print(f"warning        {few[0]}", file=sys.stderr)
    alone = carried or (few and run["config"]["prototypes"] == "matched")
    options = [("--out", f"{out}.dpd"), *([("--codes-only",)] if alone else [])]
    print(f"next           {shown(['dpd', 'export', out], options)}")
