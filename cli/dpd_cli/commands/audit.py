"""`dpd audit`: what a bundle, a run or a set tells of the images it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dpd_eval.audit.audit import AuditResult


def audit_command(
    subject: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN|SET", help="What is to be audited.")],
    train: Annotated[Path, typer.Option(help="The real images it was trained on (without the validation part).")],
    holdout: Annotated[
        Path | None,
        typer.Option(help="Images of the same kind that were never trained on (default: the validation part)."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="The run of the bundle: its VAE encoder, and room for pictures in its private/.")
    ] = None,
    val_per_class: Annotated[int | None, typer.Option(help="Validation images a class (default: n // 10)")] = None,
    images: Annotated[int, typer.Option(help="Images to generate and judge; fewer than 500 are a warning.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the generation.")] = 0,
    bands: Annotated[str | None, typer.Option(help="Bands of the real images for red, green, blue: 4,3,2.")] = None,
    stretch: Annotated[
        str | None, typer.Option(help="Percentiles such as 2,98, or pixel values such as 0:3000, for black and white.")
    ] = None,
    private: Annotated[
        Path | None,
        typer.Option(help="Folder for the worst pairs: real images (default: RUN/private/audit)"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a copy of the bundle with audit.json and the verdict in its manifest.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that lies at --out.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure replication, prototypes, artefacts and membership against the training images, with controls.

    Exit code 4: the verdict is FAIL. A run gets its audit.json; a bundle gets it in the copy at --out.

    Examples:

        dpd audit site.dpd --train scenes/ --holdout heldout/ --run run --out audited.dpd

        dpd audit run --train scenes/ --val-per-class 100

        dpd audit set/ --train scenes/ --holdout heldout/ --private pairs/
    """
    from dpd_cli.commands.torch_half import require_torch
    from dpd_cli.terminal import print_json, stage_progress

    check_out(subject, out, overwrite)
    require_torch("cpu")
    from dpd_eval.audit.audit import audit
    from dpd_eval.audit.record import check_verdict, write_record
    from dpd_train.images import parse_reading

    with stage_progress() as stage:
        result = audit(
            subject,
            train=train,
            holdout=holdout,
            run=run,
            val_per_class=val_per_class,
            images=images,
            seed=seed,
            reading=parse_reading(bands, stretch),
            private=private,
            stage=stage,
        )
    written = write_record(result, subject, out)
    if json_output:
        print_json(result.to_dict() | written)
    else:
        _print(result)
        for what, where in written.items():
            print(f"{what:10s} {where}")
    check_verdict(result)


def check_out(subject: Path, out: Path | None, overwrite: bool) -> None:
    """Before minutes of computing.

    Raises:
        InputError: --out for something that is no bundle, or something at `out` which may not be replaced.
    """
    from dpd_runtime.errors import InputError
    from dpd_runtime.sealing.reseal import check_target

    if out is None:
        return
    if subject.is_dir() and not (subject / "bundle.json").is_file():
        raise InputError(f"--out {out} has no effect: {subject} is no bundle; a run gets its audit.json, see --json")
    check_target(out, overwrite)


def _print(result: "AuditResult") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows in (
        ("tests", [(test, test.verdict, "") for test in result.tests]),
        ("controls", [(c.outcome, c.outcome.verdict, f"must {c.expected}") for c in result.controls]),
    ):
        table = Table(title=title)
        for heading in ("name", "value", "95 % interval", "limit", "verdict"):
            table.add_column(heading, justify="left" if heading in ("name", "verdict") else "right")
        for test, verdict, expected in rows:
            ends = "" if test.interval is None else f"{test.interval[0]:.3f} to {test.interval[1]:.3f}"
            numbers = ("" if number is None else f"{number:.3f}" for number in (test.value, test.threshold))
            value, limit = numbers
            table.add_row(test.name, value, ends, limit, f"{verdict} {f'({expected})' if expected else ''}".strip())
        console.print(table)
    for note in (*result.notes, *(f"{t.name}: {t.note}" for t in result.tests if t.verdict not in ("PASS",))):
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if result.private is not None:
        console.print(f"private    {result.private} shows real images", highlight=False, markup=False, soft_wrap=True)
    console.print(f"verdict    {result.verdict}, {result.seconds:.0f} s", highlight=False)
