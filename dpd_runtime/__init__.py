"""The runtime of dpd: open a bundle and regenerate its training set, without PyTorch.

>>> import dpd_runtime
>>> bundle = dpd_runtime.load_bundle(dpd_runtime.embedded_bundle())
>>> for image in dpd_runtime.generate(bundle, ipc=10, seed=0): ...
"""

from dpd_runtime._version import __version__ as __version__
from dpd_runtime.bundle.bundle import Bundle, embedded_bundle, load_bundle
from dpd_runtime.dataset.formats import Output
from dpd_runtime.dataset.write import DistilledSet, write_set
from dpd_runtime.errors import DpdError
from dpd_runtime.generation.block import Image
from dpd_runtime.generation.generate import Generation, generate

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
