"""`dpd doctor` and `dpd bench`: what works on this machine, and how fast."""

from dataclasses import asdict
from typing import Annotated

from dpd_cli.options import BundleOrEmbedded, Json, Provider, under
from dpd_cli.terminal import print_json, progress_bar
from dpd_runtime.text import counted

# -- `dpd doctor`: which providers work on this machine, and why the others do not.


def doctor_command(
    bundle: BundleOrEmbedded = None,
    json_output: Json = False,
) -> None:
    """Show which providers work here, and why others do not.

    Every provider runs the bundle's smallest graph. Cores, memory and versions are shown too. The exit code is 0
    whatever is found, and 2 if there is no BUNDLE of that name. No network and no PyTorch are used.

    Examples:
        dpd doctor
        dpd doctor site.dpd --json
    """
    from dpd_runtime.bundle import embedded_bundle, load_bundle
    from dpd_runtime.doctor import examine_providers, this_machine
    from dpd_runtime.errors import NoBundleError
    from dpd_runtime.machine import cuda_version, nvidia_driver
    from dpd_runtime.text import printable

    problem = None
    try:
        opened = load_bundle(bundle or embedded_bundle())
    except NoBundleError:  # what is not there cannot be tried: a mistyped path, or a word that is no bundle
        raise
    except Exception as error:  # a bundle that cannot be opened is a finding too
        opened, problem = None, printable(f"{type(error).__name__}: {' '.join(str(error).split())}")
    machine, driver = this_machine(), nvidia_driver()
    findings = examine_providers(opened, driver)
    if json_output:
        print_json(
            {
                "providers": [asdict(finding) for finding in findings],
                "driver": asdict(driver),
                "machine": asdict(machine),
                "bundle": None if opened is None else {"name": opened.manifest.name, "hash": opened.hash},
                "bundle_problem": problem,
            }
        )
        return
    for finding in findings:
        version = finding.version or "not installed"
        print(f"{finding.name:<13} {'works' if finding.usable else 'no':<6} {version:<14} {finding.reason}")
        if finding.needs is not None:
            print(f"{'':<20} needs {finding.needs}")
    served = f", serves CUDA {cuda_version(driver.cuda)}" if driver.cuda else ""
    print(f"driver        {driver.version or 'none'}{served}{'' if driver.problem is None else f': {driver.problem}'}")
    for gpu in driver.gpus:
        place = "" if gpu.pci_bus_id is None else f", PCI {gpu.pci_bus_id}"
        size = f"{gpu.memory / 2**30:.0f} GiB{place}"
        print(f"GPU           {gpu.name}, compute capability {gpu.compute_capability}, {size}")
    print(f"processor     {machine.processor}, {', '.join(machine.cpu_flags)}")
    print(f"cores         {machine.usable_cores} usable (affinity and container) of {machine.cores}")
    print(f"memory        {'unknown' if machine.memory is None else f'{machine.memory / 2**30:.1f} GiB'}")
    print(f"versions      {', '.join(f'{name} {version}' for name, version in machine.versions.items())}")
    print(f"telemetry     {machine.telemetry}")
    for name, value in machine.settings.items():
        print(f"set           {name}={value}")
    if problem is not None:
        print(f"bundle        {problem}")


# -- `dpd bench`: how fast a bundle is on this machine.


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
    from dpd_runtime.bench import bench
    from dpd_runtime.bundle import embedded_bundle, load_bundle

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
