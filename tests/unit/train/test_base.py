"""Bases of the Stable Diffusion family: opened, refused, folded, sampled as plain diffusers samples them, saved."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import constants
from safetensors.torch import load_file

from dpd_runtime.errors import InputError
from dpd_runtime.sampler import BlockGuidance
from dpd_runtime.sampling import sample
from dpd_runtime.solvers import SOLVERS
from dpd_train.base_files import base_folder
from dpd_train.bases import (
    at_resolution,
    decode_images,
    encode,
    fold_class_embedding,
    frozen_decoder,
    load_base,
    rows_a_call,
    save_base,
    torch_denoise,
)
from dpd_train.captions import embed, tokenize
from tests.sd_like import LENGTH, SD15, SIDE, sd_like

PROMPT = "a satellite image of river"


def _ours(folder: Path, noise: np.ndarray, steps: int, scale: float) -> np.ndarray:
    """Images [B, H, W, 3] in 0 … 1 by the site's sampler with DDIM and classifier-free guidance."""
    base = load_base(str(folder))
    table = embed(base.text_encoder, base.tokenizer, [PROMPT, ""]).numpy()
    make_steps, advance = SOLVERS["ddim"]
    latents = sample(
        torch_denoise(base),
        noise,
        np.repeat(table[:1], len(noise), axis=0),
        table[1],
        None,
        make_steps(base.schedule, steps),
        advance,
        base.schedule.prediction_type,
        BlockGuidance(guidance_scale=scale),
    )
    with torch.no_grad():
        images = frozen_decoder(base)(torch.from_numpy(latents))
    return ((images + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("version", [1, 2])
def test_saved_pipeline_gives_our_samplers_images_in_plain_diffusers(version: int, tmp_path: Path) -> None:
    source = sd_like(tmp_path / "sd", version=version)
    save_base(load_base(str(source)), tmp_path / "pipeline", source / "tokenizer")
    noise = np.random.default_rng(0).normal(size=(2, 4, SIDE // 8, SIDE // 8)).astype(np.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        [PROMPT] * 2, num_inference_steps=8, guidance_scale=3.0, latents=torch.from_numpy(noise), output_type="np"
    ).images
    found = _ours(tmp_path / "pipeline", noise, 8, 3.0)
    assert expected.std() > 0.01
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(_ours(tmp_path / "pipeline", noise, 8, 1.5) - expected).max() > 1e-3  # the control


def test_saved_tokenizer_does_not_remember_the_last_call(tmp_path: Path) -> None:
    folder = sd_like(tmp_path / "sd")
    base = load_base(str(folder))
    contents = []
    for name in ("a", "b"):
        save_base(base, tmp_path / name, folder / "tokenizer")
        contents.append((tmp_path / name / "tokenizer" / "tokenizer.json").read_bytes())
        tokenize(base.tokenizer, [PROMPT])
    assert contents[0] == contents[1]


def test_prompts_have_the_length_of_the_tokenizer(tmp_path: Path) -> None:
    folder = sd_like(tmp_path / "sd")
    assert tokenize(load_base(str(folder)).tokenizer, [PROMPT, ""]).shape == (2, LENGTH)
    path = folder / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["model_max_length"]  # transformers then says 10^30
    path.write_text(json.dumps(settings))
    assert tokenize(load_base(str(folder)).tokenizer, [PROMPT]).shape == (1, LENGTH)


@pytest.mark.parametrize(
    "option", [{"class_embed_type": "timestep"}, {"num_class_embeds": 3}], ids=["text2earth", "embedding"]
)
def test_folded_class_embedding_leaves_outputs_as_they_were(option: dict[str, object], tmp_path: Path) -> None:
    folder = sd_like(tmp_path / "sd", version=2, pipeline="Text2EarthDiffusionPipeline", **option)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, 4, 4, generator=generator)
    context = torch.randn(3, LENGTH, 16, generator=generator)
    timesteps = torch.tensor([1, 400, 999])
    before = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    with torch.no_grad():
        expected, other = (
            before(latents, timesteps, context, class_labels=torch.full((3,), label)).sample for label in (0, 1)
        )
    assert (expected - other).abs().max() > 1e-3  # the label matters to this network
    base = load_base(str(folder))
    save_base(base, tmp_path / "plain", folder / "tokenizer")
    assert not [
        name
        for name in load_file(tmp_path / "plain" / "unet" / "diffusion_pytorch_model.safetensors")
        if "class" in name
    ]
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "plain", local_files_only=True).unet
    with torch.no_grad():
        found = plain(latents, timesteps, context).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert fold_class_embedding(plain) is plain  # nothing left to fold


def test_other_resolution_is_kept_by_the_saved_pipeline(tmp_path: Path) -> None:
    folder = sd_like(tmp_path / "sd")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"_diffusers_version": "0.6.0"}))
    base = at_resolution(load_base(str(folder)), 2 * SIDE)
    assert base.resolution == 2 * SIDE
    save_base(base, tmp_path / "pipeline", folder / "tokenizer")
    assert load_base(str(tmp_path / "pipeline")).resolution == 2 * SIDE
    latents = np.zeros((1, 4, 8, 8), np.float32)
    assert decode_images(base, latents).shape == (1, 2 * SIDE, 2 * SIDE, 3)


@pytest.mark.parametrize("most", [1, 3, 64])
def test_large_images_go_in_small_calls(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out does not depend on how many go in at once, and their first map is never larger than allowed."""
    base = load_base(str(sd_like(tmp_path / "sd")))
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    together = encode(base.vae, images)
    seen: list[int] = []
    base.vae.encoder.conv_in.register_forward_hook(lambda _, inputs, maps: seen.append(maps.numel() * maps.itemsize))
    one = 4 * 4 * SIDE**2  # bytes of its four channels
    monkeypatch.setattr("dpd_train.bases.FIRST_MAP", most * one + one // 2)
    torch.testing.assert_close(encode(base.vae, images), together)
    assert max(seen) == min(most, 5) * one


def test_calls_of_stable_diffusion_fit_and_those_of_nano_are_as_they_were() -> None:
    nano = load_base("nano")
    assert [rows_a_call(nano.vae, side, 64) for side in (64, 128)] == [64, 64]
    assert rows_a_call(nano.unet, 16, 100) == 100
    with torch.device("meta"):
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(**SD15.vae, **blocks)
    assert [rows_a_call(vae, side, 64) for side in (256, 512, 768)] == [8, 2, 1]


def test_half_precision_weights_alone_are_opened(tmp_path: Path) -> None:
    folder = sd_like(tmp_path / "sd")
    expected = load_base(str(folder)).unet.state_dict()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").half()
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", variant="fp16")
    found = load_base(str(folder)).unet.state_dict()
    assert found["conv_in.weight"].dtype == torch.float32
    torch.testing.assert_close(found["conv_in.weight"], expected["conv_in.weight"], atol=1e-3, rtol=1e-3)


def _change(folder: Path, file: str, **values: object) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, ["is a FluxPipeline", "SD-1.x, SD-2.x"]),
        ("unet/config.json", {"in_channels": 9}, ["9 channels", "inpainting", "supported: nano"]),
        ("unet/config.json", {"class_embed_type": "projection"}, ["class_embed_type 'projection'", "supported"]),
        ("unet/config.json", {"addition_embed_type": "text_time"}, ["addition_embed_type 'text_time'"]),
        ("text_encoder/config.json", {"hidden_size": 24}, ["24 wide", "wants 16"]),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, ["cannot be opened", "sigmoid"]),
        ("vae/config.json", {"shift_factor": 0.1}, ["cannot be opened", "shift_factor"]),
    ],
)
def test_other_models_are_refused_with_what_is_supported(
    file: str, values: dict[str, object], words: list[str], tmp_path: Path
) -> None:
    folder = sd_like(tmp_path / "sd")
    load_base(str(folder))  # the control
    _change(folder, file, **values)
    with pytest.raises(InputError) as error:
        load_base(str(folder))
    assert [word for word in words if word not in str(error.value)] == [], error.value
    assert "\n" not in str(error.value)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    folder = sd_like(tmp_path / "sd")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError, match="pickle, which is never opened"):
        load_base(str(folder))


def test_hub_id_is_resolved_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache as `hf download` leaves it; a socket would raise."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", None)
    with pytest.raises(InputError, match=r'hf download some/model --include "\*\.json" --include "tokenizer/\*"'):
        base_folder("some/model")
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    sd_like(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert load_base("some/model").resolution == SIDE
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()  # a download that was cut off
    with pytest.raises(
        InputError, match=r"vae/diffusion_pytorch_model.safetensors is missing; fetch it: .*hf download"
    ):
        load_base("some/model")


@pytest.mark.parametrize("name", ["/no/such/folder", "nono", "a/b/c"])
def test_what_is_neither_folder_nor_model_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_base(name)
