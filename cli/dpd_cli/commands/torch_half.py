"""The commands of the research machine need the `train` extra; say so instead of showing an import error."""

import logging
import os

PACKAGES = {
    "train": ("torch", "diffusers", "transformers", "sklearn"),
    "export": ("onnx", "onnxscript"),
    "eval": ("scipy", "jinja2"),
    "cpu": ("onnxruntime",),
}


def require_torch(*extras: str) -> None:
    """Check the `train` extra, and others by name, and quieten its libraries: their advice is for other programs.

    Raises:
        MissingExtraError: a package that is not installed, with the extra which brings it.
    """
    from importlib.util import find_spec

    from dpd_runtime.errors import MissingExtraError

    for extra in ("train", *extras):
        for package in PACKAGES[extra]:
            if find_spec(package) is None:
                raise MissingExtraError(package, extra)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
