"""The files of an exported bundle: weights beside graphs, variable sizes, golden images."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
import torch
from onnxruntime import InferenceSession

from dpd_export.graphs import Unet, VaeDecoder, VaeEncoder
from dpd_runtime import load_bundle
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import Provider
from dpd_runtime.golden import GOLDEN_NAME, replay
from dpd_runtime.graph_check import WEIGHTS_NAME
from dpd_train.bases import load_base

CPU = Provider("cpu", "")


def axes(bundle: Bundle, path: str) -> dict[str, list[str | int]]:
    graph = onnx.load_from_string(bundle.files[path]).graph
    values = (*graph.input, *graph.output)
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.full
def test_weights_beyond_the_limit_lie_beside_their_graph(half_bundle: Path) -> None:
    bundle = load_bundle(half_bundle)
    outside = {path.split("/")[0] for path in bundle.files if path.endswith(WEIGHTS_NAME)}
    assert outside == {"unet", "classifier", "latent_classifier"}
    for part in outside:
        onnx.checker.check_model(str(half_bundle / part / "model.onnx"), full_check=True)
        stored = onnx.load(half_bundle / part / "model.onnx", load_external_data=False).graph.initializer
        places = {e.value for t in stored for e in t.external_data if e.key == "location"}
        assert places == {WEIGHTS_NAME}
    assert {"vae_decoder", "text_encoder", "vae_encoder"}.isdisjoint(outside)


@pytest.mark.full
@torch.no_grad()
def test_heights_and_widths_vary(run: Path, half_bundle: Path) -> None:
    bundle, base = load_bundle(half_bundle), load_base(str(run / "pipeline"))
    latent = ["batch", 4, "latent_height", "latent_width"]
    assert axes(bundle, "unet/model.onnx")["sample"] == axes(bundle, "unet/model.onnx")["out_sample"] == latent
    decoder, encoder = axes(bundle, "vae_decoder/model.onnx"), axes(bundle, "vae_encoder/model.onnx")
    assert decoder["sample"] == ["batch", 3, "latent_height * 4", "latent_width * 4"]
    assert encoder["latent_parameters"] == ["batch", 8, "height // 4", "width // 4"]
    torch.manual_seed(0)
    latents, prompts, images = torch.randn(3, 4, 12, 6), torch.randn(3, 32, 16), torch.rand(1, 3, 16, 40) * 2 - 1
    cases = {
        "unet": (Unet(base.unet), {"sample": latents, "timestep": torch.tensor(7), "encoder_hidden_states": prompts}),
        "vae_decoder": (VaeDecoder(base.vae), {"latent_sample": latents}),
        "vae_encoder": (VaeEncoder(base.vae), {"sample": images}),
    }
    for part, (module, inputs) in cases.items():
        # ONNX Runtime itself: the bundle's engines take one size only, that of its images
        session = InferenceSession(half_bundle / part / "model.onnx", providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        expected = module(*inputs.values()).numpy()
        np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())


@torch.no_grad()
def test_the_wrappers_are_the_autoencoder(run: Path) -> None:
    vae = load_base(str(run / "pipeline")).vae
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    moments = vae.encode(images).latent_dist.parameters
    torch.testing.assert_close(VaeEncoder(vae)(images), moments)
    torch.testing.assert_close(VaeDecoder(vae)(moments[:, :4]), vae.decode(moments[:, :4]).sample)


def test_fixed_sizes_are_in_the_graph(bundle: Path) -> None:
    opened = load_bundle(bundle)
    assert axes(opened, "unet/model.onnx")["sample"] == ["batch", 4, 8, 8]
    assert axes(opened, "vae_decoder/model.onnx")["sample"] == ["batch", 3, 32, 32]
    assert "vae_encoder/model.onnx" not in opened.files


@pytest.mark.full
def test_a_licence_is_not_made_up(bundle: Path, half_bundle: Path) -> None:
    """The run's base is a folder, whose licence is unknown."""
    assert load_bundle(bundle).manifest.licences == {"base": "Apache-2.0", "data": "drawn | by us"}
    assert load_bundle(half_bundle).manifest.licences == {"base": "unstated", "data": "unstated"}


def test_golden_images_are_small(bundle: Path) -> None:
    assert len(load_bundle(bundle).files[GOLDEN_NAME]) < 300_000


def test_no_graph_is_exported_that_nothing_runs(bundle: Path) -> None:
    """Earlier exports also held step/model.onnx."""
    graphs = {path.split("/")[0] for path in load_bundle(bundle).files if path.endswith(".onnx")}
    assert graphs == {"unet", "vae_decoder", "text_encoder", "classifier", "latent_classifier"}


@pytest.mark.parametrize(
    ("name", "limit"), [("bundle", 60.0), pytest.param("half_bundle", 40.0, marks=pytest.mark.full)]
)
def test_golden_images_come_out_again(name: str, limit: float, request: pytest.FixtureRequest) -> None:
    """PyTorch made them; the bundle's images are near but not equal, so they are no copy of its own output."""
    done = replay(load_bundle(request.getfixturevalue(name)), CPU)
    assert done is not None
    assert (done.images, done.noise_matches, done.good) == (4, True, True)
    assert limit < done.worst_psnr_db <= done.psnr_db <= 99.0
    assert 0 < done.halfway_error < 1e-2
