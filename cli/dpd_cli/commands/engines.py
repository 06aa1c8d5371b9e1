"""`dpd engines`: TensorRT engines of a bundle's graphs, for this machine or in a new bundle."""

import time
from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Json, Overwrite, runtime_device, under
from dpd_cli.terminal import engine_lines, print_engines, print_json, progress_bar
from dpd_runtime.errors import InputError

Bundle = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A .dpd file or bundle folder. The input is not modified.")
]
Out = Annotated[
    Path | None,
    under(
        "Output",
        "The new bundle: a .dpd file, or a folder if the name has no .dpd ending. Default: none; the engines are kept "
        "in this user's cache, for this machine.",
    ),
]
Flavour = Annotated[
    str,
    under(
        "Engines",
        "Kind of engines: tensorrt-rtx for RTX cards (with --out it needs no GPU), or tensorrt for data-centre GPUs "
        "(on the GPU of this machine).",
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


BuiltFor = Annotated[
    str,
    under(
        "Running",
        "GPU to build for, without --out: auto and cuda are the first, cuda:1 is the second.",
        "--device",
        metavar="auto|cuda[:N]",
    ),
]


def engines_command(
    bundle: Bundle,
    out: Out = None,
    flavour: Flavour = "tensorrt-rtx",
    device: BuiltFor = "auto",
    compute_capability: ComputeCapability = "",
    parts: Parts = None,
    portable: Portable = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Build TensorRT engines from a bundle's graphs.

    Without --out they are built for the GPU of this machine, checked against the bundle's golden images and kept in the
    cache, where dpd generate finds them. With --out they are built for other machines too, and written into a new,
    unsigned bundle.

    Examples:
        dpd engines site.dpd
        dpd engines site.dpd --compute-capability 80,86,89 --portable --out rtx.dpd
        dpd engines site.dpd --flavour tensorrt --out here.dpd
    """
    if out is None:
        named = {
            "--compute-capability": bool(compute_capability),
            "--parts": parts is not None,
            "--portable": portable,
            "--overwrite": overwrite,
        }
        _, number = runtime_device(device, flavour)
        _build_here(bundle, flavour, number, [name for name, given in named.items() if given], json_output)
        return
    if device != "auto":
        raise InputError("--device has no effect with --out; leave it out")
    _build_into(bundle, out, flavour, compute_capability, parts, portable, overwrite, json_output)


def _build_here(bundle: Path, flavour: str, device: int | None, ignored: list[str], json_output: bool) -> None:
    from dpd_runtime.bundle import load_bundle
    from dpd_runtime.engine_files import kept_models, working_folder
    from dpd_runtime.engines import FLAVOURS, Provider
    from dpd_runtime.files import cache_folder, check_cache
    from dpd_runtime.golden import compile_here
    from dpd_runtime.machine import usable_cores

    if ignored:
        raise InputError(f"{' and '.join(ignored)} without --out: the engines are for this machine; add --out")
    if flavour not in FLAVOURS:
        raise InputError(f"flavour {flavour!r} is unknown: use {' or '.join(FLAVOURS)}")
    check_cache(cache_folder("engines"))
    opened, provider, started = load_bundle(bundle), Provider(flavour, "requested", device), time.monotonic()
    if flavour == "tensorrt":
        from dpd_export.engines import build_for_this_machine

        with progress_bar("building engines") as progress:
            build_for_this_machine(opened, provider, progress)
    file, verdict = compile_here(opened, provider, usable_cores())
    seconds, size = time.monotonic() - started, file.stat().st_size if file and file.is_file() else 0
    kept = kept_models(working_folder(file))
    if json_output:
        golden = {} if verdict is None else {"psnr_db": verdict.psnr_db, "limit_db": verdict.limit_db}
        found = {"cache": str(file), "bytes": size, "flavour": flavour, "golden": golden or None}
        print_json(found | {"engines": len(kept), "engine_bytes": sum(kept), "seconds": round(seconds, 1)})
        return
    print(f"engines     {len(kept)} kept, {sum(kept) / 1e6:.1f} MB; compiled and tried in {seconds:.0f} s")
    print(f"cache       {file}  {size / 1e6:.1f} MB")
    print("golden      " + ("the bundle has no golden images" if verdict is None else f"{verdict.psnr_db:.1f} dB"))


def _build_into(
    bundle: Path,
    out: Path,
    flavour: str,
    compute_capability: str,
    parts: str | None,
    portable: bool,
    overwrite: bool,
    json_output: bool,
) -> None:
    from dpd_export.builder import parse_capabilities
    from dpd_export.engines import build_engines

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
