"""`dpd federate`: the server of a federated tuning. Loads no PyTorch before it serves."""
# ruff: noqa: RUF009 -- setting() is dataclasses.field()

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated

import typer

from dpd_cli.options import Device, Json, Threads, Values, begin_with_torch, options_of, require_torch, under
from dpd_cli.terminal import print_json, stage_progress
from dpd_neighbours.federated.settings import SHARED, Server, ratio_in
from dpd_runtime.errors import InputError
from dpd_runtime.files import check_writable
from dpd_runtime.settings import setting
from dpd_runtime.text import counted, listed_names
from dpd_train.config import TrainConfig, check_device, resolve

SITES = "Several machines"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of the server, as `Server` takes them."""

    classes: str = setting(None, SITES, "Class names that sites may have, such as Forest,River. Required.")
    rounds: int | None = setting(None, SITES, "How often the updates are averaged. Default: 10.")
    clients: int | None = setting(None, SITES, "Number of sites. Default: 2.")
    tls_root: Path | None = setting(None, SITES, "PEM certificate of the authority that signed the server's.")
    tls_certificate: Path | None = setting(None, SITES, "PEM certificate of the server.")
    tls_key: Path | None = setting(None, SITES, "PEM key of its certificate.")


HELP = {
    "batch": {"help": "Images of each site per fine-tuning step."},
    "steps": {"help": "Fine-tuning steps of each site, over all rounds together; at least one a round."},
    "grad_compression": {
        "help": "Compress the updates that travel: rs-dgc:50 sends 50 times fewer bytes. Default: none."
    },
    "seed": {"help": "Random seed of the tuning, for all sites."},
}
TunedOptions = make_dataclass(
    "TunedOptions",
    [
        (one.name, one.type, field(default=one.default, metadata={**one.metadata, **HELP.get(one.name, {})}))
        for one in fields(TrainConfig)
        if one.name in (*SHARED, "base", "resolution")
    ],
    kw_only=True,
    frozen=True,
)
"""What a server decides of TrainConfig."""

Address = Annotated[
    str, typer.Argument(metavar="HOST:PORT", help="Where the server listens, such as 0.0.0.0:8080.", show_default=False)
]
Out = Annotated[Path, under("Output", "Run directory, a new one.")]


@options_of(TunedOptions, ServerOptions)
def federate_command(
    address: Address,
    out: Out,
    device: Device = "auto",
    threads: Threads = None,
    json_output: Json = False,
    *,
    given: Values,
) -> None:
    """Serve a federated tuning: sites tune one denoiser, updates travel, images stay.

    Each site runs dpd train on its own images with --tuning federated:HOST:PORT. The server needs no images. Its run
    holds the tuned base, from which dpd train --base RUN/pipeline --steps 0 makes prototypes anywhere.

    Examples:
        dpd federate 0.0.0.0:8080 --classes Forest,River --out common
        dpd train scenes/ --tuning federated:10.0.0.1:8080 --out run
    """
    from dpd_train.run import check_base_at, check_run_folder  # imports numpy and Pillow, which help does not need

    config = resolve(None, given[TunedOptions])
    options = {name: value for name, value in given[ServerOptions].items() if value is not None}
    part = Server(address=address, **{**options, "classes": listed_names(options.get("classes", ""))})
    ratio_in(config)
    if config.steps < part.rounds:
        raise InputError(f"--steps {config.steps} for {part.rounds} rounds: give each round at least one step")
    check_device(device)
    check_run_folder(out, resume=False)
    check_writable(out)
    require_torch("fed")
    check_base_at(config.base, config.resolution)
    from dpd_neighbours.federated.stage import served

    place = begin_with_torch(device, threads)
    with stage_progress() as stages:
        run = served(out, config, part, stages, place)
    if json_output:
        print_json({"out": str(out), **run})
        return
    told = run["federated"]
    sent, dense = (told[name] / 1e6 for name in ("sent_bytes", "dense_bytes"))
    done = f"{counted(told['rounds'], 'round')} of {counted(told['clients'], 'site')}"
    print(f"run            {out}/ after {done}: the tuned base, no classifiers and no prototypes")
    print(f"updates        {sent:.1f} MB received ({dense:.1f} MB as plain float32)")
    print(f"next           on a machine with images: dpd train DATA --base {out}/pipeline --steps 0 --out RUN")
