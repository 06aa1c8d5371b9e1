"""The model around an engine, read with the package onnx, which wrote none of it."""

from dataclasses import replace

import pytest

from dpd_runtime.engine_files import EngineInput, EngineOutput
from dpd_runtime.errors import ProviderError
from dpd_runtime.tensorrt import context_model
from tests.unit.runtime.test_engine_record import unet

onnx = pytest.importorskip("onnx")
RECORD = replace(
    unet((1, 20, 40)),
    inputs=(
        EngineInput("sample", "float16", (1, 4, 16, 16), (20, 4, 16, 16), (40, 4, 16, 16)),
        EngineInput("timestep", "int64", (), (), ()),
        EngineInput("encoder_hidden_states", "float32", (1, 32, 8), (20, 32, 128), (40, 32, 300)),
    ),
    outputs=(EngineOutput("out_sample", "float32", (-1, 4, 16, 16)),),
)
ENGINE = b"vtrt" + bytes(range(256)) * 1200


def axes(value: "onnx.ValueInfoProto") -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_onnx_reads_what_was_encoded() -> None:
    model = onnx.load_from_string(context_model(RECORD, ENGINE, "NvTensorRTRTXExecutionProvider"))
    (node,) = model.graph.node
    assert (node.op_type, node.domain) == ("EPContext", "com.microsoft")
    assert list(node.input) == ["sample", "timestep", "encoder_hidden_states"]
    assert list(node.output) == ["out_sample"]
    found = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    assert found == {
        "main_context": 1,
        "embed_mode": 1,
        "ep_cache_context": ENGINE,
        "hardware_architecture": b"86",
        "ep_sdk_version": b"1.7.1.116",
        "onnx_model_filename": b"",
        "partition_name": b"engine",
        "source": b"NvTensorRTRTXExecutionProvider",
    }
    kinds = {entry.name: entry.type.tensor_type.elem_type for entry in model.graph.input}
    types = onnx.TensorProto
    assert kinds == {"sample": types.FLOAT16, "timestep": types.INT64, "encoder_hidden_states": types.FLOAT}
    assert {entry.name: axes(entry) for entry in model.graph.input} == {
        "sample": ["batch", 4, 16, 16],
        "timestep": [],
        "encoder_hidden_states": ["batch", 32, "encoder_hidden_states_2"],
    }
    assert axes(model.graph.output[0]) == ["batch", 4, 16, 16]
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18, "com.microsoft": 1}
    assert onnx.load_from_string(model.SerializeToString()) == model
    onnx.checker.check_model(model)


def test_onnxruntime_reads_the_model_and_misses_only_the_provider() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    content = context_model(RECORD, ENGINE, "NvTensorRTRTXExecutionProvider")
    with pytest.raises(Exception, match="EPContext") as raised:
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    assert "NOT_IMPLEMENTED" in str(raised.value)


def test_unknown_types_and_too_large_engines_are_refused() -> None:
    with pytest.raises(ProviderError, match="out_sample has type float8"):
        context_model(replace(RECORD, outputs=(EngineOutput("out_sample", "float8", (-1,)),)), ENGINE, "x")

    class Large(bytes):
        def __len__(self) -> int:
            return 2**31

    with pytest.raises(ProviderError, match="2147483648 bytes, too many for an ONNX model"):
        context_model(RECORD, Large(b""), "x")
