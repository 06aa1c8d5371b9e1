"""Dataset distillation for remote sensing, in Python: each function does what the command of its name does.

Examples:
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

from typing import TYPE_CHECKING

from dpd_runtime.public import public_names  # dpd_runtime first, as it switches telemetry off

if TYPE_CHECKING:
    from dpd_distill.api import audit, distill, evaluate, export, fit, open_scenes, predict, train
    from dpd_runtime.dataset import write_set
    from dpd_runtime.generation import generate

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
_OF_THE_SITE = {"generate": "dpd_runtime.generation", "write_set": "dpd_runtime.dataset"}
_PLACES = dict.fromkeys(__all__, "dpd_distill.api") | _OF_THE_SITE
__getattr__, __dir__ = public_names(__name__, _PLACES)
