"""What commands print: one JSON object, tables, lines about a bundle and its engines."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from dpd_runtime.errors import DpdError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dpd_export.engines import BuildProgress, BuiltEngine
    from dpd_runtime.bundle.bundle import Bundle
    from dpd_runtime.sampling.sampler import Sampler

NOT_RUN = "dpd generate of this version runs the ONNX graphs"


class Interrupted(DpdError):
    """Ctrl-C in a command that says itself how it continues."""

    exit_code = 130

    def __init__(self, way_on: str) -> None:
        super().__init__(f"interrupted; continue with: {way_on}")


def print_json(content: dict[str, Any]) -> None:
    """Print exactly one JSON object on stdout."""
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")


def table(texts: tuple[str, ...], numbers: tuple[str, ...]) -> "Table":
    """Make an empty table: columns of text on the left, columns of numbers on the right. No cell is cut."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in texts:
        made.add_column(heading, overflow="fold")
    for heading in numbers:
        made.add_column(heading, justify="right", overflow="fold")
    return made


def print_table(console: "Console", title: str, made: "Table") -> None:
    """Print a table below its title."""
    console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(made)


def signature_facts(bundle: "Bundle") -> dict[str, Any]:
    """Return what --json tells about the signature."""
    signature = bundle.signature
    return {
        "signature": signature.describe(),
        "key_id": signature.key_id,
        "trusted": signature.trusted,
        "serial": bundle.manifest.serial,
        "expires": bundle.manifest.expires,
        "serial_remembered": bundle.remembered,
    }


def freshness_lines(bundle: "Bundle") -> list[str]:
    """Say which serial and expiry a signed bundle has; nothing for one that no trusted key signed."""
    from dpd_runtime.bundle.freshness import day_of, is_of_future, newest_serial, today
    from dpd_runtime.bundle.trusted import place_of_trust

    manifest = bundle.manifest
    if not bundle.signature.trusted:
        return []
    if not manifest.serial:
        return ["no serial: this site cannot tell whether there is a newer one"]
    end = f", until {manifest.expires}" if manifest.expires else ""
    if (newest := newest_serial(bundle.signature, manifest.name)) > manifest.serial:
        return [f"serial {manifest.serial}{end}, older than {newest}, which stays the newest of this name here"]
    if bundle.remembered:
        return [f"serial {manifest.serial}{end}; from now on older ones of this name are refused here"]
    if is_of_future(manifest.serial):
        return [
            f"serial {manifest.serial}{end}; not remembered, as it was signed on {day_of(manifest.serial)} by the "
            f"signer's clock, and this machine's says {today()}: set the one that is wrong"
        ]
    return [f"serial {manifest.serial}{end}; not remembered: {place_of_trust()} cannot be written"]


def prototype_ranges(sampler: "Sampler") -> list[str]:
    """Say which images of a class are decoded and which are re-noised; nothing if all are sampled."""
    from dpd_runtime.sampling.sampler import BLOCK

    guidance = sampler.guidance
    if not guidance[0].decodes:
        return []
    ends = [BLOCK * later.from_block for later in guidance[1:]]
    decoded = "its prototypes, decoded and turned by the seed"
    if not ends:
        return [f"all those of a class are {decoded}"]
    lines = [f"0 to {ends[0] - 1} of a class are {decoded}"]
    if guidance[1].begins_at_prototypes:
        last = f"{ends[0]} to {ends[1] - 1}" if len(ends) > 1 else f"from {ends[0]} on"
        lines.append(f"{last} are the same, re-noised")
    return lines


def print_engines(result: dict[str, Any]) -> None:
    """Say what was built and how well it is tested."""
    from dpd_runtime.engines.record import LABELS

    made = f"{len(result['engines'])} by {result['flavour']} {result['builder_version']}"
    print(f"engines     {made}: {LABELS[result['flavour']]}; {NOT_RUN}")


def engine_lines() -> "BuildProgress":
    """Print two lines on stderr for each engine: what is being built, and what it took."""
    started = time.monotonic()

    def tell(done: int, total: int, coming: str, built: "BuiltEngine | None") -> None:
        left = f", about {(time.monotonic() - started) / done * (total - done):.0f} s left" if 0 < done < total else ""
        if built is not None:
            sizes = f"peak memory {built.peak_memory / 1e6:.0f} MB, engine {built.bytes / 1e6:.1f} MB"
            print(f"  {built.seconds:.0f} s, {sizes}{left}", file=sys.stderr, flush=True)
        if coming:
            print(f"engine {done + 1}/{total}: {coming}", file=sys.stderr, flush=True)

    return tell
