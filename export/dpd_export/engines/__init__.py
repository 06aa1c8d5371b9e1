"""TensorRT engines built from a bundle's ONNX graphs, in two flavours.

`tensorrt-rtx` builds ahead of time on a machine without a GPU; `tensorrt` (data-centre) builds on the GPU that will run
the engine. dpd_runtime loads them, and requires a signature.
"""

from dpd_export.engines.for_this_machine import build_for_this_machine
from dpd_export.engines.new_bundle import build_engines
from dpd_export.engines.wanted import WantedEngines, wanted_engines

__all__ = ["WantedEngines", "build_engines", "build_for_this_machine", "wanted_engines"]
