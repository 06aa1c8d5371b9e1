"""The light half of dpd: open a bundle, regenerate its training set. No PyTorch.

>>> import dpd_runtime
>>> bundle = dpd_runtime.load_bundle(dpd_runtime.embedded_bundle())
>>> for image in dpd_runtime.generate(bundle, ipc=10, seed=0): ...
"""

from dpd_runtime.bundle.bundle import Bundle, embedded_bundle, load_bundle
from dpd_runtime.dataset.formats import Output
from dpd_runtime.dataset.write import DistilledSet, write_set
from dpd_runtime.errors import DpdError
from dpd_runtime.generation.block import Image
from dpd_runtime.generation.generate import Generation, generate

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "DistilledSet",
    "DpdError",
    "Generation",
    "Image",
    "Output",
    "embedded_bundle",
    "generate",
    "load_bundle",
    "write_set",
]
