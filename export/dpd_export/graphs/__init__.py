"""ONNX graphs: their parts, tracing, half precision, int8, parity with PyTorch."""
