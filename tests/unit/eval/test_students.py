import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification

from dpd_eval.networks import ConvNet
from dpd_eval.pretrained import NAMES, check_student
from dpd_eval.students import STUDENTS, build_student, count_multiply_adds, student_identity
from dpd_runtime.errors import InputError


def test_multiply_adds_of_single_layers():
    convolution = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8))
    assert count_multiply_adds(convolution, 10, 6) == 10 * 6 * 8 * 3 * 9
    grouped = nn.Conv2d(3, 9, 5, 2, 2, groups=3)
    assert count_multiply_adds(grouped, 8, 8) == 4 * 4 * 9 * 1 * 25
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 7))
    assert count_multiply_adds(linear, 4, 4) == 48 * 7


def test_multiply_adds_of_the_quick_student():
    widths, blocks = (16, 32, 64, 128), (0, 1, 2, 1)
    expected, channels, side = 0, 3, 64
    for width, count in zip(widths, blocks, strict=True):
        side //= 2
        expected += side**2 * 9 * (channels * width + count * width**2)
        channels = width
    expected += channels * 10
    found = count_multiply_adds(build_student("convnet", 10, 0), 64, 64)
    assert found == expected
    assert found <= 20e6


def test_cost_of_the_others_at_64_px():
    costs = {name: count_multiply_adds(build_student(name, 10, 0), 64, 64) / 1e6 for name in STUDENTS}
    assert costs["resnet"] <= 25
    # torchvision's table has 1.81 G at 224 px with 1000 classes; every map is (64 / 224)² of that
    assert costs["resnet18"] == pytest.approx((1814 - 0.512) * (64 / 224) ** 2, rel=0.01)
    assert costs["mobilenetv2"] <= 10
    # 64 patches and the class token through 4 layers of 12 d²; then the patches and the head
    assert costs["vit-tiny"] == pytest.approx((4 * 65 * 12 * 96**2 + 64 * 192 * 96 + 960) / 1e6)


def test_convnet_d3_is_that_of_the_literature():
    """At 32 px it has 320,010 weights (Zhao et al. 2021); the linear layer sees four times as many places at 64 px."""
    network = build_student("convnet-d3", 10, 0)
    assert sum(p.numel() for p in network.parameters()) == 320_010 - (128 * 4 * 4 * 10 + 10) + (128 * 8 * 8 * 10 + 10)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x, weights = images, [value for name, value in network.state_dict().items() if name.startswith("body")]
    for kernel, bias, scale, shift in zip(*[iter(weights)] * 4, strict=True):
        maps = torch.nn.functional.conv2d(x, kernel, bias, padding=1)
        away = maps - maps.mean((2, 3), keepdim=True)
        normed = away / (maps.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        rectified = (normed * scale[:, None, None] + shift[:, None, None]).relu()
        x = rectified.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
    torch.testing.assert_close(network(images), network.head(x.flatten(1)), rtol=1e-4, atol=1e-4)


def test_names_are_known_without_pytorch() -> None:
    assert tuple(STUDENTS) == NAMES


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("size", [32, 64, 90])
def test_students_take_any_size(name, size):
    model = build_student(name, 7, 0)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", STUDENTS)
def test_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first, second, other = (build_student(name, 4, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_quick_student_is_the_one_that_results_were_published_with():
    """Stored trainings identify it by its name alone."""
    state = build_student("convnet", 10, 7).state_dict()
    weights = [value.double().abs().sum().item() for value in state.values() if value.ndim > 1]
    assert weights == pytest.approx(
        [40.82704, 194.442, 272.1908, 543.1935, 766.0466, 768.6524, 1536.04, 2174.465, 55.10671], rel=1e-5
    )
    assert student_identity("convnet") == "convnet"


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] * (n == "resnet18")) for n in STUDENTS])
def test_every_student_learns_in_bfloat16(name):
    """A few steps fit one batch, in training and, with this batch's means and variances, at test time."""
    model = build_student(name, 3, 0).train()
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    images[:, 0] += labels[:, None, None] - 1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.cross_entropy(model(images).float(), labels)

    for _ in range(8):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} <= {0.1}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches since: of one
    with torch.no_grad():
        assert loss().item() < 0.5  # ln 3 = 1.1 is chance
        model.eval()
        assert loss().item() < 0.6


def test_unknown_student_lists_the_known():
    with pytest.raises(InputError, match=r"no student 'vgg': there are convnet, .* and hf:ID_OR_PATH"):
        build_student("vgg", 4, 0)
    with pytest.raises(InputError, match="no student 'hf:'"):
        check_student("hf:")


def test_counting_leaves_mode_and_norms_alone():
    model = ConvNet(3).train()
    mean = model.state_dict()["body.0.1.running_mean"].clone()
    count_multiply_adds(model, 64, 64)
    assert model.training
    assert torch.equal(model.state_dict()["body.0.1.running_mean"], mean)


@pytest.fixture
def tiny_vit(tmp_path: Path) -> Path:
    """A saved image classifier of 5 classes for 32-pixel images."""
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config.num_labels = 5
    torch.manual_seed(3)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_model_from_a_folder_keeps_its_body_and_gets_a_new_head(tiny_vit):
    saved = ViTForImageClassification.from_pretrained(tiny_vit).state_dict()
    for classes in (4, 5):
        first, again, other = (build_student(f"hf:{tiny_vit}", classes, seed) for seed in (0, 0, 1))
        ours, twin = first.state_dict(), again.state_dict()
        body = [key for key in saved if not key.startswith("classifier")]
        assert body
        assert all(torch.equal(ours[f"model.{key}"], saved[key]) for key in body)
        assert all(torch.equal(ours[key], twin[key]) for key in ours)
        head = ours["model.classifier.weight"]
        assert head.shape == (classes, 16)
        # also where the sizes agree: its old head may know these very classes
        assert not any(
            torch.equal(head, found)
            for found in (saved["classifier.weight"], other.state_dict()["model.classifier.weight"])
        )
        assert first(torch.zeros(2, 3, 40, 40)).shape == (2, classes)


def test_a_model_of_another_family_from_a_folder(tmp_path):
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    ConvNextForImageClassification(config).save_pretrained(tmp_path)
    assert build_student(f"hf:{tmp_path}", 3, 0)(torch.zeros(2, 3, 48, 48)).shape == (2, 3)


def test_identity_follows_the_weights(tiny_vit):
    name = f"hf:{tiny_vit}"
    before = student_identity(name)
    assert before == student_identity(name)
    ViTForImageClassification(ViTConfig.from_pretrained(tiny_vit)).save_pretrained(tiny_vit)
    assert student_identity(name) != before


def test_a_model_that_is_not_here_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(InputError, match=r"owner/none: .*hf download owner/none"):
        check_student("hf:owner/none")
    with pytest.raises(InputError, match="no such folder"):
        check_student("hf:no/such/folder/here")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="pickle"):
        check_student(f"hf:{tmp_path}")


def test_what_is_no_image_classifier_is_refused(tiny_vit):
    config = tiny_vit / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 2}))
    with pytest.raises(InputError, match=r"its weights lack .* first vit"):
        build_student(f"hf:{tiny_vit}", 4, 0)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "bert"}))
    with pytest.raises(InputError, match="as an image classifier: cannot be loaded"):
        build_student(f"hf:{tiny_vit}", 4, 0)
