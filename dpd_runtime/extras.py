"""The extras of this package: what each brings, and which of them a call needs that are not there."""

from importlib.util import find_spec

from dpd_runtime.errors import MissingExtraError

PACKAGES = {
    "train": ("torch", "diffusers", "transformers", "sklearn"),
    "export": ("onnx", "onnxscript"),
    "eval": ("scipy", "jinja2", "msgspec"),
    "cpu": ("onnxruntime",),
    "fed": ("flwr",),
    "dp": ("dp_accounting",),
    "geo": ("rasterio",),
    "parquet": ("pyarrow",),
}
"""Packages of each extra that are looked for before a long call begins."""


def require_extras(*extras: str) -> None:
    """Check that the packages of these extras are installed.

    Raises:
        MissingExtraError: some are not; the message names all of them, and the line that installs them.
    """
    missing = {
        extra: absent
        for extra in dict.fromkeys(extras)
        if (absent := [package for package in PACKAGES[extra] if find_spec(package) is None])
    }
    if missing:
        raise MissingExtraError([name for absent in missing.values() for name in absent], ",".join(missing))
