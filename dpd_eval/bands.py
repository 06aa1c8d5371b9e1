"""The bands of a set or a bundle beside those of the real images that it is judged with."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpd_eval.set_file import read_set_file
from dpd_runtime.errors import InputError
from dpd_runtime.images.bands import Band, shown_bands
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_train.images import Reading, Rendering, SceneSet

NAMED = 4  # bands that a sentence names


def bands_of_set(folder: Path) -> tuple[Band, ...] | None:
    """The bands of a set as dataset.json has them, none for RGB; None for a folder without it, whose files decide.

    Raises:
        InputError: dataset.json is damaged.
    """
    found = read_set_file(folder)
    return None if found is None else found.bands


def check_bands(what: str, bands: Sequence[Band], real: "SceneSet", reference: str) -> None:
    """Check that a set or a bundle has the bands of the real images, by their names.

    Raises:
        InputError: it has others.
    """
    if [band.name for band in bands] == [band.name for band in real.bands]:
        return
    ours, theirs = described(bands), described(real.bands)
    way_out = "both need the same bands in one order, see --bands"
    if not bands:
        way_out = "leave out --bands all, or give what was made of these bands"
    elif not real.bands:
        way_out = "add --bands all"
    raise InputError(f"{what} has {ours}, {reference} has {theirs}: {way_out}")


def set_reading(real: "SceneSet") -> "Reading | Rendering":
    """How the files of a distilled set are read beside these real images."""
    from dpd_train.images import PLAIN

    return real.rendering.of_sets if real.bands and real.rendering is not None else PLAIN


def described(bands: Sequence[Band]) -> str:
    """`RGB images`, `1 band (VV)` or `13 bands (B1, B2, B3, B4, …)`."""
    if not bands:
        return "RGB images"
    names = ", ".join(band.name for band in bands[:NAMED]) + (", …" if len(bands) > NAMED else "")
    return f"{counted(len(bands), 'band')} ({names})"


def shown(bands: Sequence[Band]) -> str:
    """Which bands a picture shows: `B4, B3 and B2 as red, green and blue`, or `VV in grey`."""
    red, green, blue = (bands[place].name for place in shown_bands(bands))
    return f"{red} in grey" if red == green == blue else f"{red}, {green} and {blue} as red, green and blue"
