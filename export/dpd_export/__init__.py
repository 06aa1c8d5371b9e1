"""From a run to a bundle: ONNX graphs, parity, manifest. `dpd engines` uses this package without PyTorch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpd_export.bundle import export_run

__all__ = ["export_run"]


def __getattr__(name: str) -> Any:
    """`export_run` brings PyTorch: not before somebody asks for it."""
    if name != "export_run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dpd_export.bundle import export_run

    return export_run
