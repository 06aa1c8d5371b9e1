"""One look at a data set before the long run: a sample of every class is decoded, and parts are compared."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dpd_runtime.errors import DataError, MissingExtraError
from dpd_runtime.images.bands import Band
from dpd_runtime.images.pixels import ALONE, Alike, evenly_spaced, read_square
from dpd_runtime.text import counted
from dpd_train.images.content import scenes_of, stamps
from dpd_train.images.read import known, name_in, notes_of, open_source, settled, size_of
from dpd_train.images.rendering import Rendering, reader
from dpd_train.images.scene_set import Finding
from dpd_train.images.sources import Files, Source, reference_files
from dpd_train.reading import PLAIN, Reading, parse_reading
from dpd_train.remarks import SceneSides, sides_of

PER_CLASS = 20  # images of each class and part that are decoded
SIDE = 32  # pixels to which they are reduced
MANY = re.compile(r"\d+ bands of \d+ bits: say which ")
HINT = re.compile(r"(?P<bands>--bands \d+(?:,\d+)*)?(?: ?(?P<stretch>--stretch [\d.:]+(?:,[\d.:]+)*))?")
FORMATS = "save them in a format that dpd reads, or give --bands and --stretch"
CARRIED = "--bands all carries all bands instead, in a codes-only bundle"


@dataclass(frozen=True)
class Sample:
    """Decoded images of every class and part.

    images: how many were tried. set_aside: those that cannot be used, with the reason. sides: of the usable ones; None
    without any, or where no header tells a size.
    """

    images: int
    set_aside: tuple[Finding, ...]
    sides: SceneSides | None = None

    @property
    def usable(self) -> int:
        return self.images - len(self.set_aside)


@dataclass(frozen=True)
class Look:
    """What a look at a data set shows.

    Args:
        counts: part → class → files. A source without parts has "all".
        suggestion: options of the reading with which more of the sample is usable, and what it is then.
        bands: that the images keep with this reading; empty where they become RGB.
        notes: what the user should know of how the files are read.
    """

    counts: Mapping[str, Mapping[str, int]]
    sample: Sample
    suggestion: tuple[str, Sample] | None
    bands: tuple[Band, ...]
    notes: tuple[str, ...] = ()

    @property
    def all_bands(self) -> str:
        """What else can be done with images of more bands than colours; empty where none is set aside for them."""
        return CARRIED if any(MANY.match(one.reason) for one in self.sample.set_aside) else ""

    def remarks(self) -> list[str]:
        """What the user should know before hours of work, one line each."""
        lines = []
        if self.sample.set_aside:
            first, tried = self.sample.set_aside[0], self.sample.images
            lines.append(
                f"{len(self.sample.set_aside)} of {counted(tried, 'image')} of a sample will be set aside, first "
                f"{first.path}: {first.reason}; see dpd check"
            )
        if self.suggestion is not None:
            options, sample = self.suggestion
            lines.append(f"with {options} {sample.usable} of {sample.images} are usable")
        return [*lines, *self.notes, *([self.all_bands] if self.all_bands else [])]

    def check(self, root: Path) -> None:
        """Check that a long run would use most of the data.

        Raises:
            DataError: less than half of the sample is usable.
        """
        if self.sample.usable < self.sample.images / 2:
            raise DataError(f"{root}: {'; '.join(self.remarks())}")


def look_at(root: Path, reading: Reading = PLAIN) -> Look:
    """Decode a sample of every class of `root`, and suggest how to read it.

    Raises:
        DataError: no folder or list of at least two classes; or no image of the sample is usable, however read.
        MissingExtraError: the reading needs rasterio, which is not installed.
    """
    source, parts = _opened(root)
    rendering = settled(reading, reference_files(source), source)
    together = known(rendering, reference_files(source))
    sample = _decoded(source, parts, rendering, together)
    suggestion = _suggested(source, parts, sample) if reading.plain and sample.set_aside else None
    if not sample.usable and suggestion is None:
        first = sample.set_aside[0]
        missing = first.reason in ("no such file", "broken link")
        way_out = "correct the paths: relative to the list's folder, with /" if missing else FORMATS
        raise DataError(
            f"{root}: none of {counted(sample.images, 'image')} can be used, first {first.path}: {first.reason}; "
            f"{way_out}"
        )
    return Look(
        counts={part: {name: len(paths) for name, paths in files.items()} for part, files in parts.items()},
        sample=sample,
        suggestion=suggestion,
        bands=rendering.carried if rendering is not None else (),
        notes=notes_of(together),
    )


def shared_scenes(root: Path, reading: Reading = PLAIN) -> dict[tuple[str, str], int]:
    """(part, part) → files of the second part that show a scene of the first, copies included.

    Raises:
        DataError, MissingExtraError: as `look_at`.
    """
    source, parts = _opened(root)
    files = {part: [path for paths in of.values() for path in paths] for part, of in parts.items()}
    if len(files) < 2:
        return {}
    every = stamps([path for paths in files.values() for path in paths])
    scenes = scenes_of(every, settled(reading, reference_files(source), source))
    names, shared = list(files), {}
    for i, first in enumerate(names):
        known = {scenes[path] for path in files[first] if path in scenes}
        for second in names[i + 1 :]:
            if count := sum(scenes.get(path) in known for path in files[second]):
                shared[first, second] = count
    return shared


def _opened(root: Path) -> tuple[Source, dict[str, Files]]:
    source = open_source(Path(root))
    return source, {part: source.files(part) for part in source.parts} or {"all": source.files(None)}


def _decoded(
    source: Source, parts: Mapping[str, Files], rendering: Rendering | None, together: Alike = ALONE
) -> Sample:
    to_pixels = reader(rendering, together)
    tried, set_aside, sizes = 0, [], Counter[tuple[int, int]]()
    for part, files in parts.items():
        for paths in files.values():
            for path in evenly_spaced(paths, PER_CLASS):
                tried += 1
                square = read_square(path, SIDE, to_pixels)
                if isinstance(square, str):
                    set_aside.append(Finding(part, name_in(source, path), square))
                elif (size := size_of(path)) is not None:
                    sizes[size] += 1
    return Sample(tried, tuple(set_aside), sides_of(sizes) if sizes else None)


def _suggested(source: Source, parts: Mapping[str, Files], plain: Sample) -> tuple[str, Sample] | None:
    """The options that most of the reasons name, if more images are usable with them."""
    hints = Counter(
        match[0].strip() for one in plain.set_aside for match in HINT.finditer(one.reason) if match[0].strip()
    )
    for options, _ in hints.most_common(1):
        match = HINT.fullmatch(options)
        assert match is not None
        bands, stretch = (text and text.split()[1] for text in (match["bands"], match["stretch"]))
        try:
            rendering = settled(parse_reading(bands, stretch), reference_files(source), source)
            sample = _decoded(source, parts, rendering)
        except (DataError, MissingExtraError):  # no limits, or rasterio is not installed: the reason says what to do
            return None
        if sample.usable > plain.usable:
            return options, sample
    return None
