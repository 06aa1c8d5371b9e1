"""`dpd evaluate`: what a distilled set is worth, beside real subsets of the same size."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dpd_eval.results import Evaluation


def split_names(text: str) -> tuple[str, ...]:
    """`a, b` → ("a", "b"); empty text is an empty tuple."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def split_numbers(text: str, option: str) -> tuple[int, ...]:
    """`10,50` → (10, 50).

    Raises:
        InputError: something that is not a whole number, naming the option.
    """
    from dpd_runtime.errors import InputError

    try:
        return tuple(int(part) for part in split_names(text))
    except ValueError:
        raise InputError(f"{option} {text}: give whole numbers with commas between them, such as 10,50") from None


def evaluate_command(
    sets: Annotated[
        list[Path], typer.Argument(metavar="SET...", help="Distilled sets (class folders); pair i uses SET i mod m.")
    ],
    train: Annotated[Path, typer.Option(help="Labelled real images; baselines draw from the training part.")],
    test: Annotated[str, typer.Option(help="Folder of test images, or 'val': the validation part of --train.")],
    students: Annotated[str, typer.Option(help="Classifiers to train, with commas.")] = "convnet",
    baselines: Annotated[str, typer.Option(help="Real subsets to compare with, with commas; '' for none.")] = "random",
    ipc: Annotated[str | None, typer.Option(help="Images a class, with commas (default: all of SET's)")] = None,
    recipe: Annotated[str, typer.Option(help="Recipe name or the path of a .toml file.")] = "quick",
    pairs: Annotated[int | None, typer.Option(help="Paired runs (default: 8 up to IPC 10, 5 above)")] = None,
    val_per_class: Annotated[int | None, typer.Option(help="Validation images a class (default: n // 10)")] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of every image in pixels (default: SET's)")] = None,
    jobs: Annotated[int, typer.Option(help="Processes, one thread each; figures do not depend on it.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the JSON result to this file too.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Train students on SET and on real subsets, with one recipe, and compare them in pairs.

    Examples:

        dpd evaluate set/ --train data/train --test val --ipc 10

        dpd evaluate set0/ set1/ set2/ --train data/train --test data/test --pairs 6 --jobs 2 --out result.json
    """
    from dpd_cli.terminal import print_json, progress_bar
    from dpd_cli.torch_half import require_torch
    from dpd_runtime.errors import InputError

    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder; give the name of a file")
    sizes = None if ipc is None else split_numbers(ipc, "--ipc")

    require_torch()
    from dpd_eval import evaluate

    with progress_bar("training students, %") as tell:  # a training has parts: percent moves where a count stands still
        result = evaluate(
            sets,
            train=train,
            test="val" if test == "val" else Path(test),
            students=split_names(students),
            baselines=split_names(baselines),
            ipc=sizes,
            recipe=recipe,
            pairs=pairs,
            val_per_class=val_per_class,
            resolution=resolution,
            jobs=jobs,
            progress=lambda done, total, what: tell(round(100 * done / total), 100),
        )
    if out is not None:
        out.write_text(json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if json_output:
        print_json(result.to_dict())
    else:
        _print_tables(result)


def _print_tables(result: "Evaluation") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{result.test_images} test images, {result.resolution} px, recipe {result.recipe.name}")
    for heading in ("arm", "student", "IPC", "images", "pairs", "OA %", "± std", "AA %", "kappa"):
        table.add_column(heading, justify="left" if heading in ("arm", "student") else "right")
    for arm in result.arms:
        std = "" if arm.oa_std is None else f"{100 * arm.oa_std:.2f}"
        figures = (f"{100 * arm.oa_mean:.2f}", std, f"{100 * arm.aa:.2f}", f"{arm.kappa:.4f}")
        table.add_row(arm.arm, arm.student, str(arm.ipc), str(arm.images), str(len(arm.oa_runs)), *figures)
    console.print(table)
    for row in result.differences:
        gap = row.difference
        ends = "one pair, no interval"
        if gap.low is not None and gap.high is not None:
            ends = f"95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
        ratio = "" if row.ratio is None else f", ratio {row.ratio:.3f}"
        console.print(
            f"{row.arm} − {row.reference} ({row.student}, IPC {row.ipc}): {100 * gap.mean:+.2f} points, {ends}, "
            f"n = {gap.n}{ratio}",
            highlight=False,
            soft_wrap=True,
        )
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{result.seconds:.0f} s", highlight=False)
