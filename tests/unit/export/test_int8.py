"""int8: what is quantised and what stays float, read from the ONNX file; and the errors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from dpd_export import ExportOptions, export_run
from dpd_export.int8 import check_size
from dpd_export.reference import EndToEnd, check_agreement
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.errors import InputError, ParityError
from dpd_runtime.generation import Generation

UNET = "unet/model.onnx"
SAME = EndToEnd(100, 50.0, 45.0, 0.84, 0.84, 1.0)


@pytest.fixture(scope="module")
def made(run: Path) -> tuple[Bundle, dict[str, Any]]:
    """An int8 bundle of the tiny run, whose random networks may change the teacher's labels."""
    out = run.parent / "int8.dpd"
    result = export_run(run, out, ExportOptions(precision="int8", allow_worse=True))
    return load_bundle(out), result


def weights_in_8_bits(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shape of each int8 weight that enters a DequantizeLinear, by name."""
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    used = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {name: tuple(tensor.dims) for name, tensor in stored.items() if name in used and len(tensor.dims) > 1}


@pytest.mark.full
def test_convolutions_and_feed_forward_are_int8_and_the_rest_is_not(made: tuple[Bundle, dict[str, Any]]) -> None:
    model = onnx.load_from_string(made[0].files[UNET])
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    found = weights_in_8_bits(model.graph)
    convolutions = {name for name, shape in found.items() if len(shape) == 4}
    assert convolutions
    assert all(".resnets." in name or "samplers." in name for name in convolutions)
    assert {found[name][2:] for name in convolutions} == {(3, 3)}
    products = [shape for shape in found.values() if len(shape) == 2]
    assert set(products) == {(16, 128), (64, 16)}, "GEGLU of 16 channels, and back"
    floats = {t.name.removesuffix("_fp16") for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    floats |= {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    for name in ("conv_in", "conv_out", "time_embedding.linear_1"):
        assert f"unet.{name}.weight" in floats


@pytest.mark.full
def test_each_output_channel_has_its_scale(made: tuple[Bundle, dict[str, Any]]) -> None:
    graph = onnx.load_from_string(made[0].files[UNET]).graph
    arrays = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    for name, shape in weights_in_8_bits(graph).items():
        (node,) = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] == name]
        axis = 0 if len(shape) == 4 else 1
        assert arrays[node.input[1]].shape == (shape[axis],)
        assert len(np.unique(arrays[node.input[1]])) > shape[axis] // 2
        assert (arrays[node.input[1]].dtype, np.abs(arrays[name]).max()) == (np.float32, 127)


@pytest.mark.full
def test_other_parts_have_half_weights(made: tuple[Bundle, dict[str, Any]], run: Path) -> None:
    graph = onnx.load_from_string(made[0].files["vae_decoder/model.onnx"]).graph
    assert {t.data_type for t in graph.initializer if np.prod(t.dims) >= 256} == {onnx.TensorProto.FLOAT16}
    assert not any("QuantizeLinear" in node.op_type for node in graph.node)


@pytest.mark.full
def test_what_it_costs_is_told(made: tuple[Bundle, dict[str, Any]]) -> None:
    bundle, result = made
    (measured,) = result["int8"].values()
    size = len(bundle.files[UNET])
    assert bundle.manifest.parity[f"{UNET}#smaller"] == pytest.approx(measured["fp32_bytes"] / size, abs=0.01)
    assert measured["batch"] == 2 * bundle.manifest.sampler.compute_batch, "guidance: both halves in one call"
    assert set(measured["fp32_ms"]) == set(measured["int8_ms"]) >= {1}
    assert min(*measured["fp32_ms"].values(), *measured["int8_ms"].values()) > 0
    assert bundle.manifest.precision == "int8"
    assert len(list(Generation(bundle, ipc=1, provider="cpu"))) == len(bundle.classes)


@pytest.mark.full
def test_the_same_run_gives_the_same_bytes(made: tuple[Bundle, dict[str, Any]], run: Path, tmp_path: Path) -> None:
    options = ExportOptions(precision="int8", allow_worse=True, name=made[0].manifest.name)
    again = export_run(run, tmp_path / "int8.dpd", options)
    assert again["bundle_hash"] == made[0].hash


def test_more_than_a_point_is_refused() -> None:
    check_agreement(SAME)
    check_agreement(replace(SAME, teacher_agreement=0.99))
    with pytest.raises(ParityError, match=r"labels 2 of 100 differently .* 1% is allowed.*--allow-worse"):
        check_agreement(replace(SAME, teacher_agreement=0.98))
    with pytest.raises(ParityError, match="1 of 40"):
        check_agreement(replace(SAME, images=40, teacher_agreement=39 / 40))


def test_bases_of_which_one_image_is_compared_are_refused() -> None:
    check_size(False)
    with pytest.raises(InputError, match="use --precision fp16"):
        check_size(True)
