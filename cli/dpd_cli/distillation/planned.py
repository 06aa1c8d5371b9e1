"""A planned distillation: what was asked for and its plan, as they are stored in its folder."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_cli.distillation.request import Asked, Request, folder_of
from dpd_cli.progress import progress_bar
from dpd_runtime.command_line import shown
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.files import check_writable, write_atomically
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_train.config import TrainConfig
    from dpd_train.held_out import HeldOut
    from dpd_train.images import Counted
    from dpd_train.reading import ImageOptions
    from dpd_train.run.planning.plan import DistillPlan, Task

STORED = "plan.json"
STORED_PRIVATE = "private.json"  # instead of it, of a distillation with --dp
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A planned distillation.

    Args:
        ipc, codes_only: as asked for, or what suits the number of scenes. notes: lines about data and plan.
        idle: seconds that the plan takes on idle cores; None for one that another distillation had.
    """

    folder: Path
    asked: Asked
    threads: int
    ipc: int
    codes_only: bool
    images: int
    classes: int
    judged_ipc: int
    notes: tuple[str, ...]
    plan: "DistillPlan"
    idle: float | None = None

    @property
    def out(self) -> Path:
        return Path(self.asked.out)

    @property
    def data(self) -> Path:
        return Path(self.asked.data)

    @property
    def training(self) -> Path:
        """The run directory of `dpd train`."""
        return self.folder / "training"

    @property
    def unaudited(self) -> Path:
        return self.folder / "unaudited.dpd"

    @property
    def results(self) -> dict[str, Path]:
        """What its report shows, by what it is."""
        return {
            "evaluation": self.folder / "evaluation.json",
            "set": self.folder / "set",
            "bundle": self.out,
            "training run": self.training,
        }

    def config(self) -> "TrainConfig":
        """The config of the training."""
        return training_config(self.asked, self.plan, self.ipc)

    def store(self) -> None:
        """Make the folder, and write the plan into it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = asdict(self) | {"folder": None}
        write_atomically(self.folder / STORED, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def training_config(asked: Asked, plan: "DistillPlan", ipc: int) -> "TrainConfig":
    own = {name: getattr(asked, name) for name in ("seed", "base", "resolution", "watchers")}
    return plan.config(ipc=ipc, **own, **asked.image_options)


def resume_command(out: Path) -> str:
    """The command that continues the distillation of `out`."""
    return shown(["dpd", "distill", "--resume", "--out", out])


def read_distillation(folder: Path) -> Distillation:
    """Read what `folder` holds.

    Raises:
        InputError: no distillation, or one of another version.
    """
    from dpd_train.run.planning.plan import DistillPlan

    try:
        content = json.loads((folder / STORED).read_text(encoding="utf-8"))
        plan, asked, notes = DistillPlan(**content["plan"]), Asked(**content["asked"]), tuple(content["notes"])
        return Distillation(**content | {"folder": folder, "asked": asked, "notes": notes, "plan": plan})
    except OSError:
        raise InputError(f"{folder}: holds no distillation; begin one with dpd distill DATA --out OUT") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}: was made by another version of dpd ({error}); choose another --out") from error


def check_resumed(request: Request, out: Path) -> None:
    """Check that a stored distillation writes to the --out of the command line, and nowhere else.

    Raises:
        InputError: it does not. A run folder that somebody else made could name any place.
    """
    if Path(request.out).resolve() != out.resolve():
        raise InputError(
            f"{folder_of(out)}: was begun with --out {request.out}, not {out}; nothing was changed: give that --out, "
            "move the folder back to where it was, or begin again with another --out"
        )


def resumed_lines(request: Request) -> list[str]:
    """What a resumed distillation reads, as the run folder says, for the user to look at."""
    return [f"data          {request.data}, as the run folder says", f"base          {request.base}"]


def begin(asked: Asked, tell: Tell) -> Distillation:
    """Check the data, measure this machine, and plan. Nothing is written.

    Args:
        tell: prints a line. What the data are like is told before this machine is measured.

    Raises:
        DataError, InputError: unusable data, options or places, or a plan that does not fit into the time.
    """
    from dpd_runtime.machine.cores import idle_cores, usable_cores
    from dpd_train.bases.folder import check_base_bands
    from dpd_train.images import check_files, count_scenes
    from dpd_train.images.look import look_at
    from dpd_train.run.folder import fate_of_scenes
    from dpd_train.run.planning.plan import (
        MINUTES,
        QUICK_MINUTES,
        TOLERANCE,
        fitting_plan,
        full_plan,
        make_plan,
        on_idle_cores,
        plan_remarks,
        remarks,
        task_of,
    )

    out, cores = Path(asked.out), usable_cores()
    folder = folder_of(out)
    check_places(folder, out)
    data = Path(asked.data)
    _check_data(asked, folder)
    files = check_files(data, "train", asked)
    tell(f"data          {counted(sum(files.values()), 'training image')} of {counted(len(files), 'class')}")
    look = look_at(data, asked.reading)
    look.check(data)
    fate = fate_of_scenes(look.sample.sides, asked.base, asked.resolution)
    for line in fate:
        tell(f"note          {line}")
    with progress_bar("looking for near duplicates"):
        found, held = count_scenes(data, "train", asked, asked.reading), held_images(data, asked, asked.holdout)
    found.check(data)
    counts = found.scenes
    check_base_bands(asked.base, look.bands)
    task = task_of(counts, asked.ipc, asked.codes_only, asked.quick, sum(held.scenes.values()), bool(look.bands))
    _check_codes(task, counts, asked.watchers)
    threads, idle = asked.threads or idle_cores(), None
    notes = [*look.remarks(), *scene_remarks(found), *remarks(counts, task)]
    if not asked.quick:
        notes += audit_remarks(held)
    for line in notes:
        tell(f"note          {line}")
    of_plan = list[str]()
    if asked.plan is not None:
        repeated = read_distillation(Path(asked.plan))
        plan = repeated.plan
        if repeated.asked.watchers != asked.watchers:
            had = f"{asked.plan} had --watchers {repeated.asked.watchers}"
            of_plan.append(f"{had}, not {asked.watchers}: the times of the plan are not those of this run")
    else:
        from dpd_train.run.planning.kept import speed_here

        with progress_bar("measuring") as progress:
            config = training_config(asked, full_plan(1, 1), task.ipc)
            alone, share = speed_here(config, threads, progress, tell, len(look.bands))
        speed = alone.beside_others(share)
        usual = QUICK_MINUTES if asked.quick else MINUTES
        plan = make_plan(task, speed, usual) if asked.minutes is None else fitting_plan(task, speed, asked.minutes)
        idle = on_idle_cores(plan.total, share, threads, cores)
        if asked.minutes is None and plan.longest > 60 * usual * TOLERANCE:
            of_plan.append(f"on this machine it takes longer than the usual {usual:g} minutes")
    if asked.threads is None and threads < cores:
        of_plan.append(f"other programs are busy: {threads} of {cores} cores are used; they may slow this")
    of_plan = [*plan_remarks(task, plan), *of_plan]
    for line in of_plan:
        tell(f"note          {line}")
    return Distillation(
        folder=folder,
        asked=asked,
        threads=threads,
        ipc=task.ipc,
        codes_only=task.codes_only,
        images=sum(found.images.values()),
        classes=task.classes,
        judged_ipc=task.judged_ipc,
        notes=(*fate, *notes, *of_plan),
        plan=plan,
        idle=idle,
    )


def check_places(folder: Path, out: Path) -> None:
    """Check that a distillation can write its folder and its bundle.

    Raises:
        InputError: something is there already, or nothing can be written there.
    """
    if folder.exists() and any(folder.iterdir()):
        begun = (folder / STORED).exists() or (folder / STORED_PRIVATE).exists()
        way = f"continue it with: {resume_command(out)}, or " if begun else ""
        raise InputError(f"{folder} exists; {way}choose another --out")
    if out.exists():
        raise InputError(f"--out {out} exists; choose another --out")
    check_writable(out)


def _check_data(asked: Asked, folder: Path) -> None:
    """Check the data before an image is opened."""
    from dpd_train.images import check_files
    from dpd_train.run.folder import check_inputs
    from dpd_train.run.planning.plan import USUAL_IPC, full_plan

    data = Path(asked.data)
    check_inputs(data, folder / "training", training_config(asked, full_plan(1, 1), asked.ipc or USUAL_IPC))
    if asked.holdout:
        _check_holdout(Path(asked.holdout), set(check_files(data, "train", asked)), asked.elsewhere)


def _check_codes(task: "Task", counts: Mapping[str, int], watchers: str) -> None:
    """Check that codes can be matched where the options ask for them."""
    from dpd_train.config import OWN
    from dpd_train.run.folder import LEAST_MATCHED

    asked = "--codes-only" if task.codes_only else f"--watchers {watchers}" if watchers != OWN else None
    if asked is not None and not task.matched:
        least = min(counts, key=counts.__getitem__)
        raise DataError(
            f"{asked}: class {least!r} has {counted(task.smallest, 'training image')}, too few for matched codes, "
            f"which need {LEAST_MATCHED}; add some, or leave it out"
        )


def held_images(data: Path, options: "ImageOptions", holdout: str | None) -> "Counted":
    """The images that the audit compares with."""
    from dpd_train.images import count_scenes

    if holdout:
        return count_scenes(Path(holdout), "all", options.elsewhere, options.reading)
    return count_scenes(data, "val", options, options.reading)


def scene_remarks(found: "Counted") -> list[str]:
    """A line if training images show scenes that others show too."""
    if sum(found.scenes.values()) == sum(found.images.values()):
        return []
    return [f"training part: {found}; turned, mirrored and near duplicates count once, and one of each is trained on"]


def audit_remarks(held: "Counted") -> list[str]:
    """A line if the audit has few scenes that the bundle was not made from."""
    from dpd_eval.verdict import FEWEST_IMAGES

    if sum(held.scenes.values()) >= FEWEST_IMAGES:
        return []
    return [
        f"the audit compares with {held}; with so few a WARN is to be expected, as some tests and controls "
        "cannot decide: --holdout or --val-per-class gives it more"
    ]


def _check_holdout(holdout: Path, classes: set[str], held_out: "HeldOut") -> None:
    from dpd_train.images import check_files

    if missing := sorted(classes - set(check_files(holdout, "all", held_out))):
        raise DataError(f"--holdout {holdout}: has no images of {missing[0]!r}; give images of every class")
