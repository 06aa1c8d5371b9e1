"""`dpd export`: a run → a bundle."""

from pathlib import Path
from typing import Annotated

import typer


def export_command(
    run: Annotated[Path, typer.Argument(help="A run directory that `dpd train` left.")],
    out: Annotated[Path, typer.Option(help="A .dpd file, or a folder where the name has no .dpd ending.")],
    precision: Annotated[
        str, typer.Option(help="fp32; fp16 (half precision, float32 islands); fp16-weights (float32 arithmetic).")
    ] = "fp16",
    name: Annotated[str | None, typer.Option(help="The bundle's name; the run's by default.")] = None,
    data_licence: Annotated[str, typer.Option(help="Licence of the training data, for the manifest.")] = "unstated",
    base_licence: Annotated[
        str | None, typer.Option(help="Licence of the base, where it is not the one that comes with the package.")
    ] = None,
    vae_encoder: Annotated[bool, typer.Option("--vae-encoder", help="Ship the VAE's encoder too.")] = False,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="UNet and VAE take any height and width, not only the base's.")
    ] = False,
    allow_real_prototypes: Annotated[
        bool, typer.Option("--allow-real-prototypes", help="Ship prototypes that are latents of real images.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compile every part to ONNX, check each against PyTorch, and write one bundle.

    Examples: dpd export run --out site.dpd · dpd export run --out folder --precision fp32
    """
    import sys

    from dpd_cli.terminal import print_json, progress_bar
    from dpd_cli.torch_half import require_torch

    require_torch("export", "cpu")
    from dpd_export.bundle import export_run

    with progress_bar("exporting") as bar:
        result = export_run(
            run,
            out,
            precision=precision,
            name=name,
            data_licence=data_licence,
            base_licence=base_licence,
            vae_encoder=vae_encoder,
            dynamic_size=dynamic_size,
            allow_real_prototypes=allow_real_prototypes,
            overwrite=overwrite,
            progress=bar,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    if json_output:
        print_json(result)
        return
    print(f"bundle      {out}  {result['bytes'] / 1e6:.1f} MB, {precision}")
    print(f"hash        {result['bundle_hash']}")
    _print_parity(result["parity"])
    print("state       unaudited, unsigned")
    print(f"next        dpd verify {out} · dpd generate {out} --ipc 10 --out distilled")


def _print_parity(parity: dict[str, float]) -> None:
    """The table of DESIGN §10."""
    half = any(name.endswith("#half") for name in parity)
    title = "  PyTorch in half precision" if half else ""
    print(f"parity      largest difference from PyTorch: random batches, generated latents{title}")
    for graph, difference in parity.items():
        if not graph.endswith(".onnx"):
            continue
        row = f"  {graph:<28} {difference:>14.1e} {parity[graph + '#generated']:>17.1e}"
        print(row + (f" {parity[graph + '#half']:>26.1e}" if half else ""))
    print(
        f"images      {parity['end_to_end_psnr_db']:.1f} dB between the bundle's and PyTorch's "
        f"({parity['end_to_end_images']:.0f}; the worst {parity['end_to_end_worst_psnr_db']:.1f} dB)"
    )
    print(
        f"teacher     right on {parity['teacher_oa_pytorch']:.1%} of PyTorch's and "
        f"{parity['teacher_oa_bundle']:.1%} of the bundle's; says the same of {parity['teacher_agreement']:.1%}"
    )
