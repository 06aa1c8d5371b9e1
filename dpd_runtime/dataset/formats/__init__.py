"""File formats of a distilled set: one module for each, listed in `output.py`."""

from dpd_runtime.dataset.formats.encoding import ENCODINGS, PNG, Encoding
from dpd_runtime.dataset.formats.format import Contents, Format, Sample, folder_name
from dpd_runtime.dataset.formats.output import FORMATS, UNFINISHED_NAME, Output, file_suffix, waiting_encoding

__all__ = [
    "ENCODINGS",
    "FORMATS",
    "PNG",
    "UNFINISHED_NAME",
    "Contents",
    "Encoding",
    "Format",
    "Output",
    "Sample",
    "file_suffix",
    "folder_name",
    "waiting_encoding",
]
