"""`dpd export`: a run → a bundle."""

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_FLAVOUR = "tensorrt-rtx"


def export_command(
    run: Annotated[Path, typer.Argument(help="A run directory that `dpd train` left.")],
    out: Annotated[Path, typer.Option(help="A .dpd file, or a folder where the name has no .dpd ending.")],
    precision: Annotated[
        str,
        typer.Option(
            help="fp32; fp16 (half precision, float32 islands); fp16-weights (float32 arithmetic); int8 (for CPUs)."
        ),
    ] = "fp16",
    trt: Annotated[bool, typer.Option("--trt", help="Then build TensorRT engines, as dpd engines does.")] = False,
    flavour: Annotated[
        str | None, typer.Option(help="With --trt: tensorrt-rtx (default; needs no GPU) or tensorrt (on the GPU).")
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="With --trt: GPU types for tensorrt-rtx, for example 75,86,89,120.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name; the run's by default.")] = None,
    data_licence: Annotated[str, typer.Option(help="Licence of the training data, for the manifest.")] = "unstated",
    base_licence: Annotated[
        str | None, typer.Option(help="Licence of the base, where it is not the one that comes with the package.")
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="Change the bundle's sampler: steps=20,guidance_scale=2 (docs/export.md has the names).")
    ] = "",
    vae_encoder: Annotated[bool, typer.Option("--vae-encoder", help="Ship the VAE's encoder too.")] = False,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="UNet and VAE take any height and width, not only the base's.")
    ] = False,
    allow_real_prototypes: Annotated[
        bool, typer.Option("--allow-real-prototypes", help="Ship prototypes that are latents of real images.")
    ] = False,
    allow_worse: Annotated[
        bool, typer.Option("--allow-worse", help="Write an int8 bundle though the teacher judges its images otherwise.")
    ] = False,
    prune: Annotated[
        str | None,
        typer.Option(help="Take filters out of the UNet: pic-pq:0.3, three tenths of them; or magnitude:0.3."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compile every part to ONNX, check each against PyTorch, and write one bundle.

    Examples: dpd export run --out site.dpd · dpd export run --out folder --precision fp32 · dpd export run --out
    site.dpd --trt --compute-capability 86,89
    """
    import sys

    from dpd_cli.commands.engines import print_engines
    from dpd_cli.commands.torch_half import require_torch
    from dpd_cli.terminal import print_json, progress_bar

    require_torch("export", "cpu")
    capabilities = _check_engines(trt, flavour, compute_capability, precision)
    from dpd_export.bundle import export_run
    from dpd_export.options import ExportOptions

    with progress_bar("exporting") as bar:
        result = export_run(
            run,
            out,
            ExportOptions(
                precision=precision,
                name=name,
                data_licence=data_licence,
                base_licence=base_licence,
                sampler_changes=sampler,
                vae_encoder=vae_encoder,
                dynamic_size=dynamic_size,
                allow_real_prototypes=allow_real_prototypes,
                allow_worse=allow_worse,
                prune=prune,
            ),
            overwrite=overwrite,
            progress=bar,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    if trt:
        engines = _build_engines(out, flavour or DEFAULT_FLAVOUR, capabilities)
        result |= {"bytes": engines["bytes"], "bundle_hash": engines["bundle_hash"], "engines": engines}
    if json_output:
        print_json(result)
        return
    print(f"bundle      {out}  {result['bytes'] / 1e6:.1f} MB, {precision}")
    print(f"hash        {result['bundle_hash']}")
    _print_parity(result["parity"])
    for graph, measured in result["int8"].items():
        _print_int8(graph, result["graphs"][graph]["bytes"], measured)
    if result["pruned"]:
        _print_pruned(result["pruned"])
    if trt:
        print_engines(result["engines"])
    print("state       unaudited, unsigned")
    print(f"next        dpd verify {out} · dpd generate {out} --ipc 10 --out distilled")


def _check_engines(trt: bool, flavour: str | None, capability: str | None, precision: str) -> tuple[int, ...]:
    """Whether engines can be built at all: said before the minutes that an export takes."""
    from dpd_runtime.errors import InputError

    given = [option for option, value in (("--flavour", flavour), ("--compute-capability", capability)) if value]
    if not trt and given:
        raise InputError(f"{' and '.join(given)} without --trt: no engine would be built; add --trt")
    if not trt:
        return ()
    from dpd_export.engines import check_engines
    from dpd_export.engines.flavours import parse_capabilities

    capabilities = parse_capabilities(capability) if capability else ()
    check_engines(flavour or DEFAULT_FLAVOUR, capabilities, precision)
    return capabilities


def _build_engines(out: Path, flavour: str, capabilities: tuple[int, ...]) -> dict[str, Any]:
    """Add engines to the finished bundle; where they cannot be built it stays as it is, and the error says so."""
    from dpd_cli.commands.engines import engine_lines
    from dpd_export.engines import build_engines
    from dpd_runtime.errors import DpdError

    try:
        return build_engines(
            out, out, flavour=flavour, compute_capabilities=capabilities, overwrite=True, progress=engine_lines()
        )
    except DpdError as error:
        error.args = (f"{error}; the bundle {out} is complete without engines",)
        raise


def _print_int8(graph: str, size: int, measured: dict[str, Any]) -> None:
    smaller = f"{size / 1e6:.1f} MB, fp32 {measured['fp32_bytes'] / 1e6:.1f} MB"
    print(f"int8        {graph}: {smaller}; one call of {measured['batch']} latents on this CPU:")
    _print_times("fp32", measured["fp32_ms"], measured["int8_ms"])


def _print_pruned(pruned: dict[str, Any]) -> None:
    speed, share = pruned["speed"], pruned["parameters_kept"] / pruned["parameters"]
    print(f"pruned      {pruned['kept']:,} of {pruned['filters']:,} filters, {share:.0%} of all parameters are left")
    print(
        f"            of {pruned['teacher_agreement']:.1%} of the images the teacher says what it says of the whole "
        f"UNet's; one call of {speed['batch']} latents on this CPU, in float32:"
    )
    _print_times("whole", speed["whole_ms"], speed["small_ms"])


def _print_times(name: str, before: dict[int, float], after: dict[int, float]) -> None:
    for threads, whole in before.items():
        times = f"{whole / after[threads]:.2f} times as fast"
        many = "s" * (threads > 1)
        print(f"            {threads} thread{many}: {after[threads]:.0f} ms, {name} {whole:.0f} ms ({times})")


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
