"""`dpd distill`: scenes → an audited bundle and a report, in a given time."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dpd_cli.options import DataPlace, Json, Tracker, Values, extras_of, given_values, options_of, require_torch, under
from dpd_cli.terminal import (
    Interrupted,
    beside_idle,
    duration,
    log_to_console,
    print_json,
    progress_bar,
    stage_progress,
    tell,
)
from dpd_distill.distillation import Asked, check_begun_by, folder_of, request_of, resume_command
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted, shown
from dpd_train.reading import parse_reading  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_distill.distillation import Distillation, Tell

LOOPS = tuple(f"dpd_train.{name}" for name in ("loop", "classifiers", "denoiser", "tuning", "matching", "vae"))
PLANNED = ("dpd_train.context", "dpd_train.train")

ARMS = {
    "set": "the set, {images} per class",
    "random": "{real} per class, drawn at random",
    "herding": "{real} per class, chosen by herding",
    "full": "all real images",
}

Out = Annotated[Path, under("Output", "The bundle. The folder NAME-run beside it holds everything else.")]
PlanOnly = Annotated[bool, under("Running", "Print the plan and stop. Nothing is written.", "--plan-only")]
Resume = Annotated[
    bool, under("Running", "Continue an interrupted distillation of --out, with its own DATA and options.", "--resume")
]


@options_of(Asked)
def distill_command(
    out: Out,
    data: DataPlace = None,
    resume: Resume = False,
    plan_only: PlanOnly = False,
    tracker: Tracker = None,
    json_output: Json = False,
    *,
    given: Values,
) -> None:
    """Distil your scenes into an audited bundle, in a time that you choose.

    Checks the data, measures this machine, prints a plan, then trains, matches, exports, verifies, compares students
    on the set with students on real images, audits, and writes a report. Exit code 4: the audit's verdict is FAIL.
    Where the plan takes longer than --minutes, exit code 2 and what would fit.

    For codes with differential privacy: dpd private.

    Examples:
        dpd distill scenes/ --out site.dpd
        dpd distill scenes/ --out look.dpd --quick
        dpd distill scenes/ --out site.dpd --minutes 30 --holdout heldout/
        dpd distill --resume --out site.dpd
        dpd distill scenes/ --out again.dpd --plan site-run
    """
    from dpd_distill.distillation import distil, failed_audit
    from dpd_train.tracking import check_tracker

    check_tracker(tracker)
    asked = given_values(given, Asked)
    check_whether_new("distill", data, out, resume, others=bool(asked) or plan_only)
    carded = given_values(given, Asked, data)
    reading = parse_reading(carded.get("bands"), carded.get("stretch"))
    require_torch("export", "eval", "cpu", *extras_of(reading, data))
    try:
        distillation = _begun(data, out, asked, print if plan_only and not json_output else tell)
        if plan_only:
            if json_output:
                print_json(_plan_facts(distillation))
            else:
                print("\n".join(_plan_lines(distillation)))
            return
        if data is not None:
            for line in (*_plan_lines(distillation), f"interrupted?  {resume_command(out)}"):
                tell(line)
            distillation.store()
        with stage_progress() as stage:
            result = distil(distillation, stage, tell, tracker)
    except KeyboardInterrupt:
        begun = (folder_of(out) / "plan.json").exists()
        raise Interrupted(resume_command(out) if begun else "run the same command again, nothing is lost") from None
    if json_output:
        print_json(result)
    else:
        _print(result, out)
    failed_audit(result)


def check_whether_new(command: str, data: Path | None, out: Path, resume: bool, *, others: bool) -> None:
    """Check that a distillation begins with DATA, or goes on with --resume alone, by the command that began it.

    Args:
        others: whether other options were given.

    Raises:
        InputError: it does neither, or both.
    """
    if resume and (data is not None or others):
        raise InputError(f"--resume continues with the stored options; give only: {resume_command(out, command)}")
    if resume:
        check_begun_by(command, out)
    elif data is None:
        raise InputError("DATA is missing: give a folder that holds one folder of images per class")


def print_signing(out: Path, ipc: int, *demands: str) -> None:
    """Print how a bundle is signed, and used at a site that demands a signature and these."""
    options = [("--require", ",".join(("signature", *demands))), ("--ipc", str(ipc)), ("--out", "distilled")]
    print(f"next          dpd keygen, {shown(['dpd', 'sign', out, '--key', 'KEY'])}; at the site:")
    print(f"              {shown(['dpd', 'generate', out], options)}")


def _begun(data: Path | None, out: Path, asked: dict[str, Any], tell: "Tell") -> "Distillation":
    """The distillation to continue, or a new one with its plan, whose data and notes are told."""
    from dpd_distill.distillation import begin, check_resumed, read_distillation, repeating, resumed_lines

    if data is None:
        before = read_distillation(folder_of(out.absolute()))  # its result names places, for any later folder of work
        check_resumed(before.asked, out)
        for line in resumed_lines(before.asked):
            tell(line)
        log_briefly()
        tell(f"continues     {before.folder}, planned for {duration(before.plan.total)}")
        return before
    request, repeated = repeating(request_of(Asked, data, out, asked), asked)
    planned = begin(request, tell, progress_bar, repeated=repeated)
    log_briefly()  # only now: the steps that measure this machine are no news
    return planned


def log_briefly() -> None:
    """Show log records, without those of the training loops, as stages have progress here, and of what the plan says.
    `dpd train` shows them.
    """
    log_to_console()
    for name in (*LOOPS, *PLANNED):
        logging.getLogger(name).setLevel(logging.WARNING)


def _plan_lines(distillation: "Distillation") -> list[str]:
    plan, threads = distillation.plan, distillation.threads
    beside = beside_idle(plan.total, distillation.idle)
    lines = [f"plan          {duration(plan.total)} on {counted(threads, 'thread')}{beside}, until about:"]
    passed = 0.0
    for name, seconds in plan.seconds.items():
        passed += seconds
        lines += [f"  {name:<24} {duration(seconds):>10}  {duration(passed):>12}"]
    for name, seconds in plan.perhaps.items():
        lines += [f"  {name:<24} {duration(seconds):>10}  more, if the teacher loses over 5 points by the VAE"]
    matching = f", {plan.matching_steps} of matching" if "matching" in plan.seconds else ""
    students = f", {counted(plan.pairs, 'pair')} of students" if plan.pairs else ""
    return [*lines, f"  {counted(plan.steps, 'step')} of fine-tuning{matching}{students}"]


def _plan_facts(distillation: "Distillation") -> dict[str, Any]:
    plan = distillation.plan
    return asdict(plan) | {
        "total": plan.total,
        "longest": plan.longest,
        "idle": distillation.idle,
        "notes": distillation.notes,
    }


def _print(result: dict[str, Any], out: Path) -> None:
    judged, quick = result["judged"], result["verdict"] == "unaudited"
    print(f"bundle        {out}  {result['bytes'] / 1e6:.1f} MB, {result['prototypes']} prototypes")
    rows = judged["arms"] if judged else []  # 0.2.0 judged no first look
    for student in dict.fromkeys(arm["student"] for arm in rows):
        own = [arm for arm in rows if arm["student"] == student]
        print(f"  {_student(student)}, trained on")
        for arm in own:
            spread = "" if arm["oa_std"] is None else f" ± {100 * arm['oa_std']:.1f}"
            each = {"images": counted(arm["ipc"], "image"), "real": counted(arm["ipc"], "real image")}
            what = ARMS.get(arm["arm"], arm["arm"]).format(**each)
            print(f"    {what:<52} {100 * arm['oa_mean']:.1f} %{spread}")
    if judged:
        print(f"  of {counted(judged['test_images'], 'validation image')}, which no training has seen")
    if quick:
        if judged:
            print("  one student for each line: a first impression, which another seed may change by some points")
        _print_times(result)
        print("quick look    not audited: a site that asks for --require audit refuses this bundle")
        print("next          dpd distill DATA --out OTHER, without --quick")
        return
    for row in judged["differences"]:
        low, high = row["difference"]["low"], row["difference"]["high"]
        ends = "" if low is None else f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f} points"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} × "
        print(f"  {_student(row['student'])}: the set is worth {ratio}{row['reference']}{ends}")
    print(f"audit         {result['verdict']}")
    for reason in (*result.get("summary", ()), *result["reasons"]):
        print(f"              {reason}")
    _print_times(result)
    if result["verdict"] == "FAIL":
        return
    print_signing(out, judged["arms"][0]["ipc"])


def _student(name: str) -> str:
    """A student in words: one from nothing, or a published network whose last layer is fitted."""
    family, _, place = name.partition(":hf:")
    return f"{Path(place).name}, whose last layer is fitted" if family == "probe" else f"{name} from nothing"


def _print_times(result: dict[str, Any]) -> None:
    print(f"time          {duration(result['seconds'])}, planned {duration(result['planned_seconds'])}")
    print(f"look at       {result['report']}, {result['set']}/contact_sheet.png")
