"""`dpd audit`: what a bundle, a run or a set reveals about its training images."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpd_cli.options import Device, Json, Overwrite, Values, extras_of, given_values, options_of, require_torch, under
from dpd_cli.terminal import print_json, print_table, stage_progress, table
from dpd_runtime.errors import InputError
from dpd_runtime.files import cache_folder, check_cache, check_writable
from dpd_train.config import check_device  # noqa: TID253 -- loads no PyTorch
from dpd_train.reading import ImageOptions  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_eval.verdict import Audit, Outcome

Subject = Annotated[Path, typer.Argument(metavar="SUBJECT", help="A bundle, a run directory or a distilled set.")]
Train = Annotated[Path, under("Data", "The training data. Its validation part is held out, as in the training.")]
Holdout = Annotated[
    Path | None,
    under("Data", "Images of the same kind that were not trained on. Default: the validation part of --train."),
]
Run = Annotated[Path | None, under("Data", "Run directory of the bundle. Its VAE encoder allows more tests.")]
Images = Annotated[
    int | None, under("Images", "Images to generate and test. Fewer than 500 give a warning. Default: 500.")
]
Seed = Annotated[int | None, under("Images", "Random seed of the generated images. Default: 0.")]
ExtractorName = Annotated[
    str | None,
    under(
        "Images",
        "A further network in whose features images are compared: untrained, hf:ID_OR_PATH or one of another package, "
        "such as swimdiff:FOLDER, mdfl or mdfl:BASE.",
    ),
]
Private = Annotated[
    Path | None,
    under("Output", "Folder for pictures of the closest pairs, which show real images. Default: RUN/private/audit."),
]
Out = Annotated[
    Path | None, under("Output", "Write a copy of the bundle with audit.json and with the verdict in its manifest.")
]


@options_of(ImageOptions)
def audit_command(
    subject: Subject,
    train: Train,
    holdout: Holdout = None,
    run: Run = None,
    images: Images = None,
    seed: Seed = None,
    extractor: ExtractorName = None,
    private: Private = None,
    out: Out = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    json_output: Json = False,
    *,
    given: Values,
) -> None:
    """Test what a bundle, run or set reveals about its training images.

    Tests are about copies of training images, prototypes, traces in the pixels and membership; controls show that each
    test can fail. Exit code 4 means that the verdict is FAIL. In a run, audit.json is written into the run.

    Examples:
        dpd audit site.dpd --train scenes/ --holdout heldout/ --out audited.dpd
        dpd audit run --train scenes/ --val-per-class 100
        dpd audit set/ --train scenes/ --holdout heldout/ --private pairs/
    """
    from dpd_runtime.bundle import Bundle
    from dpd_runtime.sealing import check_auditable

    check_device(device)
    check_out(subject, out, overwrite)
    for place in (out, private, subject if (subject / "run.json").is_file() else None):
        if place is not None:
            check_writable(place)
    options = ImageOptions(**given_values(given, ImageOptions, train))
    require_torch("cpu", *extras_of(options.reading, train, holdout))
    check_cache(cache_folder("audit"))
    from dpd_eval.subject import open_audit

    inputs = open_audit(
        subject,
        train=train,
        holdout=holdout,
        run=run,
        held_out=options,
        images=images,
        seed=seed,
        extractor=extractor,
        private=private,
    )
    if out is not None and isinstance(inputs.audited, Bundle):
        check_auditable(inputs.audited)
    from dpd_eval.audit import audit  # loads PyTorch
    from dpd_eval.verdict import check_verdict, write_record

    with stage_progress() as stage:
        result = audit(inputs, device=device, stage=stage)
    _tell(result, write_record(result, inputs.audited, out), json_output)
    check_verdict(result)


def check_out(subject: Path, out: Path | None, overwrite: bool) -> None:
    """Check --out before anything is opened.

    Raises:
        InputError: `subject` is not a bundle, or what is at `out` may not be replaced.
    """
    from dpd_runtime.sealing import check_target

    if out is None:
        if overwrite:
            raise InputError("--overwrite has no effect without --out: leave it out")
        return
    if subject.is_dir() and not (subject / "bundle.json").is_file():
        raise InputError(f"--out {out} has no effect: {subject} is no bundle; a run gets its audit.json, see --json")
    check_target(out, overwrite)


def _tell(result: "Audit", written: dict[str, str], json_output: bool) -> None:
    if json_output:
        print_json(result.to_dict() | written)
        return
    _print(result)
    for what, where in written.items():
        print(f"{what:10s} {where}")


def _print(result: "Audit") -> None:
    """What was found, the verdict with its reasons, and then the details."""
    from rich.console import Console

    from dpd_eval.verdict import LEGEND, numbered_notes

    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for line in result.summary:
        say(line)
    say(f"\nverdict    {result.verdict}, {result.seconds:.0f} s")
    for reason in result.reasons:
        say(f"           {reason}")
    say(f"\n{LEGEND}")
    for note in result.notes:
        say(f"note: {note}")
    ran = [test for test in result.tests if test.verdict != "NOT RUN"]
    notes, marks = numbered_notes([replace(test, note="") if test.verdict == "PASS" else test for test in ran])
    shown = table(("name",), ("value", "95 % interval", "limit"))
    shown.add_column("verdict")
    shown.add_column("note")
    for test, mark in zip(ran, marks, strict=True):
        shown.add_row(*_cells(test), test.verdict, mark)
    print_table(console, "\ntests that ran", shown)
    for number, note in enumerate(notes, start=1):
        say(f"{number:>3}  {note}")
    if result.controls:
        shown = table(("name",), ("value", "95 % interval", "limit"))
        shown.add_column("verdict")
        for control in result.controls:
            shown.add_row(*_cells(control), f"{control.verdict} (expected {control.expected})")
        print_table(console, "\ncontrols", shown)
    shown = table(("name",), ("all", "1 in 20", "share not excluded"))
    for test in result.tests:
        if test.power is not None:
            scores = (f"{test.power.all_copied:.3f}", f"{test.power.few_copied:.3f}")
            shown.add_row(test.name, *scores, f"{100 * test.power.most_copied:.0f} %")
    if shown.rows:
        print_table(console, "\npower: what copies of T would score", shown)
    if result.private is not None:
        say(f"private    {result.private} shows real images")


def _cells(test: "Outcome") -> tuple[str, str, str, str]:
    """Name, value, interval and limit."""
    ends = "" if test.interval is None else f"{test.interval[0]:.3f} to {test.interval[1]:.3f}"
    value, limit = ("" if number is None else f"{number:.3f}" for number in (test.value, test.threshold))
    return test.name, value, ends, limit
