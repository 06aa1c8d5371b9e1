"""From a run to a bundle: ONNX graphs, parity, manifest."""

from dpd_export.bundle import export_run

__all__ = ["export_run"]
