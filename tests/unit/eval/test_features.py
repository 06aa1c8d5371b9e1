"""Extractors: `own` is trained on the given images and cached; `hf:` returns the same features as transformers."""

import shutil
import socket
import stat
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from dpd_eval.extractor_choice import build_extractor
from dpd_eval.extractors import Extractor, _last_tenth, own_extractor
from dpd_runtime.errors import DataError, DiskError, InputError
from dpd_train.scene_set import SceneSet

STEPS = 30
COLOURS = np.array([(70, 90, 170), (70, 150, 80), (170, 80, 70)])


def drawn(per_class: int, seed: int, side: int = 16) -> SceneSet:
    """Noise around three colours."""
    labels = np.repeat(np.arange(3), per_class)
    noise = np.random.default_rng(seed).normal(0, 30, (len(labels), side, side, 3))
    images = np.clip(COLOURS[labels][:, None, None] + noise, 0, 255).astype(np.uint8)
    return SceneSet(("Blue", "Green", "Red"), images, labels, (), ())


TRAIN, OTHER = drawn(20, 0), drawn(60, 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "extractors"


@pytest.fixture(scope="module")
def own(cache: Path) -> Extractor:
    return own_extractor(TRAIN, cache, steps=STEPS)


def test_own_knows_classes_of_images_it_has_not_seen(own: Extractor) -> None:
    labels = own.classify(OTHER.images)
    assert own.classes == OTHER.classes
    assert labels is not None
    assert labels.dtype == np.int64
    assert (labels == OTHER.labels).mean() > 0.9
    shuffled = np.random.default_rng(0).permutation(OTHER.labels)
    assert (labels == shuffled).mean() < 0.6  # control


def test_features_are_what_the_last_layer_sees(own: Extractor) -> None:
    """Logits are an affine map of the features: 180 images leave no residual with 128 + 1 unknowns."""
    features = own.features(OTHER.images)
    assert features.shape == (180, 128)
    assert features.dtype == np.float32
    assert own.score is not None
    logits = own.score(OTHER.images)

    def residual(inputs: np.ndarray) -> float:
        design = np.hstack([inputs.astype(float), np.ones((180, 1))])
        return float(np.abs(design @ np.linalg.lstsq(design, logits, rcond=None)[0] - logits).max())

    assert residual(features) < 1e-4
    assert residual(np.random.default_rng(0).normal(size=features.shape)) > 0.05


def test_probabilities_do_not_know_which_way_is_up(own: Extractor) -> None:
    images = np.random.default_rng(5).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    images[:, :8] //= 4  # the upper half is dark
    turned = np.rot90(images, 1, (1, 2))
    flipped = images[:, :, ::-1]
    probabilities = own.probabilities(images)
    assert probabilities is not None
    assert probabilities.shape == (6, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    for view in (turned, flipped):
        np.testing.assert_allclose(own.probabilities(view), probabilities, atol=1e-5)
    assert own.score is not None
    assert np.abs(own.score(np.ascontiguousarray(turned)) - own.score(images)).max() > 1e-3  # one view does know


def test_probabilities_average_the_eight_views() -> None:
    """With a network that uses only the upper left pixel, each of the four corners counts twice."""

    def score(images: np.ndarray) -> np.ndarray:
        red = images[:, 0, 0, 0].astype(np.float32)
        return np.stack([red, np.zeros_like(red)], axis=1)

    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, 0, 0, 0], image[0, 0, 3, 0], image[0, 3, 3, 0] = 1, 2, 3
    found = Extractor("corner", "", ("a", "b"), lambda images: score(images), score).probabilities(image)
    assert found is not None
    expected = np.mean([1 / (1 + np.exp(-red)) for red in (1, 2, 3, 0)])
    np.testing.assert_allclose(found, [[expected, 1 - expected]], atol=1e-6)


def test_the_second_time_it_comes_from_the_cache(own: Extractor, cache: Path) -> None:
    steps: list[int] = []
    again = own_extractor(TRAIN, cache, lambda done, total: steps.append(done), steps=STEPS)
    assert steps == []
    assert again.description == own.description
    np.testing.assert_array_equal(again.features(OTHER.images), own.features(OTHER.images))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_training_again_gives_the_same_and_leaves_no_trace(own: Extractor, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    steps: list[int] = []
    again = own_extractor(TRAIN, tmp_path, lambda done, total: steps.append(done), steps=STEPS)
    assert steps == list(range(1, STEPS + 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert again.description == own.description  # with the weights' hash
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])  # a damaged file is replaced
    assert own_extractor(TRAIN, tmp_path, steps=STEPS).description == own.description
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", ["pixel", "label", "steps"])
def test_whatever_changes_the_weights_is_trained_anew(change: str, own: Extractor, cache: Path) -> None:
    images, labels = TRAIN.images.copy(), TRAIN.labels.copy()
    images[0, 0, 0, 0] ^= 128 if change == "pixel" else 0
    labels[0] = 1 if change == "label" else labels[0]
    changed = replace(TRAIN, images=images, labels=labels)
    other = own_extractor(changed, cache, steps=2 if change == "steps" else STEPS)
    assert other.description != own.description


def test_the_last_tenth_of_each_class() -> None:
    assert _last_tenth(np.repeat([0, 1, 2], [20, 9, 2])).tolist() == [18, 19, 28, 30]


def test_what_was_kept_out_is_not_trained_on(own: Extractor, tmp_path: Path) -> None:
    """Different pixels in the last tenth change the accuracy in the description, not the weights."""
    images = TRAIN.images.copy()
    images[[18, 19, 38, 39, 58, 59]] = 0
    other = own_extractor(replace(TRAIN, images=images), tmp_path, steps=STEPS)
    np.testing.assert_array_equal(other.features(OTHER.images), own.features(OTHER.images))
    assert "33.3 % accuracy" in other.description


def test_large_images_are_reduced(tmp_path: Path) -> None:
    extractor = own_extractor(drawn(2, 0, side=80), tmp_path, steps=1)
    assert "at 64 px" in extractor.description
    flat = np.full((1, 80, 80, 3), 90, np.uint8)
    np.testing.assert_allclose(extractor.features(flat), extractor.features(flat[:, :64, :64]), atol=1e-4)


def test_own_says_what_it_cannot_do(tmp_path: Path) -> None:
    scarce = replace(TRAIN, images=TRAIN.images[:41], labels=TRAIN.labels[:41])
    with pytest.raises(DataError, match="class Red has 1 training image: the extractor own needs at least 2"):
        own_extractor(scarce, tmp_path, steps=1)
    (tmp_path / "file").touch()
    steps: list[int] = []
    with pytest.raises(DiskError, match="cannot be stored"):
        own_extractor(TRAIN, tmp_path / "file", lambda done, total: steps.append(done), steps=1)
    assert steps == [], "said after the training"


@pytest.mark.parametrize("name", ["inception", "hf:", "", "OWN"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match="there are own, untrained, mdfl, swimdiff:FOLDER and hf:ID_OR_PATH"):
        build_extractor(name, TRAIN)


# hf:

CONFIG = ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write models: `plain` with a pooler, `classifier` without, `cut` with a missing tensor, `pickle` pickled."""
    root = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("plain", "cut", "pickle"):
            ViTModel(CONFIG).save_pretrained(root / name)
        ViTForImageClassification(CONFIG).save_pretrained(root / "classifier")
    for folder in root.iterdir():
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    weights = load_file(root / "cut" / "model.safetensors")
    del weights[next(name for name in weights if "layernorm" in name)]
    save_file(weights, root / "cut" / "model.safetensors", {"format": "pt"})
    torch.save(load_file(root / "pickle" / "model.safetensors"), root / "pickle" / "pytorch_model.bin")
    (root / "pickle" / "model.safetensors").unlink()
    return root


def test_hub_features_are_the_pooled_output(models: Path) -> None:
    extractor = build_extractor(f"hf:{models / 'plain'}", TRAIN)
    found = extractor.features(TRAIN.images[:40])  # more than one batch
    model, processor = ViTModel.from_pretrained(models / "plain"), ViTImageProcessor.from_pretrained(models / "plain")
    with torch.no_grad():
        pixels = processor(images=list(TRAIN.images[:40]), return_tensors="pt")["pixel_values"]
        expected = model.eval()(pixels).pooler_output.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    assert (extractor.classes, extractor.classify(TRAIN.images), extractor.probabilities(TRAIN.images)) == (None,) * 3
    assert str(models) not in extractor.description
    assert "pooled features [16]" in extractor.description


def test_a_pooler_without_weights_is_not_used(models: Path) -> None:
    """transformers initialises a pooler at random for a classifier's checkpoint, so two loads would differ."""
    first, second = (build_extractor(f"hf:{models / 'classifier'}", TRAIN) for _ in range(2))
    np.testing.assert_array_equal(first.features(TRAIN.images[:3]), second.features(TRAIN.images[:3]))
    model = ViTForImageClassification.from_pretrained(models / "classifier").eval()
    processor = ViTImageProcessor.from_pretrained(models / "classifier")
    with torch.no_grad():
        pixels = processor(images=list(TRAIN.images[:3]), return_tensors="pt")["pixel_values"]
        expected = model.vit(pixels).last_hidden_state.mean(dim=1).numpy()
    np.testing.assert_allclose(first.features(TRAIN.images[:3]), expected, atol=1e-5)


def test_a_model_of_the_hub_comes_from_its_cache_alone(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if offline mode is not set and the hub has such a repository."""
    repository = tmp_path / "models--google--vit-base-patch16-224"
    shutil.copytree(models / "plain", repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = build_extractor("hf:google/vit-base-patch16-224", TRAIN).features(TRAIN.images[:3])
    with pytest.raises(InputError, match="fetch it once: hf download google/vit-large-patch16-224"):
        build_extractor("hf:google/vit-large-patch16-224", TRAIN)
    assert asked == []
    local = build_extractor(f"hf:{models / 'plain'}", TRAIN)
    np.testing.assert_array_equal(found, local.features(TRAIN.images[:3]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut", "weights lack 1 tensors.*layernorm"),
        ("pickle", "its weights are a pickle; only safetensors are opened"),
        ("nowhere", "no such folder; give the folder of a model"),
    ],
)
def test_hub_models_that_cannot_be_used(models: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        build_extractor(f"hf:{models / name}", TRAIN)
    assert "\n" not in str(caught.value)
