"""`dpd engines`: TensorRT engines of a bundle's graphs, in a new bundle."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dpd_export.engines.new_bundle import BuildProgress, BuiltEngine

NOT_RUN = "dpd generate of this version runs the ONNX graphs"


def engines_command(
    bundle: Annotated[Path, typer.Argument(help="A .dpd file or bundle folder; it is not changed.")],
    out: Annotated[
        Path, typer.Option(help="The new bundle: a .dpd file, or a folder where the name has no .dpd ending.")
    ],
    flavour: Annotated[
        str, typer.Option(help="tensorrt-rtx (RTX cards; needs no GPU), or tensorrt (on the GPU that will run it).")
    ] = "tensorrt-rtx",
    compute_capability: Annotated[
        str, typer.Option(help="GPU types for tensorrt-rtx, for example 75,86,89,120 (RTX 20, 30, 40, 50).")
    ] = "",
    parts: Annotated[
        str, typer.Option(help="Which graphs: unet, vae_decoder, latent_classifier, classifier.")
    ] = "unet,vae_decoder,latent_classifier",
    portable: Annotated[
        bool, typer.Option("--portable", help="One engine for all those GPU types instead of one for each.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build TensorRT engines from a bundle's ONNX graphs and write a new, unsigned bundle that holds them too.

    Each graph gets a static engine for the batch that the bundle's sampler passes, and one with a range of batches.

    Examples: dpd engines site.dpd --compute-capability 89 --out rtx.dpd · dpd engines site.dpd --compute-capability
    80,86,89,120 --portable --out rtx.dpd · dpd engines site.dpd --flavour tensorrt --out here.dpd
    """
    from dpd_cli.terminal import print_json
    from dpd_export.engines import build_engines
    from dpd_export.engines.flavours import parse_capabilities

    result = build_engines(
        bundle,
        out,
        flavour=flavour,
        compute_capabilities=parse_capabilities(compute_capability) if compute_capability else (),
        parts=tuple(part.strip() for part in parts.split(",")),
        portable=portable,
        overwrite=overwrite,
        progress=engine_lines(),
    )
    if json_output:
        print_json(result)
        return
    print(f"bundle      {out}  {result['bytes'] / 1e6:.1f} MB")
    print(f"hash        {result['bundle_hash']}")
    print_engines(result)
    print("state       unsigned")


def print_engines(result: dict[str, Any]) -> None:
    """What was built, and what is known of it."""
    from dpd_runtime.engines.record import LABELS

    made = f"{len(result['engines'])} by {result['flavour']} {result['builder_version']}"
    print(f"engines     {made}: {LABELS[result['flavour']]}; {NOT_RUN}")


def engine_lines() -> "BuildProgress":
    """Two lines on stderr for each engine: what is being built, and what it took. A build tells nothing in between."""
    started = time.monotonic()

    def tell(done: int, total: int, coming: str, built: "BuiltEngine | None") -> None:
        left = f", about {(time.monotonic() - started) / done * (total - done):.0f} s left" if 0 < done < total else ""
        if built is not None:
            sizes = f"peak memory {built.peak_memory / 1e6:.0f} MB, engine {built.bytes / 1e6:.1f} MB"
            print(f"  {built.seconds:.0f} s, {sizes}{left}", file=sys.stderr, flush=True)
        if coming:
            print(f"engine {done + 1}/{total}: {coming}", file=sys.stderr, flush=True)

    return tell
