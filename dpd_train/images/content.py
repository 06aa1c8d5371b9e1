"""What the files of a data set show, whatever they are called: hashes of their bytes, and which show one scene."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from dpd_runtime.files import is_own, spare_cache, write_atomically
from dpd_runtime.images.pixels import read_bytes, read_square
from dpd_train.images.rendering import Rendering, identity, reader

log = logging.getLogger(__name__)
SIDE = 64  # pixels at which images are compared, whatever size they are used at
FORMAT = 2  # increase this whenever other images become near duplicates
Stamp = tuple[Path, int, int]
"""A file with its time and size, so that a change is seen."""


@lru_cache(maxsize=4)
def hashes_of(files: tuple[Stamp, ...], rendering: Rendering | None) -> dict[Path, str]:
    """Hash of the bytes of each file that can be read.

    Args:
        rendering: of the data set; its hashes are `Rendering.identity`.
    """
    digests = {}
    for path, _, _ in files:
        content = read_bytes(path)
        if isinstance(content, bytes):
            digests[path] = identity(content, rendering)
    return digests


@lru_cache(maxsize=4)
def scenes_of(files: tuple[Stamp, ...], rendering: Rendering | None) -> dict[Path, str]:
    """Each file's least hash among its near duplicates, itself included."""
    digests = hashes_of(files, rendering)
    first = {digest: path for path, digest in digests.items()}
    group_of = {digest: min(group) for group in _near(first, rendering) for digest in group}
    return {path: group_of.get(digest, digest) for path, digest in digests.items()}


def stamps(files: Iterable[Path]) -> tuple[Stamp, ...]:
    """The files in a form that changes whenever one of them does."""
    entries = []
    for path in files:
        try:
            state = path.stat()
            entries.append((path, state.st_mtime_ns, state.st_size))
        except OSError:
            entries.append((path, 0, 0))  # reading it will say why
    return tuple(entries)


def _near(files: Mapping[str, Path], rendering: Rendering | None) -> list[list[str]]:
    """Groups of at least two hashes whose images show one scene.

    They are kept in the user's cache, because comparing 13,000 images takes half a minute.
    """
    digests = sorted(files)
    key = hashlib.sha256("\n".join([str(FORMAT), *digests]).encode()).hexdigest()
    folder = spare_cache("near-duplicates")
    if folder is None:
        return _compare(digests, files, rendering)
    path = folder / f"{key[:32]}.json"
    if is_own(path) and (known := _read(path, key)) is not None:
        return known
    groups = _compare(digests, files, rendering)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, json.dumps({"key": key, "groups": groups}, allow_nan=False).encode())
    except OSError as error:
        log.info("%s cannot be written, so near duplicates are looked for again next time: %s", path, error)
    return groups


def _read(path: Path, key: str) -> list[list[str]] | None:
    try:
        kept = json.loads(path.read_bytes())
        return [[str(digest) for digest in group] for group in kept["groups"]] if kept["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _compare(digests: Sequence[str], files: Mapping[str, Path], rendering: Rendering | None) -> list[list[str]]:
    from dpd_train.images.structure import near_groups  # loads PyTorch

    to_pixels = reader(rendering)
    results = {digest: read_square(files[digest], SIDE, to_pixels) for digest in digests}
    images = {digest: read[1] for digest, read in results.items() if not isinstance(read, str)}
    if not images:
        return []
    names = np.array(list(images))
    numbers = near_groups(np.stack(list(images.values())), names.tolist())
    repeated = np.flatnonzero(np.bincount(numbers) > 1)
    return [names[numbers == number].tolist() for number in repeated]
