"""What judges read of a set's dataset.json."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save

from dpd_eval.reading import convert
from dpd_runtime.dataset.state import DATASET_NAME, METADATA_NAME
from dpd_runtime.errors import InputError
from dpd_runtime.files import read_object
from dpd_runtime.images.bands import Band
from dpd_runtime.strict_json import loads

AGAIN = "run the same dpd generate again"
NO_PROTOTYPES = hashlib.sha256(save({})).hexdigest()


@dataclass(frozen=True)
class SetFile:
    """The bands, the watchers and the origin of a set.

    Args:
        bands: none for RGB.
        watchers: names of the networks, beside the run's own ones, that watched while codes were matched; None for a
            set of another kind, or one that an earlier version made.
        bundle_hash, prototypes_sha256: of the bundle that it was generated from; None for a set of another kind.
    """

    bands: tuple[Band, ...] = ()
    watchers: tuple[str, ...] | None = None
    bundle_hash: str | None = None
    prototypes_sha256: str | None = None

    @property
    def matching(self) -> str:
        """What stands for the matching that made its codes: their hash, or the bundle's if it has none; else empty."""
        codes = None if self.prototypes_sha256 == NO_PROTOTYPES else self.prototypes_sha256
        return codes or self.bundle_hash or ""


def read_set_file(folder: Path) -> SetFile | None:
    """Read dataset.json; None for a folder without it.

    Raises:
        InputError: it is damaged.
    """
    path = folder / DATASET_NAME
    if not path.is_file():
        return None
    found = convert(read_object(path, f"{path}:", AGAIN), SetFile, str(path))
    for number, band in enumerate(found.bands):
        if fault := band.fault():
            raise InputError(f"{path}: bands[{number}]: its {fault}; {AGAIN}")
    return found


def prototypes_of(folder: Path) -> dict[str, int]:
    """The prototype from which each image of a set was made, by its path; empty for other folders.

    Raises:
        InputError: metadata.jsonl is damaged.
    """
    path, found = folder / METADATA_NAME, dict[str, int]()
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            record = loads(line)
            prototype = record.get("prototype")
            if type(prototype) is int and prototype >= 0:
                found[str(record["file_name"])] = prototype
        except (ValueError, KeyError, AttributeError):
            raise InputError(f"{path}: line {number} is damaged; {AGAIN}") from None
    return found
