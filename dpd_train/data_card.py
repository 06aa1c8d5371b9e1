"""The data card: `dpd.toml` beside scenes says how they are read and divided, for the commands that open them."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.errors import InputError
from dpd_runtime.files import write_atomically
from dpd_runtime.settings import choices
from dpd_runtime.text import option
from dpd_train.reading import ImageOptions

NAME = "dpd.toml"
FIELDS = ("bands", "stretch", "split", "groups", "val_per_class")
"""What a card may say: the options of these names, with their values."""
MOST_BYTES = 1 << 16
HEAD = """\
# How these scenes are read and divided. Commands that are given them read this file (but for dpd pretrain, which
# reads several folders); an option that says something else is refused. `dpd check --write` writes it.
"""


@dataclass(frozen=True)
class DataCard:
    """What a card says. values: of `FIELDS`, at least one. sha256: of the file."""

    path: Path
    values: Mapping[str, Any]
    sha256: str

    def with_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options that were given and those of the card, by name. A value of None was not given.

        Raises:
            InputError: an option says something else than the card.
        """
        for name, value in self.values.items():
            if given.get(name) not in (None, value):
                raise InputError(
                    f"{option(name)} {given[name]}: {self.path} says {name} = {_shown(value)}; leave the option out, "
                    "or change that file"
                )
        return {**given, **self.values}


def read_card(data: Path) -> DataCard | None:
    """Read the card of a folder, or that beside a list; None where there is none.

    Raises:
        InputError: it is damaged, or says what no card can say.
    """
    path = place_of(data)
    try:
        if not path.exists():
            return None
    except OSError:  # opening the scenes will say why
        return None
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: is no file of at most {MOST_BYTES >> 10} KiB; repair or remove it")
        content = path.read_bytes()
        values = tomllib.loads(content.decode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); repair or remove it") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML ({error}); repair or remove it") from error
    if unknown := sorted(values.keys() - set(FIELDS)):
        raise InputError(f"{path}: a data card says nothing of {unknown[0]}; it may say {', '.join(FIELDS)}")
    for name, value in values.items():
        kind = int if name == "val_per_class" else str
        if type(value) is not kind:
            wanted = "a whole number" if kind is int else 'text in quotes, such as "4,3,2"'
            raise InputError(f"{path}: {name} is {value!r}: give {wanted}")
    known = choices(ImageOptions)["split"]
    if values.get("split", known[0]) not in known:
        raise InputError(f"{path}: split is {_shown(values['split'])}: give {', '.join(known)}")
    try:
        _ = ImageOptions(**values).reading
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return DataCard(path, values, hashlib.sha256(content).hexdigest()) if values else None


def write_card(data: Path, values: Mapping[str, Any]) -> Path:
    """Write the card of a folder, or that beside a list.

    Args:
        values: of `FIELDS`.

    Raises:
        DiskError: it cannot be written.
    """
    lines = [f"{name} = {_shown(values[name])}\n" for name in FIELDS if name in values]
    write_atomically(place_of(data), (HEAD + "".join(lines)).encode())
    return place_of(data)


def place_of(data: Path) -> Path:
    """Where the card of a folder or a list is."""
    try:
        return (data if data.is_dir() else data.parent) / NAME
    except OSError:
        return data.parent / NAME


def _shown(value: object) -> str:
    """A value in TOML. A string is written as in JSON, in whose strings one character more may stand as it is."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
