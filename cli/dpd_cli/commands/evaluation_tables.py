"""How `dpd evaluate` shows its result in a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from dpd_eval.comparison.results import ArmResult, Evaluation


def print_evaluation(result: "Evaluation") -> None:
    """Figures of every arm, the cross-architecture table, paired differences with verdicts, set metrics, notes."""
    from rich.console import Console

    console = Console()
    console.print(_arms(result))
    if len(result.students) > 1:
        for ipc in dict.fromkeys(arm.ipc for arm in result.arms):
            console.print(_students(result, ipc))
    for line in _comparisons(result):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if result.metrics:
        console.print(_metrics(result))
        console.print(f"features: {result.extractor}", highlight=False, markup=False, soft_wrap=True)
    if result.teacher:
        console.print(f"soft labels: {result.teacher}", highlight=False, markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{result.seconds:.0f} s", highlight=False)


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> "Table":
    from rich.table import Table

    table = Table(title=title)
    for heading in texts:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _std(arm: "ArmResult") -> str:
    return "" if arm.oa_std is None else f"{100 * arm.oa_std:.2f}"


def _arms(result: "Evaluation") -> "Table":
    title = (
        f"{result.test_images} test images, {result.resolution} px, recipe {result.recipe.name}, {result.labels} labels"
    )
    numbers = ("IPC", "images", "steps", "pairs", "OA %", "± std", "AA %", "kappa")
    table = _table(title, ("arm", "student"), numbers)
    for arm in result.arms:
        counts = (str(arm.ipc), str(arm.images), str(arm.steps), str(len(arm.oa_runs)))
        figures = (f"{100 * arm.oa_mean:.2f}", _std(arm), f"{100 * arm.aa:.2f}", f"{arm.kappa:.4f}")
        table.add_row(arm.arm, arm.student, *counts, *figures)
    return table


def _students(result: "Evaluation", ipc: int) -> "Table":
    cells = {(arm.arm, arm.student): f"{100 * arm.oa_mean:.2f} ± {_std(arm)}" for arm in result.arms if arm.ipc == ipc}
    table = _table(f"OA % by student, IPC {ipc}", ("arm",), tuple(result.students))
    for name in dict.fromkeys(arm.arm for arm in result.arms):
        table.add_row(name, *(cells[name, student].rstrip("± ") for student in result.students))
    return table


def _comparisons(result: "Evaluation") -> list[str]:
    lines = []
    for row, goal in zip(result.differences, result.verdicts, strict=True):
        gap = row.difference
        ends = "one pair, no interval"
        if gap.low is not None and gap.high is not None:
            ends = f"95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
        ratio = "" if row.ratio is None else f", ratio {row.ratio:.3f}"
        lines.append(
            f"{row.arm} − {row.reference} ({row.student}, IPC {row.ipc}): {100 * gap.mean:+.2f} points, {ends}, "
            f"n = {gap.n}{ratio}; at least {goal.ratio:g} × {goal.reference}: {goal.verdict}"
        )
    return lines


def _metrics(result: "Evaluation") -> "Table":
    numbers = (
        "IPC",
        "KID",
        "± std",
        "precision",
        "recall",
        "density",
        "coverage",
        "max cosine",
        "diversity",
        "teacher %",
    )
    table = _table("first pair's images beside all real training images", ("arm",), numbers)
    for row in result.metrics:
        shares = (row.precision, row.recall, row.density, row.coverage, row.mean_max_cosine, row.intra_class_diversity)
        agreed = "" if row.teacher_agreement is None else f"{100 * row.teacher_agreement:.1f}"
        distances = (f"{row.kid:.4f}", f"{row.kid_std:.4f}")
        table.add_row(row.arm, str(row.ipc), *distances, *(f"{share:.3f}" for share in shares), agreed)
    return table
