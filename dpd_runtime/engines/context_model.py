"""An ONNX model around an engine that was built before, which ONNX Runtime's TensorRT providers load (EPContext).

Both providers deserialise the bytes of the attribute `ep_cache_context` and match the engine's tensors by name
(onnxruntime, providers/nv_tensorrt_rtx/onnx_ctx_model_helper.cc and providers/tensorrt/onnx_ctx_model_helper.cc).
The model is encoded here, because the runtime works without the package `onnx`. No GPU has run one in this project.
"""

from dpd_runtime.engines.record import EngineRecord, Shape
from dpd_runtime.errors import ProviderError

ELEMENT_TYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10}
"""numpy's names → onnx.TensorProto.DataType."""
INTEGER, TEXT = 2, 3
"""onnx.AttributeProto.AttributeType."""
IR_VERSION, OPSET = 10, 18
LARGEST = 2**31 - 2**20
"""Bytes of an engine: protobuf has messages of less than 2 GiB."""


def context_model(record: EngineRecord, engine: bytes, provider: str) -> bytes:
    """Encode the model.

    Args:
        record: the engine's inputs and outputs. Axes of different sizes in its shapes are open in the model.
        provider: ONNX Runtime's name of the provider that loads it.

    Raises:
        ProviderError: the engine is too large for an ONNX model, or has a tensor of an unknown type.
    """
    if len(engine) > LARGEST:
        raise ProviderError(f"the engine of {record.graph} has {len(engine)} bytes, too many for an ONNX model")
    ranges = [(entry.name, entry.dtype, entry.min, entry.max) for entry in record.inputs]
    inputs = [_value(name, dtype, _axes(low, high)) for name, dtype, low, high in ranges]
    outputs = [_value(entry.name, entry.dtype, entry.shape) for entry in record.outputs]
    attributes = [
        _attribute("main_context", 1),
        _attribute("embed_mode", 1),
        _attribute("ep_cache_context", engine),
        _attribute("hardware_architecture", str(record.compute_capabilities[0]).encode()),
        _attribute("ep_sdk_version", record.builder_version.encode()),
        _attribute("onnx_model_filename", b""),
        _attribute("partition_name", b"engine"),
        _attribute("source", provider.encode()),
    ]
    node = b"".join(_bytes(1, entry.name.encode()) for entry in record.inputs)
    node += b"".join(_bytes(2, entry.name.encode()) for entry in record.outputs)
    node += _bytes(3, b"engine") + _bytes(4, b"EPContext") + b"".join(_bytes(5, attribute) for attribute in attributes)
    node += _bytes(7, b"com.microsoft")
    graph = _bytes(1, node) + _bytes(2, b"engine")
    graph += b"".join(_bytes(11, value) for value in inputs) + b"".join(_bytes(12, value) for value in outputs)
    opsets = [_bytes(1, domain) + _number(2, version) for domain, version in ((b"", OPSET), (b"com.microsoft", 1))]
    return _number(1, IR_VERSION) + _bytes(7, graph) + b"".join(_bytes(8, opset) for opset in opsets)


def _axes(low: Shape, high: Shape) -> Shape:
    """The axes of an input, −1 where its size may vary."""
    return tuple(a if a == b else -1 for a, b in zip(low, high, strict=True))


def _value(name: str, dtype: str, shape: Shape) -> bytes:
    """A ValueInfoProto. All open first axes are the same one, the batch."""
    if dtype not in ELEMENT_TYPES:
        raise ProviderError(f"the engine's tensor {name} has type {dtype}, which is not known here; build it again")
    axes = [
        _bytes(2, b"batch" if place == 0 else f"{name}_{place}".encode()) if size < 0 else _number(1, size)
        for place, size in enumerate(shape)
    ]
    tensor = _number(1, ELEMENT_TYPES[dtype]) + _bytes(2, b"".join(_bytes(1, axis) for axis in axes))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _attribute(name: str, value: int | bytes) -> bytes:
    content = _number(3, value) if isinstance(value, int) else _bytes(4, value)
    return _bytes(1, name.encode()) + content + _number(20, INTEGER if isinstance(value, int) else TEXT)


def _bytes(field: int, content: bytes) -> bytes:
    """A protobuf field of bytes, text or a message."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
