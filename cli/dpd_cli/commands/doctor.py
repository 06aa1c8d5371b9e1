"""`dpd doctor`: which providers work here, and why the others do not."""

from pathlib import Path
from typing import Annotated

import typer


def doctor_command(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle whose smallest graph is tried; the embedded one without.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Try every provider as `dpd generate` would, and print what it needs, with cores and memory as they are seen here.

    It ends with exit code 0 whatever it finds, and uses no network and no PyTorch.

    Examples: dpd doctor · dpd doctor site.dpd --json
    """
    from dataclasses import asdict

    from dpd_cli.terminal import print_json
    from dpd_runtime.bundle.bundle import embedded_bundle, load_bundle
    from dpd_runtime.checks.doctor import examine_providers, nvidia_driver, this_machine

    problem = None
    try:
        opened = load_bundle(bundle or embedded_bundle())
    except Exception as error:  # a doctor does not fall ill: what cannot be opened is a finding
        opened, problem = None, f"{type(error).__name__}: {' '.join(str(error).split())}"
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
    served = f", serves CUDA {driver.cuda // 1000}.{driver.cuda % 1000 // 10}" if driver.cuda else ""
    print(f"driver        {driver.version or 'none'}{served}{'' if driver.problem is None else f': {driver.problem}'}")
    for gpu in driver.gpus:
        print(f"GPU           {gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory / 2**30:.0f} GiB")
    print(f"processor     {machine.processor}, {', '.join(machine.cpu_flags)}")
    print(f"cores         {machine.usable_cores} to be used (affinity and container) of {machine.cores}")
    print(f"memory        {'unknown' if machine.memory is None else f'{machine.memory / 2**30:.1f} GiB'}")
    print(f"versions      {', '.join(f'{name} {version}' for name, version in machine.versions.items())}")
    for name, value in machine.settings.items():
        print(f"set           {name}={value}")
    if problem is not None:
        print(f"bundle        {problem}")
