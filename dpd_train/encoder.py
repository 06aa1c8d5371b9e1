"""The folder of an encoder that was trained without labels: config.json, model.safetensors and a record."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_runtime.errors import InputError
from dpd_runtime.files import dumps, read_object, write_atomically
from dpd_train.config import FAMILY

if TYPE_CHECKING:
    from dpd_train.networks import ResNet


CONFIG, WEIGHTS, RECORD = "config.json", "model.safetensors", "features.json"
METHOD = "swimdiff"


@dataclass(frozen=True)
class Encoder:
    """A frozen network in evaluation mode.

    Args:
        name: swimdiff: and the folder's last part, for results, which hold no local paths.
        network: its maps are the features; its head belongs to the training alone.
        side: of the images that it was trained on, in pixels.
        sha256: of the file of its weights.
    """

    name: str
    network: "ResNet"
    side: int
    sha256: str


def encoder_name(folder: Path) -> str:
    """The encoder's name in results: swimdiff: and the last part of its folder."""
    return FAMILY + folder.resolve().name


def check_new(folder: Path) -> None:
    """Check that an encoder may be written to `folder`.

    Raises:
        InputError: something is there already.
    """
    if (folder / RECORD).is_file():
        raise InputError(f"{folder} holds a finished encoder; choose another --out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; choose another --out")


def save_encoder(network: "ResNet", folder: Path, record: dict[str, Any]) -> None:
    """Write the folder; the record, which completes it, comes last.

    Args:
        record: what else features.json says, such as the resolution in pixels.
    """
    from dpd_train.networks import shape_to_json, weights_to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    shape, weights = shape_to_json(network.config), weights_to_bytes(network)
    write_atomically(folder / CONFIG, shape)
    write_atomically(folder / WEIGHTS, weights)
    files = {"config_sha256": shape, "weights_sha256": weights}
    content = {"method": METHOD} | {name: hashlib.sha256(value).hexdigest() for name, value in files.items()} | record
    write_atomically(folder / RECORD, dumps(content))


def check_encoder(folder: Path) -> dict[str, Any]:
    """Return the folder's record. Loads no PyTorch.

    Raises:
        InputError: the folder or a file is missing, or the record is not that of an encoder.
    """
    place = f"{FAMILY}{folder}"
    if not folder.is_dir():
        raise InputError(f"{place}: no such folder; make it: dpd swimdiff DATA --out {folder}")
    for name in (CONFIG, WEIGHTS, RECORD):
        if not (folder / name).is_file():
            raise InputError(f"{place}: {name} is missing; give a folder that dpd swimdiff wrote")
    record = read_object(folder / RECORD, f"{place}: {RECORD}", _again(folder))
    side, digests = record.get("resolution"), [record.get(name) for name in ("config_sha256", "weights_sha256")]
    known = record.get("method") == METHOD and all(isinstance(digest, str) for digest in digests)
    if not known or not isinstance(side, int) or side < 1:
        raise InputError(f"{place}: {RECORD} is not the record of an encoder; {_again(folder)}")
    return record


def load_encoder(folder: Path) -> Encoder:
    """Open the folder. The bytes whose hash is compared are the bytes that are loaded.

    Raises:
        InputError: as `check_encoder`, or weights that are damaged or do not fit the config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from dpd_runtime.files import loads  # here, as --help imports this module
    from dpd_train.networks import ResNet, shape_from_json

    record, place = check_encoder(folder), f"{FAMILY}{folder}"
    shape, weights = (
        _intact(folder / name, record[key], place)
        for name, key in ((CONFIG, "config_sha256"), (WEIGHTS, "weights_sha256"))
    )
    try:
        network = ResNet(shape_from_json(loads(shape)))
        network.load_state_dict(load(weights))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{place}: {WEIGHTS} does not fit {CONFIG} ({reason}); {_again(folder)}") from error
    frozen = network.eval().requires_grad_(False)
    return Encoder(encoder_name(folder), frozen, int(record["resolution"]), record["weights_sha256"])


def _intact(path: Path, digest: str, place: str) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"{place}: {path.name} is damaged: its sha256 is not that of {RECORD}; {_again(path.parent)}")
    return content


def _again(folder: Path) -> str:
    return f"copy the folder again, or train it again: dpd swimdiff DATA --out {folder}"
