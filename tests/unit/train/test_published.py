"""Published image models as watchers: what they see, against transformers' own processor and outputs."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoModel,
    BeitImageProcessorPil,
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    EfficientNetImageProcessorPil,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTImageProcessorPil,
    ViTMAEConfig,
    ViTMAEModel,
)

from dpd_runtime.errors import InputError
from dpd_train.compute import autocast
from dpd_train.model_files import model_hash
from dpd_train.published import check_crops, decoder_judge, open_published, read_colours
from dpd_train.run import check_inputs
from dpd_train.scenes import open_scenes
from dpd_train.train import train
from tests.tiny import CONFIG, drawn_scenes, tiny_base

SIDE = 32
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def resnet(bands: int = 3) -> PreTrainedModel:
    shape = {"embedding_size": 6, "hidden_sizes": [8, 12], "depths": [1, 2], "layer_type": "basic"}
    shape |= {"num_channels": bands}
    return ResNetForImageClassification(ResNetConfig(**shape, num_labels=7))


def broken() -> PreTrainedModel:
    model = resnet()
    model.resnet.embedder.embedder.convolution.weight.data.fill_(math.nan)
    return model


def vit(side: int = SIDE) -> PreTrainedModel:
    shape = {"image_size": side, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(num_hidden_layers=6, num_attention_heads=2, **shape))


def saved(folder: Path, build: Callable[[], PreTrainedModel], side: int | None = SIDE) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        build().save_pretrained(folder)
    if side is not None:
        ViTImageProcessor(size={"height": side, "width": side}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    shape = (count, 3, SIDE, SIDE)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(("build", "channels"), [(resnet, [12, 8, 12]), (vit, [16] * 5)])
def test_features_are_those_of_the_model_in_its_own_colours(
    build: Callable[[], PreTrainedModel], channels: list[int], tmp_path: Path
) -> None:
    """The last layer's mean; then mean and deviation of each stage, or of four of a transformer's layers."""
    folder, images = saved(tmp_path / "eyes", build), pixels(4)
    found = open_published(str(folder)).features(images.float() / 127.5 - 1)
    assert found.shape == (4, channels[0] + 2 * sum(channels[1:]))
    seen = ViTImageProcessor.from_pretrained(folder)(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad(), autocast("cpu"):
        out = AutoModel.from_pretrained(folder).eval()(pixel_values=seen, output_hidden_states=True)
    last, layer = out.last_hidden_state.float(), out.hidden_states[-1].float()
    axes = (2, 3) if last.ndim == 4 else (1,)
    torch.testing.assert_close(found[:, : channels[0]], last.mean(axes), rtol=1e-3, atol=1e-4)
    width = channels[-1]
    torch.testing.assert_close(found[:, -2 * width : -width], layer.mean(axes), rtol=1e-3, atol=1e-4)
    deviation = (layer.var(axes, correction=0) + 1e-4).sqrt()
    torch.testing.assert_close(found[:, -width:], deviation, rtol=1e-3, atol=1e-4)


def test_small_images_are_enlarged_to_the_model_s_size_with_a_gradient(tmp_path: Path) -> None:
    """A transformer takes one size alone."""
    folder = saved(tmp_path / "eyes", vit)
    images = (pixels(2).float() / 127.5 - 1)[..., ::2, ::2].requires_grad_()
    open_published(str(folder)).features(images).square().sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


def test_crops_show_the_same_square_of_an_image_and_of_its_copy_at_the_model_s_scale(tmp_path: Path) -> None:
    """Against the model itself, shown the one square of the enlarged image that it can have been."""
    folder = saved(tmp_path / "eyes", resnet, side=12)
    images = pixels(2).float()[..., :6, :6] / 127.5 - 1
    look = open_published(str(folder)).crops(images.shape, torch.Generator().manual_seed(3))
    maps = look(images)
    for again, before in zip(look(images), maps, strict=True):
        assert torch.equal(again, before)
    large = functional.interpolate(images, (12, 12), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    model, places = AutoModel.from_pretrained(folder).eval(), []
    for image, found in zip(large, maps[-1], strict=True):
        squares = image.unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        with torch.no_grad():
            known = model(pixel_values=((squares + 1) / 2 - mean) / std).last_hidden_state
        errors = (known - found).abs().amax(dim=(1, 2, 3))
        assert errors.min() < 1e-4
        places.append(int(errors.argmin()))
    assert len(set(places)) == 2
    assert [state.shape[1] for state in maps] == [8, 12, 12]


def test_a_network_that_takes_one_size_alone_looks_at_no_crops(tmp_path: Path) -> None:
    eyes, tokens = saved(tmp_path / "eyes", resnet), saved(tmp_path / "tokens", vit)
    check_crops(str(eyes))
    with pytest.raises(InputError, match="tokens: does not look at crops of half its side"):
        check_crops(str(tokens))
    assert decoder_judge(f"own,hf:{tokens},hf:{eyes}") == str(eyes)
    assert decoder_judge(f"own,hf:{tokens}") is None


def test_a_model_may_refuse_crops_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of timm that take one size alone raise AssertionError."""
    model = open_published(str(saved(tmp_path / "eyes", resnet)))

    def refuse(**shown: Any) -> None:
        raise AssertionError("Input height (16) doesn't match model (32)")

    monkeypatch.setattr(model.model, "forward", refuse)
    assert not model.looks_at_crops


def test_images_larger_than_the_model_s_are_cut_and_not_reduced(tmp_path: Path) -> None:
    """Squares of half the model's side that lie in the image as it is."""
    model = open_published(str(saved(tmp_path / "eyes", resnet, side=12)))
    images = pixels(1).float() / 127.5 - 1
    found = model.crops(images.shape, torch.Generator().manual_seed(1))(images)[-1]
    squares = images[0].unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    with torch.no_grad():
        known = model.model(pixel_values=squares * model.colours.scale + model.colours.shift).last_hidden_state
    assert (known - found).abs().amax(dim=(1, 2, 3)).min() < 1e-4


@pytest.mark.parametrize("build", [resnet, vit])
def test_parts_change_neither_features_nor_gradients(
    build: Callable[[], PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = open_published(str(saved(tmp_path / "eyes", build))), pixels(7).float() / 127.5 - 1
    found = []
    for call in (3, 100):
        monkeypatch.setattr("dpd_train.published.CALL", call)
        seen = images.clone().requires_grad_()
        features = model.features(seen)
        features.square().sum().backward()  # type: ignore[no-untyped-call]
        found.append((features.detach(), seen.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_what_cannot_watch_is_refused(tmp_path: Path) -> None:
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=20, **text)).save_pretrained(tmp_path / "words")
    with pytest.raises(InputError, match="words: gives no layers of an image"):
        open_published(str(tmp_path / "words"))
    large = saved(tmp_path / "large", lambda: vit(2 * SIDE), side=None)
    with pytest.raises(InputError, match=r"large: gives no layers of an image .* where it takes images of one size"):
        open_published(str(large))
    (large / "preprocessor_config.json").write_text(json.dumps({"size": 2 * SIDE}))
    open_published(str(large))
    (large / "preprocessor_config.json").write_text(json.dumps({"size": 0}))
    with pytest.raises(InputError, match=r"large: .*preprocessor_config\.json cannot be used"):
        open_published(str(large))
    bare = saved(tmp_path / "bare", resnet, side=None)
    with pytest.raises(InputError, match=r"bare: .* has no preprocessor_config\.json that says how large .*; complete"):
        open_published(str(bare))
    with pytest.raises(InputError, match="broken: gives numbers that are not finite for the same image"):
        open_published(str(saved(tmp_path / "broken", broken)))
    bands = saved(tmp_path / "bands", lambda: resnet(13))
    with pytest.raises(InputError, match="bands: takes images of 13 bands, not of red, green and blue"):
        open_published(str(bands))


def test_weights_that_do_not_fit_into_the_memory_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "eyes", resnet)
    size = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr("dpd_runtime.machine.usable_memory", lambda: 2 * size)
    open_published(str(folder))
    monkeypatch.setattr("dpd_runtime.machine.usable_memory", lambda: 2 * size - 1)
    with pytest.raises(InputError, match=r"eyes: its weights are .*, more than half of the .* GB of memory"):
        open_published(str(folder))


def test_products_of_features_that_do_not_fit_into_the_memory_are_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ResNet-50 says 9,728 numbers of an image: 0.4 GB for each matrix of their products."""
    folder = saved(tmp_path / "eyes", resnet)
    width = open_published(str(folder)).features(torch.zeros(1, 3, 8, 8)).shape[1]
    monkeypatch.setattr("dpd_train.published.usable_memory", lambda: 2 * 3 * 4 * width**2)
    open_published(str(folder))
    monkeypatch.setattr("dpd_train.published.usable_memory", lambda: 2 * 3 * 4 * width**2 - 1)
    with pytest.raises(InputError, match=rf"eyes: says {width} numbers of an image, and their products take .* GB"):
        open_published(str(folder))


@pytest.mark.parametrize("architecture", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_model_of_timm_watches(architecture: str, tmp_path: Path) -> None:
    """In its own colours, which are in its config; of some, the last map has its channels last."""
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    torch.manual_seed(0)
    small = {} if architecture == "resnet10t" else {"embed_dim": 24} if "swin" in architecture else {"depth": 5}
    model = timm.create_model(architecture, num_classes=5, **small).eval()
    save_for_hf(model, tmp_path, model_args={"num_classes": 5, **small}, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_args"]["num_classes"] == 5
    published, images = open_published(str(tmp_path)), pixels(2).float() / 127.5 - 1
    own = timm.data.resolve_data_config(model.pretrained_cfg)
    assert published.colours.side == own["input_size"][-1]
    large = torch.nn.functional.interpolate(images, published.colours.side, mode="bilinear")
    mean, std = (torch.tensor(own[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad(), autocast("cpu"):
        last = model.forward_features(((large + 1) / 2 - mean) / std).float()
    wanted = last.mean((1, 2) if "swin" in architecture else (2, 3) if last.ndim == 4 else 1)
    found = published.features(images)
    torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, rtol=0.05, atol=0.02)


def test_a_model_that_hides_parts_at_random_is_refused(tmp_path: Path) -> None:
    shape = {"image_size": SIDE, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    build = lambda: ViTMAEModel(ViTMAEConfig(num_attention_heads=2, **shape))  # noqa: E731
    with pytest.raises(InputError, match="hiding: gives other layers each time for the same image"):
        open_published(str(saved(tmp_path / "hiding", build)))


def test_maps_of_one_place_have_no_deviation(tmp_path: Path) -> None:
    model = open_published(str(saved(tmp_path / "eyes", resnet, side=8)))
    found = model.features(pixels(2).float() / 127.5 - 1)
    torch.testing.assert_close(found[:, -12:], torch.full((2, 12), 1e-2))


def test_a_processor_for_images_and_texts_is_read(tmp_path: Path) -> None:
    folder = saved(tmp_path / "eyes", resnet)
    processor = folder / "preprocessor_config.json"
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(processor.read_text())}))
    images = pixels(2).float() / 127.5 - 1
    before = open_published(str(folder)).features(images)
    processor.unlink()
    torch.testing.assert_close(open_published(str(folder)).features(images), before)


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (EfficientNetImageProcessorPil, {"size": {"height": 24, "width": 24}}),  # its file has a crop that is not done
        (BeitImageProcessorPil, {"size": {"height": 24, "width": 24}}),
        (CLIPImageProcessorPil, {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
        (ViTImageProcessorPil, {"size": {"height": 24, "width": 24}, "do_normalize": False}),
    ],
)
def test_images_are_shown_as_by_the_models_own_processor(
    build: Callable[..., Any], change: dict[str, object], tmp_path: Path
) -> None:
    processor = build(**change)
    processor.save_pretrained(tmp_path)
    images = np.full((1, 24, 24, 3), [200, 40, 90], dtype=np.uint8)
    expected = processor(list(images), return_tensors="pt")["pixel_values"]
    colours = read_colours(tmp_path, "--backbone")
    assert colours.side == 24
    found = colours(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "size 0 is no one side"),
        ({"size": True}, "size True is no one side"),
        ({"size": {"height": 32, "width": 64}}, "is no one side of 1 to 4096 pixels"),
        ({"size": {"longest_edge": 32}}, "is no one side"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is True, which is not done here"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"image_mean": 0.5}, "image_mean is 0.5, not three numbers of 0 to 1"),
        ({"image_mean": [123.7, 116.3, 103.5]}, "image_mean is"),
        ({"image_std": [1e-30] * 3}, "image_std is"),
        ({"image_mean": [math.nan] * 3}, "image_mean is"),
    ],
)
def test_a_processor_that_is_not_followed_is_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "eyes", resnet)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=rf"hf:.*eyes: .*preprocessor_config\.json cannot be used .*{re.escape(said)}"):
        open_published(str(folder))


@pytest.mark.full
def test_it_watches_a_run_whose_record_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("LENGTHS", (1,) * 4),
        ("ATTENTION_LENGTHS", (1,) * 4),
        ("VIEWS", 100),
    ):
        monkeypatch.setattr(f"dpd_train.matching.{name}", value)
    monkeypatch.setattr("dpd_train.stages.PUBLISHED_IMAGES", 5)
    place = saved(tmp_path / "eyes", resnet)
    scenes, base = drawn_scenes(tmp_path / "scenes", per_class=24), str(tiny_base(tmp_path))
    short = replace(CONFIG, base=base, prototypes="matched", ipc=2, matching_steps=2, steps=0)
    with pytest.raises(InputError, match="--watchers hf:nowhere: no such folder, and no model of that id"):
        check_inputs(open_scenes(scenes), tmp_path / "run", replace(short, watchers="own,hf:nowhere"))
    codes = []
    for name, watchers in (("plain", "own"), ("seen", f"own,hf:{place}")):
        record = train(scenes, tmp_path / name, replace(short, watchers=watchers), cache=tmp_path / "cache")
        codes.append(load_file(tmp_path / name / "prototypes.safetensors"))
    assert record["watchers"] == [{"name": "hf:eyes", "weights_sha256": model_hash(place)}]
    assert record["config"]["watchers"] == "own,hf:eyes"
    assert str(tmp_path) not in json.dumps(record["config"]["watchers"])
    assert any(not torch.equal(values, codes[1][name]) for name, values in codes[0].items())
    announced: list[list[str]] = []
    config = replace(short, watchers=f"own,hf:{place}", tune_vae=True, vae_steps=1)
    more: dict[str, Any] = {"announce": lambda ahead: announced.append([*ahead]), "keep_checkpoints": True}
    record = train(scenes, tmp_path / "tuned", config, cache=tmp_path / "cache", **more)
    assert record["metrics"]["decoder_tuned_by"] == "hf:eyes"
    trained = [path.name for path in (tmp_path / "tuned" / "checkpoints").glob("watcher*")]
    assert len(trained) == 7, "one of each shape where a published network watches"
    assert len(announced) == 2
    assert all("VAE decoder" in stages and "perceptual networks" not in stages for stages in announced)
    kept = {path.name for path in (tmp_path / "tuned" / "checkpoints").iterdir()}
    assert "decoder.safetensors" in kept
    assert not any(name.startswith("perceptual") for name in kept)


def test_a_run_looks_at_its_watchers_before_anything_is_trained(tmp_path: Path) -> None:
    scenes, base, place = (
        drawn_scenes(tmp_path / "scenes", per_class=24),
        str(tiny_base(tmp_path)),
        saved(tmp_path / "eyes", broken),
    )
    config = replace(CONFIG, base=base, prototypes="matched", watchers=f"own,hf:{place}")
    with pytest.raises(InputError, match="eyes: gives numbers that are not finite"):
        train(scenes, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    twice = replace(config, watchers=f"own,hf:{place},hf:{tmp_path}/other/../eyes")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="eyes' stands there twice"):
        check_inputs(open_scenes(scenes), tmp_path / "run", twice)
    (tmp_path / "a,b").mkdir()
    with pytest.raises(InputError, match="'b' is none of them; a path holds no comma"):
        check_inputs(open_scenes(scenes), tmp_path / "run", replace(config, watchers=f"own,hf:{tmp_path}/a,b"))
