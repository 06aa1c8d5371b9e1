"""The runtime of dpd: open a bundle and regenerate its training set, without PyTorch.

>>> import dpd_runtime
>>> bundle = dpd_runtime.load_bundle(dpd_runtime.embedded_bundle())
>>> for image in dpd_runtime.generate(bundle, ipc=10, seed=0): ...
"""

from typing import TYPE_CHECKING, Any

from dpd_runtime._version import __version__ as __version__

if TYPE_CHECKING:
    from dpd_runtime.bundle.bundle import Bundle, embedded_bundle, load_bundle
    from dpd_runtime.dataset.formats import Output
    from dpd_runtime.dataset.write import DistilledSet, write_set
    from dpd_runtime.errors import DpdError
    from dpd_runtime.generation.block import Image
    from dpd_runtime.generation.generate import Generation, generate


_MODULES = {
    "Bundle": "bundle.bundle",
    "DistilledSet": "dataset.write",
    "DpdError": "errors",
    "Generation": "generation.generate",
    "Image": "generation.block",
    "Output": "dataset.formats",
    "embedded_bundle": "bundle.bundle",
    "generate": "generation.generate",
    "load_bundle": "bundle.bundle",
    "write_set": "dataset.write",
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
