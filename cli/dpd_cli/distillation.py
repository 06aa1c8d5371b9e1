"""The stages of `dpd distill`: each calls a room and leaves a file, so that a killed distillation continues."""

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_cli.terminal import Update
from dpd_runtime.errors import AuditError, DataError, InputError
from dpd_runtime.files import check_writable, write_atomically

if TYPE_CHECKING:
    from dpd_train.config import TrainConfig
    from dpd_train.images import Reading
    from dpd_train.run.planning.plan import DistillPlan

STORED = "plan.json"
Stage = Callable[[str], Update]
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asked for, as it is stored.

    Args:
        data, out, holdout: absolute paths. repeats: folder of the distillation whose plan is repeated.
        threads: None for the cores that are idle when the plan is made.
    """

    data: str
    out: str = ""
    minutes: float = 90.0
    ipc: int = 10
    holdout: str | None = None
    seed: int = 0
    base: str = "nano"
    resolution: int | None = None
    val_per_class: int | None = None
    bands: str | None = None
    stretch: str | None = None
    threads: int | None = None
    repeats: str | None = None

    def __post_init__(self) -> None:
        """Raises:
        InputError: a value out of range.
        """
        if not 0 < self.minutes < 1e5:
            raise InputError(f"--minutes is {self.minutes:g}: give a number above 0")
        for name in ("ipc", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}: it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A distillation with its folder and its plan; None until the plan is made. notes: lines about data and plan."""

    folder: Path
    asked: Asked
    threads: int
    images: int
    classes: int
    judged_ipc: int
    notes: tuple[str, ...]
    plan: "DistillPlan | None"

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
    def reading(self) -> "Reading":
        from dpd_train.images import parse_reading

        return parse_reading(self.asked.bands, self.asked.stretch)

    def config(self) -> "TrainConfig":
        """The config of the training."""
        assert self.plan is not None
        names = ("ipc", "seed", "base", "resolution", "val_per_class", "bands", "stretch")
        return self.plan.config(**{name: getattr(self.asked, name) for name in names})

    def store(self) -> None:
        """Write the plan into the folder."""
        content = asdict(self) | {"folder": None}
        write_atomically(self.folder / STORED, (json.dumps(content, indent=1) + "\n").encode())


def folder_of(out: Path) -> Path:
    """The folder of the distillation of the bundle `out`: `site-run` beside `site.dpd`."""
    return out.with_name(f"{out.name.removesuffix('.dpd')}-run")


def resume_command(out: Path) -> str:
    """The command that continues the distillation of `out`."""
    return f"dpd distill --resume --out {shlex.quote(str(out))}"


def read_distillation(folder: Path) -> Distillation:
    """Read what `folder` holds.

    Raises:
        InputError: no distillation, or one of another version.
    """
    from dpd_train.run.planning.plan import DistillPlan

    try:
        content = json.loads((folder / STORED).read_text(encoding="utf-8"))
        plan = content["plan"] and DistillPlan(**content["plan"])
        asked, notes = Asked(**content["asked"]), tuple(content["notes"])
        return Distillation(**content | {"folder": folder, "asked": asked, "notes": notes, "plan": plan})
    except OSError:
        raise InputError(f"{folder}: holds no distillation; begin one with dpd distill DATA --out OUT") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}: was made by another version of dpd ({error}); choose another --out") from error


def begin(asked: Asked, out: Path, *, resume: bool) -> Distillation:
    """Check the data, measure this machine, and store the plan.

    Args:
        resume: the folder exists, as an earlier session was killed before it had a plan.

    Raises:
        DataError, InputError: unusable data, options or places; nothing is written then.
    """
    from dpd_runtime.machine.cores import usable_cores
    from dpd_runtime.sealing.reseal import check_target
    from dpd_train.images import check_files
    from dpd_train.run.folder import check_inputs
    from dpd_train.run.planning.plan import remarks, task_of

    folder = folder_of(out)
    if folder.exists() and not resume:
        way = f"continue it with: {resume_command(out)}, or " if (folder / STORED).exists() else ""
        raise InputError(f"{folder} exists; {way}choose another --out")
    check_target(out, overwrite=False)
    check_writable(out)
    made = Distillation(
        folder=folder,
        asked=replace(asked, out=str(out.absolute())),
        threads=asked.threads or max(1, usable_cores() - round(os.getloadavg()[0])),
        images=0,
        classes=0,
        judged_ipc=0,
        notes=(),
        plan=None,
    )
    from dpd_train.run.planning.plan import full_plan

    check_inputs(made.data, made.training, replace(made, plan=full_plan(1, 1)).config())
    counts = check_files(made.data, "train", asked.val_per_class)
    if made.asked.holdout:
        _check_holdout(made, set(counts))
    folder.mkdir(parents=True, exist_ok=True)
    made.store()
    task = task_of(counts, asked.ipc)
    plan = _repeated(asked) or _measured(made, counts)
    notes = remarks(counts, task, plan, None if asked.repeats else asked.minutes)
    if made.threads < usable_cores():
        notes.append(f"other programs are busy: {made.threads} of {usable_cores()} cores are used; they may slow this")
    made = replace(
        made,
        images=task.images,
        classes=task.classes,
        judged_ipc=task.judged_ipc,
        notes=tuple(notes),
        plan=plan,
    )
    made.store()
    return made


def _check_holdout(made: Distillation, classes: set[str]) -> None:
    from dpd_train.images import check_files

    holdout = Path(made.asked.holdout or "")
    if missing := sorted(classes - set(check_files(holdout, "all"))):
        raise DataError(f"--holdout {holdout}: has no images of {missing[0]!r}; give images of every class")


def _repeated(asked: Asked) -> "DistillPlan | None":
    return None if asked.repeats is None else read_distillation(Path(asked.repeats)).plan


def _measured(made: Distillation, counts: dict[str, int]) -> "DistillPlan":
    """The plan for this machine, from a few steps of every kind."""
    import torch

    from dpd_train.bases.base import load_base
    from dpd_train.compute.device import use_device
    from dpd_train.run.data import fitted
    from dpd_train.run.planning.plan import full_plan, make_plan, task_of
    from dpd_train.run.planning.speed import measure_speed

    torch.set_num_threads(made.threads)
    config = replace(made, plan=full_plan(1, 1)).config()
    speed = measure_speed(fitted(load_base(config.base), config), config, use_device("auto"))
    return make_plan(task_of(counts, made.asked.ipc), speed, made.asked.minutes)


def distil(made: Distillation, stage: Stage, tell: Tell) -> dict[str, Any]:
    """Make everything that is not there yet. Returns the facts for the user."""
    from dpd_train.run.folder import Stopwatch

    watch = Stopwatch(made.folder / "seconds.json")
    stage = watch.around(stage)
    finished = made.folder / "result.json"
    if not finished.exists():
        for number, work in enumerate((_train, _export, _judge, _audit), start=1):
            tell(f"stage {number}/4     {(work.__doc__ or '').splitlines()[0].rstrip('.')}")
            work(made, stage, tell)
            watch.keep()
        write_atomically(finished, (json.dumps(_result(made, watch.seconds), indent=1) + "\n").encode())
    content: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    return content


def _train(made: Distillation, stage: Stage, tell: Tell) -> None:
    """Train the networks and match codes."""
    if (made.training / "run.json").exists():
        return
    import torch

    from dpd_train.compute.device import use_device
    from dpd_train.train import train

    torch.set_num_threads(made.threads)
    train(made.data, made.training, made.config(), resume=True, device=use_device("auto"), progress=stage)


def _export(made: Distillation, stage: Stage, tell: Tell) -> None:
    """Export a bundle and verify it against PyTorch's images."""
    if (made.folder / "audit.json").exists():
        return
    from dpd_export import ExportOptions, export_run
    from dpd_runtime.bundle.bundle import load_bundle
    from dpd_runtime.engines.engine import Provider
    from dpd_runtime.generation.replay import check_replay, replay

    if not made.unaudited.exists():
        options = ExportOptions(name=made.out.name.removesuffix(".dpd"))  # codes-only bundles are asked for here
        export_run(made.training, made.unaudited, options, progress=stage("exporting"), tell=tell)
    bundle = load_bundle(made.unaudited)
    if (done := replay(bundle, Provider("cpu", "requested", 0))) is not None:
        check_replay(done, bundle.manifest.precision, "cpu")
        tell(f"verified      golden images {done.psnr_db:.1f} dB from PyTorch's, {done.limit_db:.0f} dB are needed")


def _judge(made: Distillation, stage: Stage, tell: Tell) -> None:
    """Compare students on the set with students on real images."""
    place, images = made.folder / "evaluation.json", made.folder / "set"
    if place.exists():
        return
    from dpd_eval import evaluate
    from dpd_eval.comparison.config import EvaluateConfig
    from dpd_runtime import generate, load_bundle, write_set

    assert made.plan is not None
    bundle = load_bundle(made.unaudited)
    write_set(generate(bundle, ipc=made.judged_ipc, seed=made.asked.seed, provider="cpu"), images, stage("generating"))
    config = EvaluateConfig(
        baselines=("random", "herding"),
        ipc=(made.judged_ipc,),
        pairs=made.plan.pairs,
        val_per_class=made.asked.val_per_class,
        bands=made.asked.bands,
        stretch=made.asked.stretch,
        jobs=made.threads,
    )
    students = stage("training students, %")
    found = evaluate(
        [images],
        config,
        train=made.data,
        test="val",
        progress=lambda done, total, what: students(round(100 * done / total), 100),
        stage=stage,
    )
    write_atomically(place, (json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n").encode())


def _audit(made: Distillation, stage: Stage, tell: Tell) -> None:
    """Audit the bundle against images that it was not made from, and write the report."""
    from dpd_eval.audit.audit import audit
    from dpd_eval.audit.record import write_record
    from dpd_eval.report.report import write_report
    from dpd_train.run.planning.plan import AUDIT_IMAGES

    place = made.folder / "audit.json"
    if not place.exists():
        result = audit(
            made.unaudited,
            train=made.data,
            holdout=Path(made.asked.holdout) if made.asked.holdout else None,
            run=made.training,
            val_per_class=made.asked.val_per_class,
            images=AUDIT_IMAGES,
            seed=made.asked.seed,
            reading=made.reading,
            stage=stage,
        )
        write_record(result, made.unaudited, made.out)
        write_atomically(place, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
    inputs = [made.folder / "evaluation.json", made.folder / "set", made.out, made.training]
    write_report(inputs, made.folder / "report.html")
    made.unaudited.unlink(missing_ok=True)


def _result(made: Distillation, seconds: float) -> dict[str, Any]:
    """The facts at the end, as `--json` prints them."""
    from dpd_runtime.bundle.bundle import load_bundle

    assert made.plan is not None
    read = {name: json.loads((made.folder / f"{name}.json").read_text("utf-8")) for name in ("evaluation", "audit")}
    table = json.loads((made.training / "classes.json").read_text("utf-8"))
    doubts = [test["name"] for test in read["audit"]["tests"] if test["verdict"] != "PASS"]
    broken = [c["name"] for c in read["audit"]["controls"] if c["verdict"] not in (c["expected"], "NOT RUN")]
    return {
        "out": str(made.out),
        "bytes": sum(f.stat().st_size for f in made.out.rglob("*")) if made.out.is_dir() else made.out.stat().st_size,
        "bundle_hash": load_bundle(made.out, allow_older=True).hash,
        "prototypes": table["prototype_kind"],
        "judged": {name: read["evaluation"][name] for name in ("arms", "differences", "test_images")},
        "verdict": read["audit"]["verdict"],
        "why": ", ".join([*doubts, *(f"control {name}" for name in broken)]),
        "seconds": seconds,
        "planned_seconds": made.plan.total,
        "report": str(made.folder / "report.html"),
        "set": str(made.folder / "set"),
        "run": str(made.folder),
    }


def failed_audit(result: dict[str, Any]) -> None:
    """Raise an error if the audit failed; everything has been written then.

    Raises:
        AuditError: the verdict is FAIL.
    """
    if result["verdict"] != "FAIL":
        return
    audit = json.loads((Path(result["run"]) / "audit.json").read_text("utf-8"))
    broken = [c["name"] for c in audit["controls"] if c["verdict"] not in (c["expected"], "NOT RUN")]
    raise AuditError([test["name"] for test in audit["tests"] if test["verdict"] == "FAIL"], broken)
