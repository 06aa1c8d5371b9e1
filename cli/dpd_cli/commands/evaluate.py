"""`dpd evaluate`: what a distilled set is worth beside real subsets of the same size."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpd_cli.options import (
    Device,
    Json,
    Key,
    Require,
    TrustedKey,
    Values,
    extras_of,
    given_values,
    open_teacher,
    options_of,
    require_torch,
    under,
)
from dpd_cli.terminal import Update, print_json, print_table, stage_progress, table
from dpd_eval.options import EvaluateConfig  # noqa: TID253 -- loads no PyTorch
from dpd_runtime.files import cache_folder, check_cache, check_file_place, dumps, write_atomically
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from rich.table import Table

    from dpd_eval.results import ArmResult, Evaluation

Sets = Annotated[
    list[Path],
    typer.Argument(metavar="SET...", help="Folders of distilled sets. Of m sets, pair i uses number i mod m."),
]
Train = Annotated[Path, under("Data", "Labelled real images. Baselines are taken from the training part.")]
Test = Annotated[str, under("Data", "Folder of test images, or val for the validation part of --train.")]
Teacher = Annotated[
    Path | None,
    under(
        "Model",
        "Also train on SET and on each baseline but full with this bundle's classifier answering every view in the "
        "place of labels. dpd fit --teacher trains students by the recipe taught; give that, too.",
        metavar="BUNDLE",
    ),
]
Out = Annotated[Path | None, under("Output", "Also write the JSON result to this file.")]

SHARES = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "max cosine": "mean_max_cosine",
    "diversity": "intra_class_diversity",
}
"""Set metrics by the name that is printed."""


@options_of(EvaluateConfig)
def evaluate_command(
    sets: Sets,
    train: Train,
    test: Test,
    out: Out = None,
    teacher: Teacher = None,
    device: Device = "auto",
    json_output: Json = False,
    key: Key = None,
    trusted_key: TrustedKey = None,
    require: Require = None,
    *,
    given: Values,
) -> None:
    """Train students on distilled sets and on real subsets, and compare them.

    All students of a pair have the same recipe, seed and number of images.

    Examples:
        dpd evaluate set/ --train data/train --test val --ipc 10
        dpd evaluate set0/ set1/ --train data/train --test data/test --jobs 2
        dpd evaluate set/ --train data/train --test val --baselines random,full
        dpd evaluate set/ --train data/train --test val --students convnet,resnet
        dpd evaluate set/ --train data/ --test val --teacher site.dpd --recipe taught
    """
    if out is not None:
        check_file_place("--out", out)
    config = EvaluateConfig(**given_values(given, EvaluateConfig, train))
    place = "val" if test == "val" else Path(test)
    runtime = () if teacher is None else ("cpu",)
    require_torch(*runtime, *extras_of(config.reading, train, None if place == "val" else Path(test)))
    from dpd_eval.inputs import open_evaluation
    from dpd_train.config import check_device

    asked = open_teacher(teacher, key, trusted_key, require)
    opened = open_evaluation(sets, config, train, place, asked)  # type: ignore[arg-type]
    check_device(device)
    check_cache(cache_folder("evaluate"))
    from dpd_eval.evaluation import compare  # loads PyTorch

    with stage_progress() as stage:
        bar: list[Update] = []

        def tell(done: float, total: int, what: str) -> None:
            if not bar:
                bar.append(stage("training students, %"))
            bar[0](round(100 * done / total), 100)  # one long training has parts: a count would not move

        result = compare(opened, device=device, progress=tell, stage=stage)
    if out is not None:
        write_atomically(out, dumps(result.to_dict()))
    if json_output:
        print_json(result.to_dict())
    else:
        print_evaluation(result)


def print_evaluation(result: "Evaluation") -> None:
    """Print accuracies by arm and by student, differences with verdicts, scores, set metrics and notes."""
    from rich.console import Console

    console = Console()
    print_table(console, *_arms(result))
    if len(result.students) > 1:
        for ipc in dict.fromkeys(arm.ipc for arm in result.arms):
            print_table(console, f"OA % by student, IPC {ipc}", _students(result, ipc))
    for line in _comparisons(result):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in _ranking(result):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for ipc in dict.fromkeys(row.ipc for row in result.metrics):
        title = f"first pair's images beside all real training images, IPC {ipc}"
        print_table(console, title, _metrics(result, ipc))
    if result.metrics:
        console.print(f"features: {result.extractor}", highlight=False, markup=False, soft_wrap=True)
    if result.teacher and result.labels == "soft":
        console.print(f"soft labels: {result.teacher}", highlight=False, markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{result.seconds:.0f} s", highlight=False)


def _std(arm: "ArmResult") -> str:
    return "" if arm.oa_std is None else f"{100 * arm.oa_std:.2f}"


def _shown(student: str) -> str:
    """A student's name, of a folder the last part alone: tables are narrow."""
    from dpd_eval.pretrained import without_folder

    return without_folder(student)


def _arms(result: "Evaluation") -> tuple[str, "Table"]:
    """Title and table of accuracies by arm. What all arms share, student or steps, is in the title alone."""
    from dpd_eval.results import is_taught

    about = [f"{counted(result.test_images, 'test image')}", f"{result.resolution} px", f"recipe {result.recipe.name}"]
    students, steps = ({getattr(arm, name) for arm in result.arms} for name in ("student", "steps"))
    about += map(_shown, students) if len(students) == 1 else []
    about += [f"{counted(count, 'step')}" for count in steps] if len(steps) == 1 else []
    texts = ("arm", "student") if len(students) > 1 else ("arm",)
    numbers = ("IPC", "images", *(("steps",) if len(steps) > 1 else ()), "pairs", "OA %", "± std", "AA %", "kappa")
    accuracies = table(texts, numbers)
    for arm in result.arms:
        names = (arm.arm, _shown(arm.student))[: len(texts)]
        counts = (arm.ipc, arm.images, *((arm.steps,) if len(steps) > 1 else ()), len(arm.oa_runs))
        figures = (f"{100 * arm.oa_mean:.2f}", _std(arm), f"{100 * arm.aa:.2f}", f"{arm.kappa:.3f}")
        accuracies.add_row(*names, *map(str, counts), *figures)
    labels = f"{result.labels} labels" + (", taught … by a teacher" if any(map(is_taught, result.arm_names())) else "")
    return f"{', '.join(about)}, {labels}", accuracies


def _students(result: "Evaluation", ipc: int) -> "Table":
    cells = {(arm.arm, arm.student): f"{100 * arm.oa_mean:.2f} ± {_std(arm)}" for arm in result.arms if arm.ipc == ipc}
    accuracies = table(("arm",), tuple(map(_shown, result.students)))
    for name in dict.fromkeys(arm.arm for arm in result.arms):
        accuracies.add_row(name, *(cells[name, student].rstrip("± ") for student in result.students))
    return accuracies


def _comparisons(result: "Evaluation") -> list[str]:
    lines = []
    for row, goal in zip(result.differences, result.verdicts, strict=True):
        gap = row.difference
        ends = f"one {result.repeated.removesuffix('s')}, no interval"
        if gap.low is not None and gap.high is not None:
            ends = f"95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f} over {gap.n} {result.repeated}"
        ratio = "" if row.ratio is None else f", ratio {row.ratio:.3f}"
        lines.append(
            f"{row.arm} − {row.reference} ({_shown(row.student)}, IPC {row.ipc}): {100 * gap.mean:+.2f} points, "
            f"{ends}{ratio}; at least {goal.ratio:g} × {goal.reference}: {goal.verdict}"
        )
    return lines


def _ranking(result: "Evaluation") -> list[str]:
    from dpd_eval.ranking import dd_ranking

    return [
        f"DD-Ranking ({_shown(row.student)}, IPC {row.ipc}, {row.labels} labels): label-robust score "
        f"{row.label_robust:.3f}; {100 * row.recovery:+.2f} points behind all real images, "
        f"{100 * row.improvement:+.2f} beyond random ones"
        for row in (dd_ranking(result) if result.labels == "hard" else ())
    ]


def _metrics(result: "Evaluation", ipc: int) -> "Table":
    """Set metrics of this IPC, one column for each arm."""
    rows = [row for row in result.metrics if row.ipc == ipc]
    metrics = table(("",), tuple(row.arm for row in rows))
    metrics.add_row("KID", *(f"{row.kid:.4f} ± {row.kid_std:.4f}" for row in rows))
    for name, field in SHARES.items():
        metrics.add_row(name, *(f"{getattr(row, field):.3f}" for row in rows))
    agreed = [row.teacher_agreement for row in rows]
    metrics.add_row("teacher %", *("" if share is None else f"{100 * share:.1f}" for share in agreed))
    return metrics
