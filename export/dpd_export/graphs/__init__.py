"""A base's networks as ONNX graphs: tracing, half precision, int8, and how far each graph is from PyTorch."""
