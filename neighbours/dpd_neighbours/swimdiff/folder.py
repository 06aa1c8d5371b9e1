"""The folder of an encoder of `dpd swimdiff`: config.json, model.safetensors and a record. Loads no PyTorch."""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_runtime.errors import InputError
from dpd_runtime.files import dumps, loads, read_object, write_atomically
from dpd_train.encoders import Encoder

if TYPE_CHECKING:
    from dpd_train.networks import ResNet


CONFIG, WEIGHTS, RECORD = "config.json", "model.safetensors", "features.json"
METHOD = "swimdiff"


def swimdiff(folder: str) -> Encoder:
    """The encoder in a folder, for the door `dpd.encoders`.

    Raises:
        InputError: the folder or a file is missing, or the record is not that of an encoder.
    """
    place = Path(folder)
    record = _record(place)
    name = f"{METHOD}:{place.resolve().name}"
    return Encoder(name, record["resolution"], record["weights_sha256"], partial(_load, place, record))


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


def _record(folder: Path) -> dict[str, Any]:
    """The folder's record.

    Raises:
        InputError: as `swimdiff`.
    """
    place = _place(folder)
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


def _load(folder: Path, record: dict[str, Any]) -> "ResNet":
    """Open the network. The bytes whose hash is compared are the bytes that are loaded.

    Args:
        record: of the folder when it was checked.

    Raises:
        InputError: config or weights are damaged or others by now, or do not fit one another.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from dpd_train.networks import ResNet, shape_from_json

    shape = _intact(folder / CONFIG, record["config_sha256"])
    weights = _intact(folder / WEIGHTS, record["weights_sha256"])
    try:
        network = ResNet(shape_from_json(loads(shape)))
        network.load_state_dict(load(weights))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{_place(folder)}: {WEIGHTS} does not fit {CONFIG} ({reason}); {_again(folder)}") from error
    return network.eval().requires_grad_(False)


def _intact(path: Path, digest: str) -> bytes:
    content, folder = path.read_bytes(), path.parent
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(
            f"{_place(folder)}: {path.name} is damaged: its sha256 is not that of {RECORD}; {_again(folder)}"
        )
    return content


def _place(folder: Path) -> str:
    """The folder as commands take it."""
    return f"{METHOD}:{folder}"


def _again(folder: Path) -> str:
    return f"copy the folder again, or train it again: dpd swimdiff DATA --out {folder}"
