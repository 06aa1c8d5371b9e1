"""Published image networks on this machine, and which of them watch where `--watchers auto` leaves it open.

They lie in the folder DPD_NETWORKS (`dpd data fetch` fills the usual one) and in the local hub cache. Nothing is
fetched here, and no weights are read. Loads no PyTorch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.errors import InputError
from dpd_train.base_files import OF_TIMM, cached_snapshot, find_model, licence_of, networks_folder, read_config
from dpd_train.config import AUTO, HUB, OWN, extra_watchers

WATCHING = 2  # networks: with each more a run takes longer, and two already show what two kinds of networks see
LARGEST = 60_000_000
"""Bytes of weights up to which a network watches unasked: about 15 M parameters. A larger one takes hours on a CPU."""
CLASSIFIES = "ForImageClassification"  # how transformers' architectures of image classifiers end


@dataclass(frozen=True)
class Network:
    """A published image classifier on this machine.

    Args:
        source: its folder, or its id in the hub cache: what follows `hf:`. name: what follows it in records.
        licence: as its model card names it; None without a card.
        fault: why it does not watch unasked; None if it may.
    """

    source: str
    name: str
    licence: str | None
    fault: str | None


def networks_here() -> tuple[Network, ...]:
    """Every published image classifier on this machine: of the folder by name, then of the hub cache by id."""
    return (*_in_folder(), *_in_hub_cache())


def suited(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Those that watch unasked: the first WATCHING without a fault."""
    return tuple(network for network in networks if network.fault is None)[:WATCHING]


def settled(watchers: str, networks: tuple[Network, ...] | None = None) -> str:
    """The value of `--watchers`, with what `auto` means on this machine.

    Args:
        networks: as `networks_here`, which is asked unless they are known.
    """
    if watchers != AUTO:
        return watchers
    found = suited(networks_here() if networks is None else networks)
    return ",".join([OWN, *(HUB + network.source for network in found)])


def judge_of(watchers: str, networks: tuple[Network, ...]) -> str | None:
    """The published network that a set is judged by, as `hf:` names it: the first that did not watch, or one that did.

    Args:
        watchers: settled. networks: as `networks_here`.
    """
    watching = [name.removeprefix(HUB) for name in extra_watchers(watchers) if name.startswith(HUB)]
    others = [one.source for one in networks if one.fault is None and one.source not in watching]
    return next(iter([*others, *watching]), None)


def remarks(networks: tuple[Network, ...]) -> list[str]:
    """What watches unasked, what is here and does not, and why, one line each."""
    watching, lines = suited(networks), list[str]()
    if watching:
        names = " and ".join(HUB + network.name for network in watching)
        lines.append(f"{names} watch{'es' * (len(watching) == 1)} beside own networks; --watchers own leaves that out")
    else:
        lines.append(
            "no published network watches: sites that build on published weights will learn little from the codes; get "
            f"some with dpd data fetch, or name one with --watchers {OWN},{HUB}MODEL"
        )
    for network in networks:
        if network.fault is not None:
            lines.append(f"{HUB}{network.name} is on this machine and does not watch: {network.fault}")
    return lines


def _in_folder() -> Iterator[Network]:
    folder = networks_folder()
    if folder is None or not folder.is_dir():
        return
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield _network(str(place.resolve()), place.name, place)


def _in_hub_cache() -> Iterator[Network]:
    """Of the hub cache only image classifiers: what else is there has other uses."""
    from huggingface_hub import constants

    for place in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        source = place.name.removeprefix("models--").replace("--", "/")
        try:
            folder = cached_snapshot(source)
        except (OSError, ValueError):  # of another revision, or incomplete
            continue
        if _is_classifier(read_config(folder)):
            yield _network(source, source, folder)


def _network(source: str, name: str, folder: Path) -> Network:
    licence = licence_of(folder)
    return Network(source, name, licence, _fault(source, folder, licence))


def _fault(source: str, folder: Path, licence: str | None) -> str | None:
    """Why the network does not watch unasked."""
    asked = f"--watchers {OWN},{HUB}{source} has it watch"
    config = read_config(folder)
    if not _is_classifier(config):
        return "it is no image classifier"
    try:
        find_model(source)
    except InputError as error:
        return str(error).partition(": ")[2]
    bytes_ = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if bytes_ > LARGEST:
        return f"its weights are {bytes_ / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}; {asked}"
    if licence is not None and forbids_derivatives(licence):
        return f"its licence, {licence}, forbids derivatives; {asked}"
    return None


def forbids_derivatives(licence: str) -> bool:
    """Whether a licence is one of Creative Commons' that forbid derivatives."""
    return "nd" in licence.lower().split("-")


def _is_classifier(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures") or []
    named = isinstance(architectures, list) and any(str(name).endswith(CLASSIFIES) for name in architectures)
    return named or OF_TIMM in config
