"""From a run to a bundle: ONNX graphs, parity with PyTorch, manifest, TensorRT engines.

`dpd engines` uses this package without PyTorch, so nothing is imported here before it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off

if TYPE_CHECKING:
    from dpd_export.bundle import export_run
    from dpd_export.options import ExportOptions

__all__ = ["ExportOptions", "export_run"]
PLACES = {"ExportOptions": "dpd_export.options", "export_run": "dpd_export.bundle"}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
