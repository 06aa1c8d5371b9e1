"""The runtime of dpd: open a bundle and regenerate its training set, without PyTorch.

Examples:
    >>> import dpd_runtime
    >>> bundle = dpd_runtime.load_bundle()  # the embedded one; or its path
    >>> for image in dpd_runtime.generate(bundle, ipc=10, seed=0): ...

For PyTorch's DataLoader there is `dpd_runtime.torch.DistilledImages`.
"""

from typing import TYPE_CHECKING

import dpd_runtime.telemetry  # noqa: F401 -- before any library that has one
from dpd_runtime.moved import keep_names
from dpd_runtime.public import public_names

if TYPE_CHECKING:
    from dpd_runtime.bundle import Bundle, embedded_bundle, load_bundle
    from dpd_runtime.dataset import DistilledSet, write_set
    from dpd_runtime.errors import DpdError
    from dpd_runtime.formats import Output
    from dpd_runtime.generation import Generation, generate
    from dpd_runtime.networks import Image
    from dpd_runtime.versions import __version__ as __version__

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
_PLACES = {
    "Bundle": "dpd_runtime.bundle",
    "DistilledSet": "dpd_runtime.dataset",
    "DpdError": "dpd_runtime.errors",
    "Generation": "dpd_runtime.generation",
    "Image": "dpd_runtime.networks",
    "Output": "dpd_runtime.formats",
    "__version__": "dpd_runtime.versions",
    "embedded_bundle": "dpd_runtime.bundle",
    "generate": "dpd_runtime.generation",
    "load_bundle": "dpd_runtime.bundle",
    "write_set": "dpd_runtime.dataset",
}
__getattr__, __dir__ = public_names(__name__, _PLACES)

keep_names(
    {
        "dpd_runtime.bundle.keys": "dpd_runtime.trust",
        "dpd_runtime.engines.engine": "dpd_runtime.engines",
        "dpd_runtime.generation.replay": "dpd_runtime.golden",
        "dpd_runtime.sealing.require": "dpd_runtime.sealing",
    }
)
