"""Pretraining at a tiny size: sizes of the nano base, bit-exact resume, what each stage may change."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch.nn import functional as F
from transformers import ResNetConfig as ResNetShape
from transformers import ResNetForImageClassification, ViTImageProcessor

from dpd_export.card import _pretrain_command
from dpd_train.attributes import VOCABULARY, caption
from dpd_train.bases import (
    MAX_LENGTH,
    build_tokenizer,
    load_base,
    load_tokenizer,
    nano_scheduler,
    nano_text_encoder,
    nano_unet,
    nano_vae,
    with_attention,
)
from dpd_train.model_files import model_hash
from dpd_train.networks import ResNet, ResNetConfig, count_parameters, latent_classifier_shape, teacher_shape
from dpd_train.pretrain import PretrainConfig, pretrain
from dpd_train.published import PublishedModel, open_published
from dpd_train.symmetry import ORDER, d4, random_d4
from dpd_train.vae import (
    AutoencoderTraining,
    chroma_loss,
    contrast_weights,
    gradient_loss,
    perceptual_loss,
    spectral_loss,
    statistics_loss,
    train_autoencoder,
)
from tests.commands import dpd
from tests.tiny import SIDE, drawn_scenes, tiny_base

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"}


def test_nano_parts_stay_within_the_sizes_of_the_design(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(VOCABULARY, tmp_path)
    vae = nano_vae()
    assert count_parameters(nano_unet()) <= 7_200_000
    assert count_parameters(nano_unet(attention_levels=2)) <= 7_600_000
    assert count_parameters(vae) <= 1_700_000
    assert count_parameters(vae.decoder) <= 1_100_000
    assert count_parameters(nano_text_encoder(tokenizer)) <= 600_000
    assert count_parameters(ResNet(teacher_shape(10))) <= 600_000
    assert count_parameters(ResNet(latent_classifier_shape(10, 4))) <= 300_000


@pytest.mark.parametrize("levels", [2, 3])
def test_more_attention_changes_nothing_until_it_is_trained(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    small = nano_unet().eval()
    for parameter in small.parameters():  # far from any initialisation that hides a layer
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    grown = with_attention(small, levels).eval()
    given = (torch.randn(2, 4, 16, 16, generator=generator), torch.tensor([3, 900]))
    context = torch.randn(2, 32, 128, generator=generator)
    with torch.no_grad():
        expected, found = (unet(*given, context).sample for unet in (small, grown))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    grown(*given, context).sample.square().mean().backward()
    added = [p for name, p in grown.named_parameters() if ".attentions." in name and name not in small.state_dict()]
    assert len(added) > 0
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in added)
    with pytest.raises(ValueError, match="fewer levels"):
        with_attention(grown, 1)


def test_tokenizer_is_a_true_clip_tokenizer(tmp_path: Path) -> None:
    build_tokenizer(VOCABULARY, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.model_max_length == MAX_LENGTH == 32
    text = caption("HerbaceousVegetation", VOCABULARY[:3])
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == text.replace(",", " ,").split()
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode(tokenizer("zürich 7")["input_ids"], skip_special_tokens=True) == "zürich 7"
    for phrase in VOCABULARY:  # words of our own captions are one token each
        assert len(tokenizer.tokenize(phrase)) <= len(phrase.replace("-", " - ").split())


def test_scheduler_opens_in_diffusers_and_ends_in_noise() -> None:
    scheduler = nano_scheduler()
    assert scheduler.config.prediction_type == "v_prediction"
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6


def _eyes(folder: Path) -> Path:
    """A published network of random weights, for images of 64 px."""
    shape = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetShape(**shape)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def _train(
    images: torch.Tensor, state: Path, steps: int, stop_at: int | None = None, published: Path | None = None
) -> dict[str, torch.Tensor]:
    class Killed(Exception):
        pass

    def progress(step: int, _total: int) -> None:
        if step == stop_at:
            raise Killed

    torch.manual_seed(0)
    networks: list[ResNet] | PublishedModel = [
        ResNet(ResNetConfig(num_classes=2, widths=(8, 16), blocks=(1, 1))).eval().requires_grad_(False)
    ]
    if published is not None:
        networks = open_published(str(published))
    training = AutoencoderTraining(
        steps=steps,
        batch=2,
        checkpoint_seconds=0.0,
        spectral_weight=1.0,
        coarse_weight=1.0,
        chroma_weight=1.0,
        statistics_weight=1.0,
        contrast_floor=0.1,
        bfloat16=False,
    )
    vae = nano_vae(SIDE)
    if stop_at is not None:
        with pytest.raises(Killed):
            train_autoencoder(vae, images, images[:2], training, state, networks, progress=progress)
        return {}
    return dict(train_autoencoder(vae, images, images[:2], training, state, networks).state_dict())


@pytest.mark.parametrize("beside", ["own", "published"])
def test_resumed_autoencoder_equals_an_uninterrupted_one_bit_for_bit(beside: str, tmp_path: Path) -> None:
    eyes = _eyes(tmp_path / "eyes") if beside == "published" else None
    images = torch.randint(0, 256, (6, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole = _train(images, tmp_path / "whole.safetensors", 4, published=eyes)
    _train(images, tmp_path / "cut.safetensors", 4, stop_at=2, published=eyes)
    resumed = _train(images, tmp_path / "cut.safetensors", 4, published=eyes)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_pretrain_leaves_a_base_that_plain_diffusers_opens(tmp_path: Path) -> None:
    config = PretrainConfig(resolution=SIDE, val_per_class=2)
    short = {"steps": 2, "batch": 2}
    config = replace(
        config,
        perceptual=replace(config.perceptual, **short),
        autoencoder=replace(config.autoencoder, **short),
        decoder=replace(config.decoder, **short),
        denoiser=replace(config.denoiser, **short),
    )
    scenes, out, state = drawn_scenes(tmp_path / "scenes", 5), tmp_path / "base", tmp_path / "state"
    pretrain(scenes, out, state, config, ("perceptual", "autoencoder"))
    metrics = pretrain(scenes, out, state, config, ("decoder", "denoiser", "save"))
    assert metrics["data"]["images"] == 6 * 3  # type: ignore[index]
    base = load_base(str(out))
    assert base.resolution == SIDE
    from dpd_train.compute import load_state, without_prefix

    before = without_prefix("vae", load_state(state / "autoencoder.safetensors")[0])
    after = base.vae.state_dict()
    same = {name: torch.equal(before[name].half().float(), after[name]) for name in before}
    assert all(same[name] for name in same if name.startswith(("encoder", "quant_conv")))
    assert not all(same[name] for name in same if name.startswith("decoder"))
    record = json.loads((out / "pretrain.json").read_text(encoding="utf-8"))
    assert [piece.split(":")[0] for piece in record["pieces"]] == ["autoencoder", "decoder", "denoiser"]
    assert all("2 of 2 steps of 2 images" in piece for piece in record["pieces"])
    assert str(tmp_path) not in json.dumps(record)
    pipeline = StableDiffusionPipeline.from_pretrained(out, safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a satellite image of road", num_inference_steps=2, output_type="np").images.shape[1] == SIDE


def test_pretrain_goes_on_from_a_base(tmp_path: Path) -> None:
    """With a rate of zero every network stays what it was; without `start` nothing is the same."""
    first = tiny_base(tmp_path)
    scenes = drawn_scenes(tmp_path / "scenes", 5)
    config = PretrainConfig(resolution=SIDE, val_per_class=2, start=str(first))
    still = {"steps": 1, "batch": 2, "peak_rate": 0.0}
    parts = {
        name: replace(getattr(config, name), **still) for name in ("perceptual", "autoencoder", "decoder", "denoiser")
    }
    pretrain(scenes, tmp_path / "further", tmp_path / "state", replace(config, **parts))
    before, after = load_base(str(first)), load_base(str(tmp_path / "further"))
    for kind in ("vae", "unet", "text_encoder"):
        old, new = getattr(before, kind).state_dict(), getattr(after, kind).state_dict()
        for name, tensor in old.items():
            torch.testing.assert_close(new[name], tensor, rtol=1e-3, atol=1e-3)  # it is stored in half precision
    for name in ("vocab.json", "merges.txt"):  # the words keep their numbers
        assert (first / "tokenizer" / name).read_bytes() == (tmp_path / "further" / "tokenizer" / name).read_bytes()


def test_a_decoder_learns_by_a_published_network_and_everything_else_of_the_base_stays(tmp_path: Path) -> None:
    first, network = tiny_base(tmp_path), _eyes(tmp_path / "eyes")
    said = {"pieces": ["denoiser: long ago"], "denoiser": [{"step": 9.0, "loss": 0.25}]}
    (first / "pretrain.json").write_text(json.dumps(said))
    scenes, out = drawn_scenes(tmp_path / "scenes", 5), tmp_path / "tuned"
    options = ["--val-per-class", "2", "--start", str(first), "--resolution", str(SIDE), "--threads", "1"]
    options += ["--state", str(tmp_path / "state"), "--stage", "decoder,save"]
    options += ["--set", "decoder_steps=2", "--set", "decoder_batch=3", "--set", "decoder_rate=0.1"]
    options += ["--perceptual-network", f"hf:{network}"]
    result = dpd(["pretrain", str(scenes), "--out", str(out), *options], ENVIRONMENT, tmp_path)
    assert result.returncode == 0, result.stderr
    before, after = load_base(str(first)), load_base(str(out))
    for kind in ("unet", "text_encoder"):
        for name, tensor in getattr(before, kind).state_dict().items():
            assert torch.equal(getattr(after, kind).state_dict()[name], tensor.half().float()), name
    assert after.vae.config.scaling_factor == before.vae.config.scaling_factor
    changed = {
        name.split(".")[0]
        for name, tensor in before.vae.state_dict().items()
        if not torch.equal(after.vae.state_dict()[name], tensor.half().float())
    }
    assert changed == {"decoder", "post_quant_conv"}
    record = json.loads((out / "pretrain.json").read_text(encoding="utf-8"))
    assert record["denoiser"] == said["denoiser"]
    assert record["pieces"][0] == "denoiser: long ago"
    assert record["pieces"][-1].endswith("beside hf:eyes (licence: mit)")
    assert "2 of 2 steps of 3 images" in record["pieces"][-1]
    assert record["config"]["perceptual_network"] == "hf:eyes"
    assert record["perceptual_network"] == {"name": "hf:eyes", "licence": "mit", "sha256": model_hash(network)}
    assert {"--perceptual-network hf:eyes", "--stage decoder,save"} <= set(
        re.findall(r"--(?:perceptual-network|stage) \S+", _pretrain_command(record))
    )
    assert record["base_pretraining"] == said
    assert {"perceptual", "autoencoder", "denoiser"}.isdisjoint(record["config"])
    other = [word for word in options if not word.startswith(("hf:", "--perceptual"))]
    result = dpd(["pretrain", str(scenes), "--out", str(out), *other], ENVIRONMENT, tmp_path)
    assert result.returncode == 2
    assert "its decoder was trained beside hf:eyes; give --perceptual-network hf:eyes" in result.stderr
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--perceptual-network", "eyes"], "give it as hf:ID_OR_PATH"),
        (["--perceptual-network", "hf:eyes", "--stage", "denoiser"], "no effect without the stages decoder and save"),
        (["--perceptual-network", "hf:"], "give it as hf:ID_OR_PATH"),
        (
            ["--perceptual-network", "hf:no/such", "--stage", "decoder"],
            "--perceptual-network: no/such: no such folder, and no model of that id",
        ),
    ],
)
def test_a_network_that_cannot_judge_a_decoder_is_refused_at_once(
    options: list[str], said: str, tmp_path: Path
) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", 5)
    command = ["pretrain", str(scenes), "--start", str(tiny_base(tmp_path)), "--resolution", str(SIDE), *options]
    command += ["--out", str(tmp_path / "base"), "--state", str(tmp_path / "state")]
    result = dpd(command, ENVIRONMENT, tmp_path)
    assert result.returncode == 2, result.stderr
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "state").exists()


def test_statistics_know_a_texture_wherever_its_details_lie() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 16, 16, generator=generator)
    tiles = features.reshape(2, 3, 4, 4, 4, 4)
    shuffled = tiles[:, :, :, [2, 0, 3, 1]].reshape(2, 3, 16, 16)  # rows of each 4 × 4 window in another order
    assert float(statistics_loss([shuffled], [features])) < 1e-5
    assert float(perceptual_loss([shuffled], [features])) > 0.1
    unit = features.std(dim=(0, 2, 3), keepdim=True)
    # means move by half a deviation, deviations stay: (0.5 + 0) / 2, doubled
    assert float(statistics_loss([features + 0.5 * unit], [features])) == pytest.approx(0.5, rel=0.01)


def test_chroma_loss_sees_colour_and_no_brightness() -> None:
    images = torch.zeros(1, 3, 8, 8)
    assert float(chroma_loss(images + 0.3, images)) < 1e-6
    red = images.clone()
    red[:, 0] += 0.1
    assert float(chroma_loss(red, images)) == pytest.approx(0.05)  # red − green is off by 0.1, blue − green by 0


def test_an_image_of_little_contrast_counts_as_much_as_one_of_much() -> None:
    generator = torch.Generator().manual_seed(0)
    calm = 0.02 * torch.randn(1, 3, 16, 16, generator=generator)
    images = torch.cat([calm, 10 * calm])
    weights = contrast_weights(images, 1e-9)
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[0] / weights[1]) == pytest.approx(10, rel=1e-4)
    assert contrast_weights(images, 1e6).flatten().tolist() == pytest.approx([1, 1], rel=1e-4)


def test_d4_is_a_group_of_eight_different_maps() -> None:
    image = torch.arange(9.0).reshape(1, 3, 3)
    seen = {tuple(d4(image, k).flatten().tolist()) for k in range(ORDER)}
    assert len(seen) == 8
    assert torch.equal(d4(image, 0), image)
    batch = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    moved = random_d4(batch, torch.Generator().manual_seed(1))
    for before, after in zip(batch, moved, strict=True):
        assert any(torch.equal(d4(before, k), after) for k in range(ORDER))


@pytest.mark.parametrize("side", [24, 40])
def test_spectral_loss_takes_sides_that_no_window_divides(side: int) -> None:
    """--resolution 48 and 80, at half size."""
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    whole = side // 16 * 16
    assert float(spectral_loss(images, images)) == 0
    blurred = F.avg_pool2d(images, 3, 1, 1)
    cut = [x[..., :whole, :whole] for x in (blurred, images)]
    assert float(spectral_loss(blurred, images)) == pytest.approx(float(spectral_loss(cut[0], cut[1])))


def test_spectral_loss_sees_blur_but_no_shift_inside_a_window() -> None:
    wave = torch.sin(torch.arange(16) * 2 * torch.pi / 4).expand(1, 1, 16, 16)
    assert float(spectral_loss(wave.roll(1, -1), wave)) < 1e-6
    assert float(spectral_loss(torch.zeros_like(wave), wave)) > 0.01


def test_gradient_loss_sees_blur_that_l1_hardly_sees() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., ::2] = 1.0
    assert float(gradient_loss(image, image)) == 0
    flat = torch.full_like(image, 0.5)
    assert float(gradient_loss(flat, image)) == pytest.approx(1.0)  # every horizontal difference is 1, none is left
