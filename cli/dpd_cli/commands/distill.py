"""`dpd distill`: scenes → an audited bundle and a report, in a given time."""
# ruff: noqa: RUF009 -- setting() is dataclasses.field()

import logging
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dpd_cli.options import Json, Scenes, Values, options_of, require_torch, under
from dpd_cli.progress import duration, log_to_console, stage_progress
from dpd_cli.terminal import Interrupted, print_json
from dpd_runtime.errors import InputError
from dpd_train.held_out import HeldOut  # noqa: TID253 -- loads no PyTorch
from dpd_train.options import option, setting  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_cli.distillation.planned import Distillation

LOOPS = ("dpd_train.classifiers", "dpd_train.diffusion", "dpd_train.vae")

Out = Annotated[Path, under("Output", "The bundle. The folder NAME-run beside it holds everything else.")]
Resume = Annotated[
    bool, under("Running", "Continue an interrupted distillation of --out, with its own DATA and options.", "--resume")
]


@dataclass(frozen=True, kw_only=True)
class DistillConfig(HeldOut):
    """Options of `dpd distill`; None where the default of `Asked` holds."""

    minutes: float | None = setting(None, "Running", "Time for everything. Default: 90.")
    ipc: int | None = setting(
        None, "Images", "Images per class that the set is made for. Default: 10, or 5 where a class has fewer than 60."
    )
    holdout: Path | None = setting(
        None, "Data", "Images that are not in DATA, for the audit. Default: the validation part of DATA."
    )
    plan: Path | None = setting(
        None,
        "Running",
        "Folder of an earlier distillation, whose plan is repeated: the same seed gives the same codes.",
    )
    codes_only: bool | None = setting(
        None,
        "Images",
        "Leave out whatever samples or judges images: a tenth of the size, and no more images than codes. Default: "
        "where a class has fewer than 60 images.",
    )
    seed: int | None = setting(None, "Running", "Random seed. Default: 0.")
    base: str | None = setting(None, "Data", "Base model: nano, a diffusers folder or a hub id. Default: nano.")
    resolution: int | None = setting(None, "Images", "Image side in pixels. Default: the base's own.")
    bands: str | None = setting(None, "Data", "Bands to use as red, green and blue, such as 4,3,2.")
    stretch: str | None = setting(
        None, "Data", "What becomes black and white: percentiles such as 2,98, or pixel values such as 0:3000."
    )
    threads: int | None = setting(None, "Running", "PyTorch threads. Default: the cores that are idle.")
    dp: float | None = setting(
        None,
        "Privacy",
        "Make codes with differential privacy: this epsilon for one image. Nothing is evaluated or audited then.",
        "EPSILON",
    )
    dp_delta: float | None = setting(None, "Privacy", "Delta of --dp. Default: 1e-5.")
    public: Path | None = setting(
        None,
        "Privacy",
        "With --dp: labelled images, of any classes, that need no protection. Networks are trained on them and codes "
        "start from them. Default: drawn scenes.",
    )


@options_of(DistillConfig)
def distill_command(
    out: Out, data: Scenes = None, resume: Resume = False, json_output: Json = False, *, given: Values
) -> None:
    """Distil your scenes into an audited bundle, in a time that you choose.

    Checks the data, measures this machine, prints a plan, then trains, matches, exports, verifies, compares students
    on the set with students on real images, audits, and writes a report. Exit code 4: the audit's verdict is FAIL.

    With --dp the images give noisy statistics of their classes, once, and nothing else. Class names, the number of
    images of each class and their size count as public. The base must not have seen the images.

    Examples:
        dpd distill scenes/ --out site.dpd
        dpd distill scenes/ --out site.dpd --minutes 30 --holdout heldout/
        dpd distill --resume --out site.dpd
        dpd distill scenes/ --out again.dpd --plan site-run
        dpd distill scenes/ --out site.dpd --dp 1 --public other-scenes/
    """
    from dpd_cli.distillation.planned import STORED_PRIVATE, folder_of, resume_command
    from dpd_cli.distillation.stages import distil, failed_audit

    asked = {name: value for name, value in given[DistillConfig].items() if value is not None}
    if "dp" in asked or (resume and (folder_of(out) / STORED_PRIVATE).exists()):
        _distil_privately(data, out, asked, resume, json_output)
        return
    _refuse(asked, ("dp_delta", "public"), "without --dp")
    require_torch("export", "eval", "cpu")
    try:
        found = _found(data, out, asked, resume)
        with stage_progress() as stage:
            result = distil(found, stage, _tell)
    except KeyboardInterrupt:
        begun = (folder_of(out) / "plan.json").exists()
        raise Interrupted(resume_command(out) if begun else "run the same command again, nothing is lost") from None
    if json_output:
        print_json(result)
    else:
        _print(result, out)
    failed_audit(result)


def _refuse(asked: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        InputError: one of them was given.
    """
    for name in names:
        if name in asked:
            raise InputError(f"{option(name)} has no effect {where}: leave it out")


def _distil_privately(data: Path | None, out: Path, asked: dict[str, Any], resume: bool, json_output: bool) -> None:
    from dpd_cli.distillation.planned import check_resumed, folder_of, resume_command, resumed_lines
    from dpd_cli.distillation.private import PrivateRequest, begin_privately, distil_privately, read_request

    require_torch("export", "cpu", "dp")
    if resume:
        if data is not None or asked:
            raise InputError(f"--resume continues with the stored options; give only: {resume_command(out)}")
        request = read_request(folder_of(out))
        check_resumed(request, out)
        for line in resumed_lines(request):
            _tell(line)
    else:
        if data is None:
            raise InputError("DATA is missing: give a folder that holds one folder of images per class")
        _refuse(asked, ("minutes", "holdout", "plan", "codes_only"), "with --dp, which does not use it")
        paths = {name: str(Path(asked[name]).absolute()) for name in ("public",) if name in asked}
        request = begin_privately(PrivateRequest(data=str(data.absolute()), out=str(out.absolute()), **asked | paths))
    _log()
    try:
        with stage_progress() as stage:
            result = distil_privately(request, stage, _tell)
    except KeyboardInterrupt:
        raise Interrupted(resume_command(out)) from None
    if json_output:
        print_json(result)
    else:
        _print_private(result, out)


def _print_private(result: dict[str, Any], out: Path) -> None:
    privacy, quoted = result["privacy"], shlex.quote(str(out))
    print(f"bundle        {out}  {result['bytes'] / 1e6:.1f} MB, {result['codes']} codes of each class")
    print(f"privacy       epsilon {privacy['epsilon']:.6g}, delta {privacy['delta']:g}, of {privacy['unit']}")
    print("              only this file may leave; each further run on the same images adds to epsilon,")
    print("              even if it only serves a choice between runs")
    print(f"compare       dpd generate {quoted} --ipc {result['codes']} --out distilled, and here")
    print("              dpd evaluate distilled --train DATA --test val; its figures tell about the images: keep them")
    print(f"next          dpd keygen, dpd sign {quoted} --key KEY; at the site:")
    required = f"--require-signature --require-dp {privacy['epsilon']:g},{privacy['delta']:g}"
    print(f"              dpd generate {quoted} {required} --ipc {result['codes']} --out distilled")


def _found(data: Path | None, out: Path, asked: dict[str, Any], resume: bool) -> "Distillation":
    """The distillation to continue, or a new one with its plan, which is printed."""
    from dpd_cli.distillation.planned import (
        Asked,
        begin,
        check_resumed,
        folder_of,
        read_distillation,
        resume_command,
        resumed_lines,
    )

    if resume:
        if data is not None or asked:
            raise InputError(f"--resume continues with the stored options; give only: {resume_command(out)}")
        before = read_distillation(folder_of(out))
        check_resumed(before.asked, out)
        for line in resumed_lines(before.asked):
            _tell(line)
        if before.plan is not None:
            _log()
            _tell(f"continues     {before.folder}, planned for {duration(before.plan.total)}")
            return before
        request = before.asked
    else:
        if data is None:
            raise InputError("DATA is missing: give a folder that holds one folder of images per class")
        plan = asked.pop("plan", None)
        if plan is not None and (useless := {"minutes", "ipc", "threads"} & set(asked)):
            raise InputError(f"--{min(useless)} has no effect with --plan, whose run decides it: leave it out")
        repeated = None if plan is None else read_distillation(plan)
        if repeated is not None:
            asked = {name: getattr(repeated, name) for name in ("ipc", "codes_only", "threads")} | asked
        paths = {name: str(Path(asked[name]).absolute()) for name in ("holdout",) if name in asked}
        request = Asked(
            data=str(data.absolute()), repeats=None if plan is None else str(plan.absolute()), **asked | paths
        )
    planned = begin(request, out, _tell, resume=resume)
    _log()  # only now: the steps that measure this machine are no news
    _print_plan(planned)
    return planned


def _log() -> None:
    """Show log records, without those of the training loops: `dpd train` shows them, here stages have progress."""
    log_to_console()
    for name in LOOPS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_plan(found: "Distillation") -> None:
    from dpd_cli.distillation.planned import resume_command

    assert found.plan is not None
    plan = found.plan
    _tell(f"data          {found.images} training images of {found.classes} classes")
    for line in found.notes:
        _tell(f"note          {line}")
    _tell(f"plan          {duration(plan.total)} on {found.threads} thread{'s' * (found.threads > 1)}, until about:")
    passed = 0.0
    for name, seconds in plan.seconds.items():
        passed += seconds
        _tell(f"  {name:<24} {duration(seconds):>10}  {duration(passed):>12}")
    matching = f", {plan.matching_steps} of matching" if "matching" in plan.seconds else ""
    _tell(f"  {plan.steps} steps of fine-tuning{matching}, {plan.pairs} pairs of students")
    _tell(f"interrupted?  {resume_command(Path(found.asked.out))}")


def _print(result: dict[str, Any], out: Path) -> None:
    judged = result["judged"]
    print(f"bundle        {out}  {result['bytes'] / 1e6:.1f} MB, {result['prototypes']} prototypes")
    for arm in judged["arms"]:
        spread = "" if arm["oa_std"] is None else f" ± {100 * arm['oa_std']:.1f}"
        print(f"  students on {arm['arm']:<12} {100 * arm['oa_mean']:.1f} %{spread}, IPC {arm['ipc']}")
    print(f"  of {judged['test_images']} validation images, which no training has seen")
    for row in judged["differences"]:
        low, high = row["difference"]["low"], row["difference"]["high"]
        ends = "" if low is None else f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f} points"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} × "
        print(f"  the set is worth {ratio}{row['reference']}{ends}")
    print(f"audit         {result['verdict']}")
    for reason in result["reasons"]:
        print(f"              {reason}")
    print(f"time          {duration(result['seconds'])}, planned {duration(result['planned_seconds'])}")
    print(f"look at       {result['report']}, {result['set']}/contact_sheet.png")
    if result["verdict"] == "FAIL":
        return
    print(f"next          dpd keygen, dpd sign {shlex.quote(str(out))} --key KEY; at the site:")
    print(f"              dpd generate {shlex.quote(str(out))} --ipc {judged['arms'][0]['ipc']} --out distilled")
