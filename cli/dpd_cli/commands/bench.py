"""`dpd bench`: how fast a bundle is here."""

from pathlib import Path
from typing import Annotated

import typer


def bench_command(
    bundle: Annotated[
        Path | None, typer.Argument(help="A .dpd file or bundle folder; the embedded one without.")
    ] = None,
    blocks: Annotated[int, typer.Option(help="Blocks of ten images to generate.")] = 3,
    seed: Annotated[int, typer.Option(help="As in dpd generate.")] = 0,
    provider: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt or tensorrt-rtx.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Generate a few blocks with the bundle's own settings and say where the time went. Nothing is kept.

    A comparison with diffusers and optimum is benchmarks/generate.py in the sources.

    Examples: dpd bench · dpd bench site.dpd --blocks 10 --provider cuda --json
    """
    from dataclasses import asdict

    from dpd_cli.terminal import print_json, progress_bar
    from dpd_runtime.bundle.bundle import embedded_bundle, load_bundle
    from dpd_runtime.checks.bench import bench

    opened = load_bundle(bundle or embedded_bundle())
    with progress_bar("generating") as progress:
        found = bench(opened, blocks=blocks, seed=seed, provider=provider, progress=progress)
    if json_output:
        print_json(asdict(found))
        return
    print(f"{found.bundle} on {found.provider}, {found.threads} threads")
    print(f"images       {found.images} in {found.seconds:.1f} s, {found.images_per_second:.2f} each second")
    print(f"loading      {found.load_seconds:.2f} s")
    for name, network in found.networks.items():
        times = f"{network.calls} calls of {network.median_ms:.1f} ms (median)"
        print(f"{name:<12} {times:<34} {network.share:6.1%} of the time")
    print(f"{'elsewhere':<12} {'noise, solver, files':<34} {found.outside_share:6.1%} of the time")
    print(f"batch        {found.batch} latents, {found.network_calls:g} UNet evaluations for each")
    print(f"peak memory  {found.peak_memory / 2**20:.0f} MiB of this process")
