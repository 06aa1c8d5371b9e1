"""`dpd train`: a labelled scene set → a run directory (DESIGN §5)."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dpd_runtime.annotations import Progress
from dpd_runtime.errors import InputError
from dpd_runtime.files import cache_folder, write_atomically
from dpd_train.bases.base import Base, at_resolution, load_base
from dpd_train.bases.folder import base_folder
from dpd_train.captions.captioners import check_captioner
from dpd_train.compute.device import Deadline, TimeUp
from dpd_train.compute.distributed import ALONE, Team, Word
from dpd_train.compute.tracking import check_tracker, tracked
from dpd_train.config import TrainConfig
from dpd_train.federated.settings import Federated
from dpd_train.foreground.cropping import check_segmenter
from dpd_train.images import to_float, write_quarantine
from dpd_train.run.data import Scenes, read_parts, side_for
from dpd_train.run.folder import Stopwatch, check_run_folder, match_config
from dpd_train.run.ranks import assist
from dpd_train.run.record import Trained, run_record
from dpd_train.run.stages.matching import check_matched
from dpd_train.run.stages.prototypes import make_prototypes
from dpd_train.run.stages.pruning import pruned
from dpd_train.run.stages.tuning import Run, Stages, fine_tuned, judges, with_tuned_decoder, write_run


def silent(stage: str) -> Progress:
    """No progress."""
    return lambda step, steps: None


def _stages(run: Run, base: Base) -> dict[str, Any]:
    """All of a run, each stage from where an earlier session left it.

    Raises:
        TimeUp: the deadline passed.
    """
    run, config = pruned(run), run.config
    pixels = [
        (to_float(torch.from_numpy(scenes.images)), torch.from_numpy(scenes.labels))
        for scenes in (run.scenes.train, run.scenes.held)
    ]
    base = with_tuned_decoder(run, base, (pixels[0], pixels[1]))
    latents = run.latents(base)
    teacher, judge = judges(run, (pixels[0], pixels[1]), latents)
    words = run.phrases(run.scenes.train, "captions")
    tuned = fine_tuned(run, base, latents, words, teacher, judge)
    base = tuned.base
    made = make_prototypes(run, base, judge, (pixels[0], pixels[1]), latents[0][0], words)
    trained = Trained(
        base=base,
        teacher=teacher,
        judge=judge,
        prototypes=made,
        history=tuned.history,
        pixels=pixels[1],
        latents=latents[1],
    )
    write_run(run, trained, words, latents[0][0])
    record = run_record(tuned.config, run.scenes, trained, run.device, base_folder(config.base))
    return record | ({"federated": tuned.federated} if tuned.federated else {})


def _open(data: Path, out: Path, config: TrainConfig, device: torch.device, progress: Stages) -> tuple[Base, Scenes]:
    """Everything that can be wrong with the input, before anything is written; then the run directory.

    Raises:
        DataError, InputError
    """
    check_captioner(config.captioner)
    check_segmenter(config.segmenter)
    base = load_base(config.base)
    side = side_for(data, config, base)
    scenes = read_parts(data, config, side, device, progress)
    if config.prototypes == "matched":
        check_matched(base, scenes, config)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    (out / "private").mkdir(exist_ok=True, mode=0o700)
    write_quarantine(out / "private" / "quarantine.csv", scenes.findings)
    if scenes.cropped is not None:
        Image.fromarray(scenes.cropped.picture).save(out / "private" / "decisions.png")
    match_config(out / "checkpoints" / "config.json", config, scenes.given)
    return base if side == base.resolution else at_resolution(base, side), scenes


def _check_machine(config: TrainConfig, device: torch.device, team: Team, federated: bool) -> None:
    if config.precision == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs CUDA: a CPU takes ten times as long as with fp32; use bf16 or fp32")
    if config.batch < team.size:
        raise InputError(f"--batch {config.batch} for {team.size} processes: give each at least one image")
    if config.grad_compression and team.size == 1 and not federated:
        raise InputError(
            "--grad-compression is for several processes, and this is one: start with accelerate launch, or --federated"
        )
    if federated and team.size > 1:
        raise InputError(f"--federated with {team.size} processes: each participant is one; start without a launcher")


def train(
    data: Path,
    out: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    cache: Path | None = None,
    keep_checkpoints: bool = False,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    progress: Stages = silent,
    team: Team = ALONE,
    tracker: str | None = None,
    federated: Federated | None = None,
) -> dict[str, Any]:
    """Fine-tune `config.base` on the scenes under `data` and leave a run directory at `out`.

    Args:
        cache: where latents and captions of single images are kept.
        max_minutes: stop at a checkpoint once so much time has passed; the same call with `resume` goes on from there.
        team: every process of it calls this with the same arguments, and sees `out` and the base.
        tracker: one that accelerate knows; it is given losses and rate under `out`/tracker.
        federated: tune together with other sites; of the server's images none is tuned on.

    Returns:
        the content of run.json; {"unfinished": {stage, step, steps}, "seconds"} where the time was up; {} to others
        than the team's leader.

    Raises:
        DataError, InputError: unusable data, base or output folder; nothing is left behind then. The leader raises
            what is wrong with the input; the others return.
        PeerError: another process, or another site of a federated tuning, has gone.
        UpdateError: what another site sent cannot be used.
    """
    deadline, device = Deadline(max_minutes), torch.device(device)
    if not team.leads:
        assist(out, config, team, device, deadline)
        return {}
    with team.leading():
        _check_machine(config, device, team, federated is not None)
        check_tracker(tracker)
        check_run_folder(out, resume)
        base, scenes = _open(data, out, config, device, progress)
        team.tell(Word.LOAD)
        watch = Stopwatch(out / "checkpoints" / "seconds.json")
        with tracked(tracker, out / "tracker", asdict(config)) as track:
            run = Run(
                scenes=scenes,
                config=config,
                out=out,
                cache=cache or cache_folder("latents"),
                device=device,
                deadline=deadline,
                progress=watch.around(progress),
                team=team,
                track=track,
                federated=federated,
            )
            try:
                record = _stages(run, base)
            except TimeUp as stop:
                watch.keep()
                unfinished = {"stage": watch.stage, "step": stop.step, "steps": stop.steps}
                return {"unfinished": unfinished, "seconds": watch.seconds}
        record |= {"processes": team.size} if team.size > 1 else {}
        record["seconds"] = watch.seconds
        write_atomically(out / "run.json", (json.dumps(record, indent=1) + "\n").encode())
        if not keep_checkpoints:
            shutil.rmtree(out / "checkpoints")
        return record
