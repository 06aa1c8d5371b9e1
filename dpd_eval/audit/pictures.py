"""The worst pairs as pictures, for the owner of the data alone."""

from pathlib import Path

from PIL import Image

from dpd_runtime.annotations import Images
from dpd_runtime.dataset.sheet import contact_sheet

COLUMNS = 12
ROWS = 3


def write_worst_pairs(path: Path, images: Images, nearest: Images) -> None:
    """The first 36 images, worst first, each above the real image that is most like it in one of its eight views."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    rows = []
    for start in range(0, min(len(images), COLUMNS * ROWS), COLUMNS):
        part = slice(start, min(start + COLUMNS, COLUMNS * ROWS))
        rows += [("audited", list(images[part])), ("nearest real", list(nearest[part]))]
    Image.fromarray(contact_sheet(rows, size=int(images.shape[1]))).save(path)
