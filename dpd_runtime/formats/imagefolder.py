"""A folder for each class with an image file for each index: what any training framework reads."""

import re
from collections.abc import Iterator
from pathlib import Path

from dpd_runtime.atomic import write_atomically
from dpd_runtime.formats.format import Contents, Format, Sample, folder_name


def pack(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Images under their `file_name`. No file holds the whole set."""
    for sample in samples:
        path = out / sample.record["file_name"]
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, contents.encoding.encode(sample.pixels))
    return []


IMAGEFOLDER = Format("imagefolder", pack, re.compile(r"(?!)"), encodes=True, image_name=folder_name)
