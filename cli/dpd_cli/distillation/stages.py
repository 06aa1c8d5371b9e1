"""The stages of `dpd distill`: each calls a room and leaves a file, so that a killed distillation continues."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_cli.distillation.planned import Distillation, Tell
from dpd_cli.progress import Update
from dpd_runtime.files import size_of, write_atomically

if TYPE_CHECKING:
    from dpd_eval.recipe import Recipe

Stage = Callable[[str], Update]
COUNTED_FOR = {
    "1": "reading and encoding",
    "2": "export and verification",
    "3": "judging",
    "4": "audit and report",
}
"""What a part of the distillation counts for in the plan, but for the stages that are in it themselves."""
QUICK = COUNTED_FOR | {"4": "judging"}


def distil(made: Distillation, stage: Stage, tell: Tell) -> dict[str, Any]:
    """Make everything that is not there yet. Returns the facts for the user.

    Raises:
        InputError: another process works in the folder.
    """
    from dpd_runtime.file_lock import worked_in

    with worked_in(made.folder, "dpd distill"):
        return _distil(made, stage, tell)


def _distil(made: Distillation, stage: Stage, tell: Tell) -> dict[str, Any]:
    from dpd_train.compute.tracking import Stopwatch

    watch = Stopwatch(made.folder / "seconds.json")
    works = (_train, _export, _judge, _look if made.asked.quick else _audit)
    timed = watch.around(stage)
    finished = made.folder / "result.json"
    if not finished.exists():
        for number, work in enumerate(works, start=1):
            tell(f"stage {number}/{len(works)}     {(work.__doc__ or '').splitlines()[0].rstrip('.')}")
            part = f"{number}/{len(works)}"
            work(made, partial(_part, timed, part), tell)
            watch.end(f"{part} the rest")
            watch.keep()
        write_atomically(
            finished, (json.dumps(_result(made, watch.times()), indent=1, allow_nan=False) + "\n").encode()
        )
    content: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    return content


def _part(stage: Stage, part: str, title: str) -> Update:
    return stage(f"{part} {title}")


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
    if made.out.exists() or (made.folder / "audit.json").exists():
        return
    from dpd_export import ExportOptions, export_run
    from dpd_runtime.bundle.bundle import load_bundle
    from dpd_runtime.engines.engine import Provider
    from dpd_runtime.generation.replay import check_replay, replay

    if not made.unaudited.exists():
        options = ExportOptions(name=made.out.name.removesuffix(".dpd"), codes_only=made.codes_only)
        export_run(made.training, made.unaudited, options, progress=stage("exporting"), tell=tell)
    bundle = load_bundle(made.unaudited)
    if (done := replay(bundle, Provider("cpu", "requested", 0))) is not None:
        check_replay(done, bundle.manifest.precision, "cpu")
        tell(f"verified      golden images {done.psnr_db:.1f} dB from PyTorch's, {done.limit_db:.0f} dB are needed")


def _look(made: Distillation, stage: Stage, tell: Tell) -> None:
    """Write a report of what is not audited."""
    from dpd_eval.report import write_report

    if not made.out.exists():
        made.unaudited.replace(made.out)
    write_report(list(made.results.values()), made.folder / "report.html")


def _judge(made: Distillation, stage: Stage, tell: Tell) -> None:
    """Compare students on the set with students on real images."""
    place = made.folder / "evaluation.json"
    if place.exists():
        return
    from dpd_eval import evaluate
    from dpd_eval.options import EvaluateConfig
    from dpd_runtime import generate, load_bundle, write_set

    bundle, images = load_bundle(made.unaudited), made.folder / "set"
    write_set(generate(bundle, ipc=made.judged_ipc, seed=made.asked.seed, provider="cpu"), images, stage("generating"))
    config = EvaluateConfig(
        baselines=("random", "full" if made.asked.quick else "herding"),
        metrics=not made.asked.quick,
        ipc=(made.judged_ipc,),
        pairs=made.plan.pairs,
        **made.asked.image_options,
        jobs=made.threads,
    )
    students = stage("training students, %")
    evaluation = evaluate(
        [images],
        config,
        train=made.data,
        test="val",
        recipe=_recipe(made),
        device="auto",
        progress=lambda done, total, what: students(round(100 * done / total), 100),
        stage=stage,
    )
    write_atomically(place, (json.dumps(evaluation.to_dict(), indent=1, allow_nan=False) + "\n").encode())


def _recipe(made: Distillation) -> "Recipe":
    """How students are trained. In a first look all arms take as many steps, where that suffices for all images."""
    from dpd_eval.recipe import load_recipe
    from dpd_train.run.planning.plan import SEEN_OFTEN

    recipe = load_recipe("quick")
    return replace(recipe, full_steps=0) if made.asked.quick and made.images <= SEEN_OFTEN else recipe


def _audit(made: Distillation, stage: Stage, tell: Tell) -> None:
    """Audit the bundle against images that it was not made from, and write the report."""
    from dpd_eval.audit import audit
    from dpd_eval.report import write_report
    from dpd_eval.verdict import write_record
    from dpd_train.run.planning.plan import AUDIT_IMAGES

    place = made.folder / "audit.json"
    if not place.exists():
        result = audit(
            made.unaudited,
            train=made.data,
            holdout=Path(made.asked.holdout) if made.asked.holdout else None,
            run=made.training,
            held_out=made.asked,
            images=AUDIT_IMAGES,
            seed=made.asked.seed,
            reading=made.asked.reading,
            device="auto",
            stage=stage,
        )
        write_record(result, made.unaudited, made.out)
        write_atomically(place, (json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n").encode())
    write_report(list(made.results.values()), made.folder / "report.html")
    made.unaudited.unlink(missing_ok=True)


def _result(made: Distillation, times: dict[str, Any]) -> dict[str, Any]:
    """The facts at the end, as `--json` prints them."""
    from dpd_runtime.bundle.bundle import load_bundle
    from dpd_train.run.planning.plan import spent_by_stage

    def read(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((made.folder / f"{name}.json").read_text("utf-8"))
        return content

    evaluation = read("evaluation")
    audit = {"verdict": "unaudited", "reasons": []} if made.asked.quick else read("audit")
    table = json.loads((made.training / "classes.json").read_text("utf-8"))
    return {
        "out": str(made.out),
        "bytes": size_of(made.out),
        "bundle_hash": load_bundle(made.out, allow_older=True).hash,
        "prototypes": table["prototype_kind"],
        "judged": {name: evaluation[name] for name in ("arms", "differences", "test_images")},
        **{name: audit[name] for name in ("verdict", "reasons", "summary") if name in audit},
        **times,
        "planned_seconds": made.plan.total,
        "planned": {**made.plan.seconds, **made.plan.perhaps},
        "spent": spent_by_stage(made.plan, times["stages"], QUICK if made.asked.quick else COUNTED_FOR),
        "report": str(made.folder / "report.html"),
        "set": str(made.folder / "set"),
        "run": str(made.folder),
    }


def failed_audit(result: dict[str, Any]) -> None:
    """Raise an error if the audit failed; everything has been written then.

    Raises:
        AuditError: the verdict is FAIL.
    """
    if result["verdict"] == "unaudited":
        return
    from dpd_eval.verdict import check_verdict, read_audit

    check_verdict(read_audit(Path(result["run"]) / "audit.json"))
