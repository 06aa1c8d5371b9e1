"""Students that begin with an encoder: what is tuned, what stays, and a probe against scikit-learn."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from transformers import ViTConfig, ViTForImageClassification

from dpd_eval import evaluate
from dpd_eval.backbones import Probe
from dpd_eval.extractor_choice import build_extractor
from dpd_eval.options import EvaluateConfig
from dpd_eval.pretrained import check_student, without_folder
from dpd_eval.recipe import load_recipe
from dpd_eval.students import build_student, predict, student_identity, train_student
from dpd_neighbours.swimdiff.folder import save_encoder
from dpd_runtime.annotations import Images, Int64
from dpd_runtime.errors import InputError
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.scene_set import SceneSet

SIDE, CLASSES = 16, 3


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    save_encoder(ResNet(ResNetConfig(num_classes=4, widths=(4, 8, 8))), tmp_path / "enc", {"resolution": SIDE})
    return tmp_path / "enc"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    shape = {"image_size": SIDE, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32}
    torch.manual_seed(3)
    config = ViTConfig(num_hidden_layers=1, num_attention_heads=2, num_labels=5, **shape)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(f'{{"size": {SIDE}}}')
    return tmp_path / "vit"


def drawn(count: int, seed: int = 0) -> tuple[Images, Int64]:
    """Noise whose brightness is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = rng.integers(0, 80, (count, SIDE, SIDE, 3)) + 70 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_probe_is_scikit_learns_regression_on_what_the_extractor_sees(encoder: Path) -> None:
    (images, labels), (others, _) = drawn(30), drawn(20, seed=1)
    model = train_student(f"probe:swimdiff:{encoder}", images, labels, CLASSES, load_recipe("quick"), seed=0)
    scenes = SceneSet(("a", "b", "c"), images, labels, (), ())
    extractor = build_extractor(f"swimdiff:{encoder}", scenes)
    seen, unseen = extractor.features(images), extractor.features(others)
    mean, std = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    expected = LogisticRegression(max_iter=1000).fit((seen - mean) / std, labels).predict((unseen - mean) / std)
    np.testing.assert_array_equal(predict(model, others, "fp32"), expected)


def test_soft_labels_that_are_certain_are_hard_ones(encoder: Path) -> None:
    images, labels = drawn(30)
    probes = [build_student(f"probe:swimdiff:{encoder}", CLASSES, 0) for _ in range(3)]
    soft = np.eye(CLASSES, dtype=np.float32)[labels]
    for probe, given in zip(probes, (None, soft, 0.8 * soft + 0.2 / CLASSES), strict=True):
        assert isinstance(probe, Probe)
        probe.fit(images, labels, given)
    hard, certain, unsure = (probe.last.weight.detach() for probe in probes)
    torch.testing.assert_close(certain, hard, rtol=1e-3, atol=1e-4)
    assert float(unsure.norm()) < 0.8 * float(hard.norm())


def test_a_class_without_images_is_never_predicted(encoder: Path) -> None:
    """As where nobody was named it."""
    images, labels = drawn(30)
    rows = labels != 1
    name = f"probe:swimdiff:{encoder}"
    model = train_student(name, images[rows], labels[rows], CLASSES, load_recipe("quick"), seed=0)
    found = predict(model, images, "fp32")
    assert set(found.tolist()) == {0, 2}
    assert (found[rows] == labels[rows]).all()


@pytest.mark.parametrize("kind", ["swimdiff", "hf"])
def test_a_probe_leaves_its_encoder_alone(kind: str, encoder: Path, vit: Path) -> None:
    name = f"probe:{kind}:{encoder if kind == 'swimdiff' else vit}"
    images, labels = drawn(30)
    before = weights(build_student(name, CLASSES, 0))
    after = weights(train_student(name, images, labels, CLASSES, load_recipe("quick"), seed=0))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"last.weight", "last.bias"}


def test_an_encoder_is_tuned_from_its_weights_with_a_new_last_layer(encoder: Path) -> None:
    name, other = f"swimdiff:{encoder}", build_student("convnet", CLASSES, 0)
    first, again, second = (build_student(name, CLASSES, seed) for seed in (0, 0, 1))
    assert first(torch.zeros(2, 3, 24, 24)).shape == (2, CLASSES)
    a, b, c = weights(first), weights(again), weights(second)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert {key for key in a if not torch.equal(a[key], c[key])} == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert type(first) is not type(other)


def test_the_key_of_a_training_has_the_weights_and_no_folder(encoder: Path, vit: Path) -> None:
    for name in (f"swimdiff:{encoder}", f"hf:{vit}"):
        plain, probe = student_identity(name), student_identity(f"probe:{name}")
        assert probe == f"probe:{plain} scikit-learn {version('scikit-learn')} predicts in float32"
        assert str(encoder.parent) not in plain
    before = student_identity(f"swimdiff:{encoder}")
    torch.manual_seed(6)
    save_encoder(ResNet(ResNetConfig(num_classes=4, widths=(4, 8, 8))), encoder, {"resolution": SIDE})
    assert student_identity(f"swimdiff:{encoder}") != before


def test_an_evaluation_says_that_probes_follow_no_recipe(encoder: Path, tmp_path: Path) -> None:
    for part, count in (("train", 12), ("set", 6)):
        for number, (pixels, label) in enumerate(zip(*drawn(count, count), strict=True)):
            folder = tmp_path / part / f"c{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    probe = f"probe:swimdiff:{encoder}"

    def notes(*students: str) -> tuple[str, ...]:
        config = EvaluateConfig(students=students, recipe="quick", pairs=1, ipc=(1,), baselines=(), metrics=False)
        recipe = replace(load_recipe("quick"), steps=2, warmup=0)
        return evaluate(
            [tmp_path / "set"], config, train=tmp_path / "train", test="val", recipe=recipe, cache=tmp_path / "cache"
        ).notes

    assert "students probe:… are fitted; recipe and steps are for the others" in notes("convnet", probe)
    assert not any("fitted" in note for note in notes("convnet"))


def test_a_record_names_no_folder(encoder: Path, vit: Path) -> None:
    assert without_folder(f"probe:swimdiff:{encoder}") == "probe:swimdiff:enc"
    assert without_folder(f"hf:{vit}") == "hf:vit"
    for name in ("convnet", "dsdnet:resnet", "hf:google/vit-base-patch16-224"):
        assert without_folder(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("probe:convnet", "student probe:convnet: give probe:swimdiff:FOLDER or probe:hf:ID_OR_PATH"),
        ("swimdiff:nothere", "swimdiff:nothere: no such folder"),
        ("probe:swimdiff:nothere", "swimdiff:nothere: no such folder"),
        ("probe:hf:no-such/model", "not in this machine's hub cache|no such"),
    ],
)
def test_what_is_no_encoder_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_student(name)


def test_other_bands_are_refused(encoder: Path) -> None:
    with pytest.raises(InputError, match="takes images of 3 bands, these have 5"):
        build_student(f"probe:swimdiff:{encoder}", CLASSES, 0, in_channels=5)
