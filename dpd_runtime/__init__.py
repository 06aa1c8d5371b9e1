"""The runtime of dpd: open a bundle and regenerate its training set, without PyTorch.

>>> import dpd_runtime
>>> bundle = dpd_runtime.load_bundle()  # the embedded one; or its path
>>> for image in dpd_runtime.generate(bundle, ipc=10, seed=0): ...

For PyTorch's DataLoader there is `dpd_runtime.torch.DistilledImages`.
"""

from typing import TYPE_CHECKING, Any

import dpd_runtime.telemetry  # noqa: F401 -- before any library that has one
from dpd_runtime.moved import keep_names

if TYPE_CHECKING:
    from dpd_runtime.bundle import Bundle, embedded_bundle, load_bundle
    from dpd_runtime.dataset import DistilledSet, write_set
    from dpd_runtime.errors import DpdError
    from dpd_runtime.formats import Output
    from dpd_runtime.generation import Generation, generate
    from dpd_runtime.networks import Image
    from dpd_runtime.versions import __version__ as __version__


_MODULES = {
    "Bundle": "bundle",
    "DistilledSet": "dataset",
    "DpdError": "errors",
    "Generation": "generation",
    "Image": "networks",
    "Output": "formats",
    "embedded_bundle": "bundle",
    "generate": "generation",
    "load_bundle": "bundle",
    "write_set": "dataset",
    "__version__": "versions",
}
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


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `dpd train --help` does not load numpy and Pillow."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, before they are imported too."""
    return sorted([*_MODULES, "__doc__"])


keep_names(
    {
        "dpd_runtime.bundle.keys": "dpd_runtime.trust",
        "dpd_runtime.engines.engine": "dpd_runtime.engines",
        "dpd_runtime.generation.replay": "dpd_runtime.golden",
        "dpd_runtime.sealing.require": "dpd_runtime.sealing",
    }
)
