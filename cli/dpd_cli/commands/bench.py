"""`dpd bench`: how fast a bundle is on this machine."""

from dataclasses import asdict
from typing import Annotated

from dpd_cli.options import BundleOrEmbedded, Json, Provider, under
from dpd_cli.progress import progress_bar
from dpd_cli.terminal import print_json
from dpd_runtime.text import counted


def bench_command(
    bundle: BundleOrEmbedded = None,
    blocks: Annotated[int, under("Images", "Blocks of ten images, of each kind.")] = 3,
    seed: Annotated[int, under("Images", "Random seed.")] = 0,
    provider: Provider = "auto",
    json_output: Json = False,
) -> None:
    """Measure how fast a bundle generates images.

    A few blocks are generated with the bundle's own settings, in each way in which it makes images, and not kept.

    Examples:
        dpd bench
        dpd bench site.dpd --blocks 10 --provider cuda --json
    """
    from dpd_runtime.bundle.bundle import embedded_bundle, load_bundle
    from dpd_runtime.checks.bench import bench

    opened = load_bundle(bundle or embedded_bundle())
    with progress_bar("generating") as progress:
        result = bench(opened, blocks=blocks, seed=seed, provider=provider, progress=progress)
    if json_output:
        print_json(asdict(result))
        return
    print(f"{result.bundle} on {result.provider}, {counted(result.threads, 'thread')}")
    for name, speed in (("decoded", result.decoded), ("re-noised", result.renoised), ("sampled", result.sampled)):
        if speed is None:
            print(f"{name:<12} none: the bundle makes no such images")
            continue
        rate = f"{counted(speed.images, 'image')} in {speed.seconds:.1f} s, {speed.images_per_second:.2f} per second"
        print(f"{name:<12} {rate}, {speed.network_calls:g} UNet evaluations per latent")
    print(f"loading      {result.load_seconds:.2f} s")
    kind = "decoded" if result.sampled is None else "sampled"
    print(f"of the {kind} images, in batches of {result.batch} latents:")
    for name, network in result.networks.items():
        times = f"{network.calls} calls of {network.median_ms:.1f} ms (median)"
        print(f"  {name:<10} {times:<34} {network.share:6.1%} of the time")
    print(f"  {'elsewhere':<10} {'noise, solver, files':<34} {result.outside_share:6.1%} of the time")
    print(f"peak memory  {result.peak_memory / 2**20:.0f} MiB of this process")
