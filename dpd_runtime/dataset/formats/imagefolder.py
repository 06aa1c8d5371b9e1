"""ImageFolder: a folder for each class with its image files, as most training frameworks read it."""

import re
from collections.abc import Iterator
from pathlib import Path

from dpd_runtime.dataset.formats.format import Contents, Format, Sample, folder_name
from dpd_runtime.files import write_atomically


def pack(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Write each image under its `file_name`. No file holds the whole set."""
    for sample in samples:
        path = out / sample.record["file_name"]
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, contents.encoding.encode(sample.pixels), below=out)
    return []


IMAGEFOLDER = Format("imagefolder", pack, re.compile(r"(?!)"), encodes=True, image_name=folder_name)
