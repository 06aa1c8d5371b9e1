"""From a run to a bundle: ONNX graphs, parity with PyTorch, manifest, TensorRT engines.

`dpd engines` uses this package without PyTorch, so nothing is imported here before it is asked for.
"""

from typing import TYPE_CHECKING

from dpd_runtime.public import public_names  # dpd_runtime first, as it switches telemetry off

if TYPE_CHECKING:
    from dpd_export.bundle import export_run
    from dpd_export.options import ExportOptions

__all__ = ["ExportOptions", "export_run"]
_PLACES = {"ExportOptions": "dpd_export.options", "export_run": "dpd_export.bundle"}
__getattr__, __dir__ = public_names(__name__, _PLACES, "train,export")
