"""`dpd report`: results as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Json, require_torch, under
from dpd_cli.terminal import print_json


def report_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="JSON files of evaluate, audit or bench; sets, bundles, run directories."
        ),
    ],
    out: Annotated[Path, under("Output", "The HTML file; an existing one is replaced.")] = Path("report.html"),
    json_output: Json = False,
) -> None:
    """Show results as one self-contained HTML page.

    The page needs no network, runs no scripts and names no paths of this machine.

    Examples:
        dpd report result.json set0/ site.dpd --out report.html
        dpd report baseline.json guided.json selected.json --out ablation.html
    """
    require_torch("eval")
    from dpd_eval.report.report import write_report

    result = write_report(paths, out)
    if json_output:
        print_json({"out": str(result.out), "bytes": result.bytes, "sections": list(result.sections)})
        return
    print(f"{result.out}: {result.bytes / 1e6:.2f} MB, {', '.join(result.sections)}")
