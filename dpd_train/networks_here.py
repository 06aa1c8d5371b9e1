"""Published image networks on this machine, and which of them watch where `--watchers auto` leaves it open.

They lie in the folder DPD_NETWORKS (`dpd data fetch` fills the usual one) and in the local hub cache. Nothing is
fetched here, and no weights are read. Loads no PyTorch.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.errors import InputError
from dpd_runtime.files import expanded
from dpd_runtime.text import counted, printable
from dpd_train.config import AUTO, HUB, OWN, published_watchers
from dpd_train.model_files import (
    NETWORKS,
    OF_TIMM,
    PROCESSOR_NAMES,
    bytes_of_weights,
    cached_snapshot,
    check_model,
    find_model,
    is_of_timm,
    licence_of,
    networks_folder,
    read_config,
)

WATCHING = 2  # networks: a step shows images to one of them, but each adds its statistics
LARGEST = 60_000_000
"""Bytes of weights up to which a network watches unasked: about 15 M parameters. A larger one takes hours on a CPU."""
CLASSIFIES = "ForImageClassification"  # how transformers' architectures of image classifiers end


@dataclass(frozen=True)
class Network:
    """A published image classifier on this machine.

    Args:
        name: what follows `hf:`: of its folder in the folder of networks, or its id in the hub cache.
        folder: its files.
        licence: as its model card names it; None without a card.
        fault: why it does not watch unasked; None if it may.
    """

    name: str
    folder: Path
    licence: str | None
    fault: str | None


def networks_here() -> tuple[Network, ...]:
    """Every published image classifier on this machine: of the folder by name, then of the hub cache by id."""
    found: list[Network] = []
    for network in (*_in_folder(), *_in_hub_cache()):
        same = next((one for one in found if one.folder == network.folder or one.name == network.name), None)
        if same is None:
            found.append(network)
    return tuple(found)


def suited(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Those that watch unasked: the first WATCHING without a fault."""
    return tuple(network for network in networks if network.fault is None)[:WATCHING]


def settled(watchers: str, networks: tuple[Network, ...]) -> str:
    """The value of `--watchers`, with what `auto` means where these networks are found."""
    return ",".join([OWN, *(HUB + one.name for one in suited(networks))]) if watchers == AUTO else watchers


@dataclass(frozen=True)
class Judge:
    """A published network that can judge a set, as `hf:` names it. but: what the line that names it admits."""

    name: str
    but: str = ""


def judges(watchers: str, networks: tuple[Network, ...]) -> list[Judge]:
    """The published networks that can judge a set.

    First come those of another family than those that watched, which the set flatters least, then others that did not
    watch, then those that did.

    Args:
        watchers: settled. networks: as `networks_here`.

    Raises:
        InputError: a network that watches is not on this machine.
    """
    watching = published_watchers(watchers)
    folders = [find_model(name)[0].resolve() for name in watching]
    families = {family(read_config(folder)) for folder in folders}
    of_family, others = list[Judge](), list[Judge]()
    for one in networks:
        if one.fault is None and one.folder not in folders:
            if family(read_config(one.folder)) in families:
                but = ", of the family of those that watched: networks of another one may learn less from it"
                of_family.append(Judge(one.name, but))
            else:
                others.append(Judge(one.name))
    return [
        *others,
        *of_family,
        *(Judge(name, ", although it watched, as no other here can judge") for name in watching),
    ]


def family(config: Mapping[str, Any]) -> str:
    """What a network is a kind of, whatever its size and version: efficientnet, mobilenet, resnet, vit."""
    kind = str(config.get("architecture" if is_of_timm(config) else "model_type", ""))
    return re.sub(r"^tf_|_?v?\d.*$|_.*$", "", kind)


def remarks(networks: tuple[Network, ...]) -> list[str]:
    """What watches unasked, what is here and does not, and why, one line each."""
    watching, lines = suited(networks), list[str]()
    if watching:
        names = " and ".join(HUB + network.name for network in watching)
        watch = "watches" if len(watching) == 1 else "watch"
        lines.append(f"{names} {watch} beside the run's own networks; --watchers own leaves published ones out")
    else:
        lines.append(
            "no published network watches: a network with published weights will learn little from the codes; get some "
            f"with dpd data fetch, or name one with --watchers {OWN},{HUB}MODEL. Small networks learn well without"
        )
    for network in networks:
        if network not in watching:
            reason = network.fault or f"{WATCHING} others do; --watchers {OWN},{HUB}{network.name} has it watch"
            lines.append(f"{HUB}{network.name} is on this machine and does not watch: {reason}")
    folder = networks_folder()
    if folder is not None and folder.exists() and not folder.is_dir():
        lines.append(f"{NETWORKS}: {folder} is no folder, so no networks are found in it")
    return [printable(line) for line in lines]


def licence_remarks(watchers: str) -> list[str]:
    """A line for each published network that watches because it was named, and whose licence forbids derivatives."""
    lines = []
    for name in published_watchers(watchers):
        licence = licence_of(find_model(name)[0])
        if licence is not None and forbids_derivatives(licence):
            lines.append(
                f"{HUB}{name} watches, and its licence, {licence}, forbids derivatives: ask its owner whether codes "
                "that it watched may leave; the card names it"
            )
    return [printable(line) for line in lines]


def _in_folder() -> Iterator[Network]:
    folder = networks_folder()
    try:
        places = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
    except OSError:
        return
    for place in places:
        if place.is_dir() and not place.name.startswith("."):
            yield _network(place.name, place)


def _in_hub_cache() -> Iterator[Network]:
    """Of the hub cache only image classifiers: what else is there has other uses."""
    from huggingface_hub import constants

    for place in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        name = place.name.removeprefix("models--").replace("--", "/")
        try:
            folder = cached_snapshot(name)
        except (OSError, ValueError):
            continue
        if _is_classifier(read_config(folder)):
            yield _network(name, folder)


def _network(name: str, folder: Path) -> Network:
    licence = licence_of(folder)
    try:
        fault = _fault(name, folder, licence)
    except OSError as error:
        fault = f"its folder cannot be read ({error.strerror})"
    return Network(name, folder.resolve(), licence, fault)


def _fault(name: str, folder: Path, licence: str | None) -> str | None:
    """Why the network does not watch unasked."""
    asked, config = f"--watchers {OWN},{HUB}{name} has it watch", read_config(folder)
    if not config:
        return "it has no config.json that can be read"
    if not _is_classifier(config):
        return f"it is no image classifier; {asked} if it sees images"
    if "," in name:
        return "its name has a comma; rename the folder"
    if expanded(name).is_dir() and not expanded(name).samefile(folder):
        return "a folder of that name is here; work in another one"
    try:
        check_model(folder, "it", "complete it")
    except InputError as error:
        said = str(error).removeprefix("it: ")
        return f"it {said}" if said.startswith("is ") else said
    if (bands := bands_of(config)) != 3:
        return f"it takes images of {counted(bands, 'band')}"
    if not is_of_timm(config) and not any((folder / processor).is_file() for processor in PROCESSOR_NAMES):
        return f"it has no {PROCESSOR_NAMES[0]}, which says how large its images are; complete it"
    if (size := bytes_of_weights(folder)) > LARGEST:
        return f"its weights are {size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}; {asked}"
    if licence is not None and forbids_derivatives(licence):
        return f"its licence, {licence}, forbids derivatives; {asked}"
    return None


def forbids_derivatives(licence: str) -> bool:
    """Whether a licence is one of Creative Commons' that forbid derivatives."""
    return "nd" in re.split(r"[^a-z0-9]+", licence.lower())


def bands_of(config: dict[str, Any]) -> int:
    """How many bands the images have that a model takes, as its config says; 3 where it does not."""
    size = config[OF_TIMM].get("input_size") if is_of_timm(config) else None
    said = size[0] if isinstance(size, list) and size else config.get("num_channels", 3)
    return said if type(said) is int else 3


def _is_classifier(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures") or []
    named = isinstance(architectures, list) and any(str(name).endswith(CLASSIFIES) for name in architectures)
    return named or is_of_timm(config)
