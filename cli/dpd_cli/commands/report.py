"""`dpd report`: results as one page."""

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="JSON of evaluate, audit or bench; a set, a bundle, a run folder."),
    ],
    out: Annotated[Path, typer.Option(help="The HTML file; one that is there is replaced.")] = Path("report.html"),
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show results as one self-contained HTML page: no network, no scripts, no path of this machine.

    Examples:

        dpd report result.json set0/ site.dpd --out report.html

        dpd report baseline.json guided.json selected.json --out ablation.html
    """
    from dpd_cli.commands.torch_half import require_torch
    from dpd_cli.terminal import print_json

    require_torch("eval")
    from dpd_eval.report.report import write_report

    result = write_report(paths, out)
    if json_output:
        print_json({"out": str(result.out), "bytes": result.bytes, "sections": list(result.sections)})
        return
    print(f"{result.out}: {result.bytes / 1e6:.2f} MB, {', '.join(result.sections)}")
