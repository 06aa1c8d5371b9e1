"""`dpd report`: results as one HTML page."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Json, TrustedKey, require_torch, under
from dpd_cli.terminal import print_json


def report_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="JSON files of evaluate, audit or bench; sets, bundles, run directories, folders of dpd distill.",
        ),
    ],
    out: Annotated[Path, under("Output", "The HTML file; an existing one is replaced.")] = Path("report.html"),
    trusted_key: TrustedKey = None,
    json_output: Json = False,
) -> None:
    """Show results as one self-contained HTML page.

    The page needs no network, runs no scripts and names no paths of this machine. Of a folder of dpd distill it shows
    the evaluation, the set, the bundle beside it and the training.

    Examples:
        dpd report result.json set0/ site.dpd --out report.html
        dpd report baseline.json guided.json selected.json --out ablation.html
        dpd report site-run --trusted-key lab.pub
    """
    require_torch("eval")
    from dpd_distill.finished import finished_of, is_distillation
    from dpd_eval.report import write_report
    from dpd_runtime.trust import read_public_key

    trusted = tuple(read_public_key(file) for file in trusted_key) if trusted_key else None
    given = {path.resolve() for path in paths if not is_distillation(path)}
    shown: list[Path] = []
    missing: list[str] = []
    for path in paths:
        if not is_distillation(path):
            shown.append(path)
            continue
        finished = finished_of(path)
        shown += [part for part in finished.paths if part.resolve() not in given]  # not twice, if named beside it
        missing += finished.missing
    result = write_report(shown, out, trusted)
    for line in missing:
        print(line, file=sys.stderr)
    if json_output:
        facts = {"out": str(result.out), "bytes": result.bytes, "sections": list(result.sections)}
        print_json(facts | ({"missing": missing} if missing else {}))
        return
    print(f"{result.out}: {result.bytes / 1e6:.2f} MB, {', '.join(result.sections)}")
