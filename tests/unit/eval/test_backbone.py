"""A backbone sees what its own processor makes of an image, and its last layer is scikit-learn's regression."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from dpd_eval.backbones import TUNED_SIDE, Backbone, features_of, fit_last_layer, open_backbone
from dpd_eval.recipe import load_recipe
from dpd_eval.students import build_student, predict, recipe_of, train_student
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.errors import InputError
from dpd_train.published import Colours
from dpd_train.scene_set import to_float
from tests.unit.train.test_published import broken, resnet, saved

MEAN, STD = [0.48, 0.45, 0.4], [0.23, 0.22, 0.25]


def write_vit(folder: Path, side: int = 16) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=side,
        patch_size=8,
        num_labels=5,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def drawn(classes: int, side: int = 16) -> tuple[Images, Int64]:
    """Twelve images of each class, whose colour says it."""
    labels = np.repeat(np.arange(classes), 12)
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (classes, 1, 1, 3))
    images = (colours[labels] + rng.normal(0, 12, (len(labels), side, side, 3))).clip(0, 255)
    return images.astype(np.uint8), labels.astype(np.int64)


def test_images_are_normalised_as_by_the_models_own_processor(tmp_path: Path) -> None:
    folder = write_vit(tmp_path)
    images, _ = drawn(3)
    backbone = open_backbone(str(folder), 3).eval()
    prepared = ViTImageProcessorPil.from_pretrained(folder)(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = backbone.model(prepared)
        found = backbone(to_float(torch.from_numpy(images)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_all_layers_are_tuned_at_a_smaller_side_where_the_model_takes_it(tmp_path: Path) -> None:
    """Most do, some have one size alone, and small images stay small."""
    config = ResNetConfig(embedding_size=6, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    ViTImageProcessorPil(size={"height": 128, "width": 128}).save_pretrained(tmp_path / "resnet")
    for folder, side in {tmp_path / "resnet": TUNED_SIDE, write_vit(tmp_path / "small"): 16}.items():
        assert open_backbone(str(folder), 3).reduced().colours.side == side

    class OneSize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3 * 128 * 128, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.last(x.flatten(1))
            return logits

    assert Backbone(OneSize(), Colours(128, MEAN, STD)).reduced().colours.side == 128


def test_a_backbone_that_cannot_be_used_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    bands, numbers = saved(tmp_path / "bands", lambda: resnet(13)), saved(tmp_path / "numbers", broken)
    with pytest.raises(InputError, match=r"hf:.*bands: takes images of 13 bands, not of red, green and blue"):
        open_backbone(str(bands), 3)
    with pytest.raises(InputError, match=r"hf:.*numbers: gives numbers that are not finite; use another model"):
        open_backbone(str(numbers), 3)


def test_a_tuned_student_has_its_own_recipe_and_a_fitted_last_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = drawn(3)
    name, quick = f"tune:hf:{write_vit(tmp_path)}", load_recipe("quick")
    assert (recipe_of(name, quick), recipe_of("convnet", quick)) == (load_recipe("tune"), quick)
    starts: list[dict[str, torch.Tensor]] = []

    def stopped(model: Backbone, *others: object, **options: object) -> Backbone:
        starts.append({key: value.clone() for key, value in model.state_dict().items()})
        return model

    monkeypatch.setattr("dpd_eval.students.train_network", stopped)
    found = train_student(name, images, labels, 3, quick, seed=0)
    assert (predict(found, images, "fp32") == labels).all(), "the last layer knows the colours before any step"
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert starts[0].keys() == build_student(name, 3, 0).state_dict().keys()


def test_a_probe_sees_the_test_images_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body is frozen, so that each pair's probe sees the same of them."""
    images, labels = drawn(3)
    tests, name, calls = images[::2] // 2 + 60, f"probe:hf:{write_vit(tmp_path)}", list[int]()

    def counted(seen: Callable[[torch.Tensor], torch.Tensor], images: Images) -> Float32:
        calls.append(len(images))
        return features_of(seen, images)

    monkeypatch.setattr("dpd_eval.backbones.features_of", counted)
    monkeypatch.setattr("dpd_eval.backbones._kept", {})
    found = []
    for rows in (slice(0, None, 3), slice(1, None, 3)):
        model = train_student(name, images[rows], labels[rows], 3, load_recipe("quick"), seed=0)
        found.append(predict(model, tests, "bf16"))
        with torch.no_grad():
            expected = model(to_float(torch.from_numpy(tests))).argmax(1).numpy()
        np.testing.assert_array_equal(found[-1], expected)
    assert calls == [12, 18, 12]


@pytest.mark.parametrize(("limit", "again"), [(1 << 20, False), (100, True)])
def test_three_probes_in_turn_keep_what_they_saw(
    limit: int, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to so many bytes; beyond them the oldest are seen again."""
    images, labels = drawn(3)
    names = [f"probe:hf:{write_vit(tmp_path / str(side), side)}" for side in (16, 24, 32)]
    seen = list[int]()

    def counted(body: Callable[[torch.Tensor], torch.Tensor], images: Images) -> Float32:
        seen.append(len(images))
        return features_of(body, images)

    monkeypatch.setattr("dpd_eval.backbones.features_of", counted)
    monkeypatch.setattr("dpd_eval.backbones._kept", {})
    monkeypatch.setattr("dpd_eval.backbones.KEPT_BYTES", limit)
    for _ in range(2):
        for name in names:
            model = train_student(name, images[:12], labels[:12], 3, load_recipe("quick"), seed=0)
            predict(model, images[12:30], "bf16")
    assert seen == [12, 18] * (6 if again else 3)


def test_smaller_images_are_enlarged_to_the_models_size(tmp_path: Path) -> None:
    backbone = open_backbone(str(write_vit(tmp_path, side=32)), 3).eval()
    seen: list[torch.Size] = []
    backbone.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        assert backbone(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    assert seen == [(2, 3, 32, 32)]


def test_the_last_layer_of_one_class_names_it() -> None:
    layer, features = torch.nn.Linear(4, 3), np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    fit_last_layer(layer, features, np.full(5, 1))
    assert layer(torch.from_numpy(features)).argmax(1).tolist() == [1] * 5


@pytest.mark.parametrize("classes", [2, 3])
def test_the_last_layer_is_the_logistic_regression_of_its_inputs(classes: int, tmp_path: Path) -> None:
    images, labels = drawn(classes)
    backbone = open_backbone(str(write_vit(tmp_path)), classes)
    backbone.fit_last_layer(images, labels)
    features = features_of(backbone.seen, images)
    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    expected = LogisticRegression(max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    with torch.no_grad():
        found = backbone(to_float(torch.from_numpy(images))).softmax(dim=1)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)
    assert (found.argmax(dim=1).numpy() == labels).mean() > 0.9


def test_nobody_guesses_size_and_colours_of_a_network_without_a_processor(tmp_path: Path) -> None:
    folder = write_vit(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"has no preprocessor_config\.json .*; complete the folder: AutoImageProc"):
        open_backbone(str(folder), 3)


def test_a_second_head_is_refused_where_another_number_of_classes_draws_it_anew(tmp_path: Path) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = DeiTConfig(**shape, image_size=16, patch_size=8, num_labels=5)
    for name, network in (("two", DeiTForImageClassificationWithTeacher), ("one", DeiTForImageClassification)):
        network(config).save_pretrained(tmp_path / name)
        (tmp_path / name / "preprocessor_config.json").write_text('{"size": 16}')
    with pytest.raises(InputError, match="two: has a second head beside its last layer, which nothing would fit"):
        open_backbone(str(tmp_path / "two"), 3)
    backbone = open_backbone(str(tmp_path / "one"), 3)
    assert backbone.last.weight.abs().min() > 0, "it is as it was"


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"size": 0}', b'{"size": {"height": "tall"}}', b'{"image_std": [0, 1, 1]}']
)
def test_a_processor_that_cannot_be_used_is_named(content: bytes, tmp_path: Path) -> None:
    folder = write_vit(tmp_path)
    (folder / "preprocessor_config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"hf:.*: .*preprocessor_config\.json cannot be used"):
        open_backbone(str(folder), 3)


def test_a_last_layer_for_each_token_is_refused(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x.flatten(2)[:, :, :4]).mean(dim=1)

    with pytest.raises(InputError, match="sees more than one vector for an image"):
        features_of(Backbone(Tokens(), Colours(None, MEAN, STD)).seen, drawn(2)[0])


def test_the_processors_size_may_be_a_crop_or_a_shortest_edge(tmp_path: Path) -> None:
    folder = write_vit(tmp_path)
    for size in ({"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}, {"size": 16}):
        (folder / "preprocessor_config.json").write_text(json.dumps(size))
        assert open_backbone(str(folder), 3).colours.side == 16
