"""TensorRT engines from a bundle's ONNX graphs, two flavours behind one module.

`tensorrt-rtx` builds ahead of time on a machine without a GPU; `tensorrt` (data-centre) builds on the GPU that will run
the engine. Engines that go into a bundle are built and inspected here; loading is the runtime's, and needs a signature.
"""

from dpd_export.engines.new_bundle import build_engines, check_engines

__all__ = ["build_engines", "check_engines"]
