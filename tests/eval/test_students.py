import numpy as np
import pytest
import torch
from torch import nn

from dpd_eval.recipe import Recipe, load_recipe
from dpd_eval.students import STUDENTS, ConvNet, build_student, count_multiply_adds
from dpd_eval.training import batches, cutmix, random_shift, rate_at
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


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("size", [32, 64, 90])
def test_students_take_any_size(name, size):
    model = build_student(name, 7, 0)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first, second, other = (build_student("convnet", 4, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_student_lists_the_known():
    with pytest.raises(InputError, match="no student 'vgg': there are convnet"):
        build_student("vgg", 4, 0)


def test_counting_leaves_mode_and_norms_alone():
    model = ConvNet(3).train()
    mean = model.state_dict()["body.0.1.running_mean"].clone()
    count_multiply_adds(model, 64, 64)
    assert model.training
    assert torch.equal(model.state_dict()["body.0.1.running_mean"], mean)


def test_shift_is_a_crop_after_reflect_padding():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    moved = random_shift(images, 3, torch.Generator().manual_seed(4))
    padded = nn.functional.pad(images.float(), (3, 3, 3, 3), mode="reflect").to(torch.uint8)
    for one, source in zip(moved, padded, strict=True):
        crops = [source[:, y : y + 8, x : x + 8] for y in range(7) for x in range(7)]
        assert sum(torch.equal(one, crop) for crop in crops) == 1
    assert not torch.equal(moved, images)


def test_cutmix_share_is_the_share_of_own_pixels():
    images = torch.arange(6).reshape(6, 1, 1, 1).expand(6, 3, 16, 16).contiguous()
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        mixed, order, kept = cutmix(images, generator)
        for i in range(6):
            allowed = {i, int(order[i])}
            assert set(mixed[i].unique().tolist()) <= allowed
            if len(allowed) == 2:
                assert (mixed[i] == i).float().mean().item() == pytest.approx(kept)


def test_batches_use_every_row_before_any_twice():
    stream = batches(10, 4, torch.Generator().manual_seed(0))
    rows = torch.cat([next(stream) for _ in range(5)])
    assert sorted(rows[:10].tolist()) == list(range(10)) == sorted(rows[10:].tolist())


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_rate_rises_to_the_peak_and_falls_towards_zero(decay):
    recipe = Recipe(name="t", steps=100, batch=2, optimizer="sgd", peak_rate=0.1, warmup=10, decay=decay)
    rates = np.array([rate_at(step, recipe) for step in range(100)])
    assert rates.max() == rates[10] == rates[9] == 0.1
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] < 0.002


def test_recipe_is_read_and_checked(tmp_path):
    quick = load_recipe("quick")
    assert quick.name == "quick"
    assert quick.d4
    with pytest.raises(InputError, match="no recipe 'slow': shipped are quick"):
        load_recipe("slow")
    good = 'steps = 5\nbatch = 4\noptimizer = "sgd"\npeak_rate = 1\n'
    path = tmp_path / "mine.toml"
    path.write_text(good)
    assert load_recipe(str(path)).steps == 5
    for text, message in [
        (good + "stepz = 3\n", r"unknown keys \['stepz'\]"),
        ("steps = 5\n", r"missing keys \['batch', 'optimizer', 'peak_rate'\]"),
        (good + "cutmix = 2\n", "cutmix = 2 is out of range"),
        (good + 'shift = "4"\n', "shift = '4' has the wrong type"),
        ("steps = = 5", "not TOML"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_recipe(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.toml"))
