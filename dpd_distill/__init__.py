"""Dataset distillation for remote sensing, in Python: each function does what the command of its name does.

>>> import dpd_distill as dpd
>>> scenes = dpd.open_scenes("scenes/")             # labelled images and their split; shows itself in a notebook
>>> run = dpd.train(scenes, "run", ipc=10)          # networks, prototypes, prompts
>>> bundle = dpd.export(run, "site.dpd")            # one file, which may leave after its audit
>>> for image in dpd.generate(bundle, ipc=10): ...  # as at a site, without PyTorch
>>> dpd.write_set(dpd.generate(bundle, ipc=10), "set")
>>> dpd.evaluate(["set"], train=scenes, test="val")
>>> dpd.audit(bundle, train=scenes).verdict

`distill` takes all of these steps with a plan; `fit` trains a classifier on a set, and `predict` labels images by it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off

if TYPE_CHECKING:
    from dpd_distill.api import audit, distill, evaluate, export, fit, generate, open_scenes, predict, train
    from dpd_runtime.dataset import write_set

__all__ = [
    "audit",
    "distill",
    "evaluate",
    "export",
    "fit",
    "generate",
    "open_scenes",
    "predict",
    "train",
    "write_set",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command line does not load numpy for its help."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("dpd_runtime.dataset" if name == "write_set" else f"{__name__}.api"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__"])
