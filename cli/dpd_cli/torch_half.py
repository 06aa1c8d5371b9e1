"""The commands of the research machine need the `train` extra; say so instead of showing an import error."""

import logging
import os


def require_torch() -> None:
    """Check the `train` extra and quieten its libraries: their advice is for developers of other programs.

    Raises:
        MissingExtraError: torch, diffusers, transformers or scikit-learn is not installed.
    """
    from importlib.util import find_spec

    from dpd_runtime.errors import MissingExtraError

    for package in ("torch", "diffusers", "transformers", "sklearn"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
