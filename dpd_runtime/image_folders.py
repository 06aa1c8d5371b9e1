"""What is no image of a user in a folder of images: hidden entries of any system, and folders that dpd made."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dpd_runtime.errors import InputError
from dpd_runtime.files import MAX_JSON_BYTES, loads, open_regular
from dpd_runtime.images import is_image
from dpd_runtime.text import printable

OF_SYSTEMS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
)
"""Folders that macOS, Synology, Windows, Linux and Python make by themselves, in lower case. Some hold thumbnails."""
SHEET_NAME, DECISIONS_NAME = "contact_sheet.png", "decisions.png"  # the second is of dpd select
OF_SETS = frozenset({SHEET_NAME, DECISIONS_NAME})
"""Pictures of a whole set beside its class folders."""
_HEADER = {"bundle", "seed", "sampler", "classes"}
SET = "a distilled set"
_RECORDS: tuple[tuple[str, str, Callable[[dict[str, object]], bool]], ...] = (
    ("dataset.json", SET, lambda content: _keys(content.get("made_with")) >= _HEADER),
    ("state.jsonl", SET, lambda content: set(content) >= _HEADER),
    ("run.json", "a run of dpd train", lambda content: {"config", "metrics", "versions"} <= set(content)),
    ("checkpoints/config.json", "a run of dpd train", lambda content: {"config", "data"} <= set(content)),
    ("plan.json", "a run of dpd distill", lambda content: {"asked", "plan"} <= set(content)),
    ("private.json", "a run of dpd private", lambda content: {"dp", "identity"} <= set(content)),
    ("bundle.json", "a bundle", lambda content: {"format_version", "files"} <= set(content)),
    ("model.json", "a classifier of dpd fit", lambda content: {"classes", "graph"} <= set(content)),
    ("pretrain.json", "a base of dpd pretrain", lambda content: "config" in content),
    ("features.json", "an encoder", lambda content: "weights_sha256" in content),
    ("of.json", "a training of dpd pretrain", lambda content: {"data", "resolution", "start"} <= set(content)),
)
"""File, what a folder with it is, and whether its content is ours. Other programs use such names too."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, by its name: a dot before it, or a folder that a system makes by itself."""
    return name.startswith(".") or name.casefold() in OF_SYSTEMS


def made_by_dpd(folder: Path) -> str | None:
    """What of ours a folder is, finished or not, as its record says; None for any other folder."""
    for name, what, is_ours in _RECORDS:
        content = _first_object(folder / name)
        if content is not None and is_ours(content):
            return what
    return None


def image_files(
    place: Path, pass_over: Callable[[Path, str], None], wanted: Callable[[Path], bool] = is_image, links: bool = False
) -> Iterator[Path]:
    """Yield the image files of a folder and of all folders in it that are neither hidden nor ours, unsorted.

    Args:
        pass_over: is told each folder of ours, and what it is.
        wanted: whether a file, which is not hidden, is an image.
        links: whether folders behind links are among them, each folder once.

    Raises:
        OSError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = set[str]()
    for parent, folders, names in os.walk(place, onerror=refuse, followlinks=links):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        below = []
        for name in filter(lambda name: not is_hidden(name), folders):
            what = made_by_dpd(Path(parent, name))
            if what is None:
                below.append(name)
            else:
                pass_over(Path(parent, name), what)
        folders[:] = below
        of_set = not OF_SETS.isdisjoint(names) and made_by_dpd(Path(parent)) == SET
        for name in names:
            if not is_hidden(name) and not (of_set and name in OF_SETS) and wanted(path := Path(parent, name)):
                yield path


def check_apart(option: str, place: Path, data: Path) -> None:
    """Check that pictures at `place` will not be read as images of `data` the next time.

    Raises:
        InputError: it is inside the folder `data`, and in nothing there that is hidden or ours.
    """
    inside, real = data.resolve(), place.resolve()
    if not data.is_dir() or not real.is_relative_to(inside):
        return
    between = [folder for folder in real.parents if folder != inside and folder.is_relative_to(inside)]
    if not any(is_hidden(folder.name) or made_by_dpd(folder) for folder in between):
        raise InputError(f"{option} {place}: is inside {data}, and would be read with its images; choose another place")


def passed_over(folder: Path, what: str) -> str:
    """The line that says that a folder of ours is not read."""
    return f"{printable(folder)} is {what}: it is passed over"


def _keys(content: object) -> set[str]:
    return set(content) if isinstance(content, dict) else set()


def _first_object(path: Path) -> dict[str, object] | None:
    """The JSON object of a file, or of its first line where each line has one; None for anything else."""
    try:
        with open_regular(path) as file:
            raw = file.readline(MAX_JSON_BYTES) if path.suffix == ".jsonl" else file.read(MAX_JSON_BYTES + 1)
        content = loads(raw) if len(raw) <= MAX_JSON_BYTES else None
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
