"""`dpd engines`: TensorRT engines of a bundle's graphs, in a new bundle."""

from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Json, Overwrite, under
from dpd_cli.terminal import engine_lines, print_engines, print_json

Bundle = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A .dpd file or bundle folder. The input is not modified.")
]
Out = Annotated[Path, under("Output", "The new bundle: a .dpd file, or a folder if the name has no .dpd ending.")]
Flavour = Annotated[
    str,
    under(
        "Engines",
        "Kind of engines: tensorrt-rtx for RTX cards (needs no GPU), or tensorrt for the GPU of this machine.",
        metavar="tensorrt-rtx|tensorrt",
    ),
]
ComputeCapability = Annotated[
    str, under("Engines", "GPU types for tensorrt-rtx, such as 75,86,89,120 for RTX 20, 30, 40 and 50.")
]
Parts = Annotated[
    str | None,
    under(
        "Engines",
        "Graphs to build, separated by commas. Default: all but the classifier.",
        metavar="unet|vae_decoder|latent_classifier|classifier,...",
    ),
]
Portable = Annotated[
    bool, under("Engines", "Build one engine for all these GPU types instead of one for each.", "--portable")
]


def engines_command(
    bundle: Bundle,
    out: Out,
    flavour: Flavour = "tensorrt-rtx",
    compute_capability: ComputeCapability = "",
    parts: Parts = None,
    portable: Portable = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Build TensorRT engines from a bundle's graphs, in a new bundle.

    Each graph gets one engine for the batch of the bundle's sampler and one for a range of batches. The new bundle is
    unsigned.

    Examples:
        dpd engines site.dpd --compute-capability 89 --out rtx.dpd
        dpd engines site.dpd --compute-capability 80,86,89 --portable --out rtx.dpd
        dpd engines site.dpd --flavour tensorrt --out here.dpd
    """
    from dpd_export.engines import build_engines
    from dpd_export.engines.flavours import parse_capabilities

    result = build_engines(
        bundle,
        out,
        flavour=flavour,
        compute_capabilities=parse_capabilities(compute_capability) if compute_capability else (),
        parts=None if parts is None else tuple(part.strip() for part in parts.split(",")),
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
