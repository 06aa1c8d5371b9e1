"""`dpd export`: a run → a bundle."""

from pathlib import Path
from typing import Annotated

import typer


def export_command(
    run: Annotated[Path, typer.Argument(help="A run directory that `dpd train` left.")],
    out: Annotated[Path, typer.Option(help="A .dpd file, or a folder where the name has no .dpd ending.")],
    precision: Annotated[str, typer.Option(help="fp32, or fp16 (half-precision weights).")] = "fp16",
    name: Annotated[str | None, typer.Option(help="The bundle's name; the run's by default.")] = None,
    data_licence: Annotated[str, typer.Option(help="Licence of the training data, for the manifest.")] = "unstated",
    allow_real_prototypes: Annotated[
        bool, typer.Option("--allow-real-prototypes", help="Ship prototypes that are latents of real images.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compile every part to ONNX, check each against PyTorch, and write one bundle.

    Examples: dpd export run --out site.dpd · dpd export run --out folder --precision fp32
    """
    import logging

    from dpd_cli.terminal import print_json, progress_bar
    from dpd_cli.torch_half import require_torch
    from dpd_runtime.errors import InputError

    if precision not in ("fp32", "fp16"):
        raise InputError(f"--precision {precision!r} is not in this version: use fp32 or fp16")
    require_torch("export", "cpu")
    from dpd_export.bundle import export_run

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with progress_bar("exporting") as bar:
        result = export_run(
            run,
            out,
            precision=precision,
            name=name,
            data_licence=data_licence,
            allow_real_prototypes=allow_real_prototypes,
            overwrite=overwrite,
            progress=bar,
        )
    if json_output:
        print_json(result)
        return
    print(f"bundle      {out}  {result['bytes'] / 1e6:.1f} MB, {precision}")
    print(f"hash        {result['bundle_hash']}")
    print("parity      largest difference from PyTorch")
    for graph, difference in result["parity"].items():
        if graph.endswith(".onnx"):
            print(f"  {graph:<28} {difference:.2e}")
    print(f"images      {result['parity']['end_to_end_psnr_db']:.1f} dB between the bundle's and PyTorch's")
    print("state       unaudited, unsigned")
    print(f"next        dpd generate {out} --ipc 10 --out distilled")
