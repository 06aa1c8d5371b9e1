import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dpd_eval.arms import Training, run_plan
from dpd_eval.recipe import Recipe, load_recipe
from dpd_eval.results import FULL_ARM
from dpd_eval.students import (
    batches,
    cutmix,
    predict,
    random_crop,
    random_flips,
    random_shift,
    rate_at,
    train_network,
    train_student,
)
from dpd_train.scene_set import SceneSet

RECIPE = Recipe(
    name="tiny", steps=20, batch=8, optimizer="adamw", peak_rate=3e-3, warmup=3, shift=2, cutmix=0.5, precision="bf16"
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(per_class: int = 8, side: int = 16) -> SceneSet:
    """Draw three classes of noise, each around its own grey level."""
    labels = np.repeat(np.arange(3), per_class).astype(np.int64)
    levels = np.array([50, 128, 206])[labels]
    noise = np.random.default_rng(0).normal(0, 30, (len(labels), side, side, 3))
    images = np.clip(levels[:, None, None, None] + noise, 0, 255).astype(np.uint8)
    return SceneSet(("a", "b", "c"), images, labels, tuple(map(str, range(len(labels)))), ())


def test_shift_is_a_crop_after_reflect_padding():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    moved = random_shift(images, 3, generator(4))
    padded = nn.functional.pad(images.float(), (3, 3, 3, 3), mode="reflect").to(torch.uint8)
    for one, source in zip(moved, padded, strict=True):
        crops = [source[:, y : y + 8, x : x + 8] for y in range(7) for x in range(7)]
        assert sum(torch.equal(one, crop) for crop in crops) == 1
    assert not torch.equal(moved, images)


def test_flips_are_all_four_equally_often():
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 1, 2, 3)
    flipped = random_flips(image.expand(4000, 1, 2, 3), generator())
    wanted = [image[0].flip(axes) for axes in ([], [-1], [-2], [-1, -2])]
    counts = [int((flipped == one).all(dim=(1, 2, 3)).sum()) for one in wanted]
    assert sum(counts) == 4000
    assert max(abs(count - 1000) for count in counts) < 140  # 5 standard deviations


def test_crop_keeps_the_share_of_the_area_and_stays_inside():
    """On a ramp the corners of a crop reveal its box, because linear interpolation of a line is exact."""
    side, count = 64, 400
    across = torch.arange(side).float().expand(side, side)
    images = torch.stack([across, across.T])[None].expand(count, 2, side, side) * 3
    cut = random_crop(images.to(torch.uint8), 0.67, generator()).float() / 3
    left, right = cut[:, 0, side // 2, 0], cut[:, 0, side // 2, -1]
    top, bottom = cut[:, 1, 0, side // 2], cut[:, 1, -1, side // 2]
    width, height = (right - left) / (side - 1), (bottom - top) / (side - 1)
    area, ratio = width * height, width / height
    assert area.min() > 0.6  # 0.67 less a box as long as the image, whose border pixels repeat, and rounding
    assert area.max() <= 1.01
    assert area.mean().item() == pytest.approx((0.67 + 1) / 2, abs=0.03)
    assert ratio.log().mean().item() == pytest.approx(0, abs=0.03)
    assert ratio.max() <= 4 / 3 + 0.03
    assert (left + right).std() > 2  # the boxes are not all in the middle


def test_cutmix_share_is_the_share_of_own_pixels():
    images = torch.arange(6).reshape(6, 1, 1, 1).expand(6, 3, 16, 16).contiguous()
    drawn = generator()
    for _ in range(30):
        mixed, order, kept = cutmix(images, drawn)
        for i in range(6):
            allowed = {i, int(order[i])}
            assert set(mixed[i].unique().tolist()) <= allowed
            if len(allowed) == 2:
                assert (mixed[i] == i).float().mean().item() == pytest.approx(kept)


def test_batches_use_every_row_before_any_twice():
    stream = batches(10, 4, generator())
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


def test_staircase_equals_torch():
    recipe = Recipe(name="t", steps=600, batch=2, optimizer="sgd", peak_rate=0.1, decay="multistep")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [400, 500], gamma=0.1)
    for step in range(600):
        assert rate_at(step, recipe) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("optimizer", ["sgd", "plain sgd", "adamw"])
def test_the_updates_are_those_of_the_papers_written_out(optimizer):
    """CutMix (Yun et al. 2019), label smoothing, warm-up, cosine, decay of weights alone, SGD and AdamW, with none of
    PyTorch's optimisers, losses or gradients."""
    data, smoothing, decay, peak, steps, warmup = scenes(side=8), 0.2, 0.3, 0.02, 6, 2
    recipe = Recipe(
        name="written",
        steps=steps,
        batch=8,
        optimizer="adamw" if optimizer == "adamw" else "sgd",
        peak_rate=peak,
        warmup=warmup,
        weight_decay=decay,
        label_smoothing=smoothing,
        d4=False,
        cutmix=1.0,
        nesterov=optimizer != "plain sgd",
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    weight, bias = (value.detach().double().numpy().copy() for value in model[1].parameters())
    drawn, moments, squares = generator(5), defaultdict(float), defaultdict(float)
    stream = batches(len(data.images), 8, drawn)
    for step in range(steps):
        rows = next(stream)
        torch.rand((), generator=drawn)  # whether to mix
        mixed, order, kept = cutmix(torch.from_numpy(data.images)[rows].permute(0, 3, 1, 2), drawn)
        x = mixed.flatten(1).double().numpy() / 127.5 - 1
        one_hot = np.eye(3)[data.labels[rows]] * (1 - smoothing) + smoothing / 3
        powers = np.exp(x @ weight.T + bias)
        error = powers / powers.sum(1, keepdims=True) - (kept * one_hot + (1 - kept) * one_hot[order.numpy()])
        rate = peak * (step + 1) / warmup if step < warmup else peak / 2 * (1 + math.cos(math.pi * (step - 2) / 4))
        for name, value, gradient in (("weight", weight, error.T @ x / 8), ("bias", bias, error.mean(0))):
            own_decay = decay if name == "weight" else 0.0
            if optimizer == "adamw":
                moments[name] = 0.9 * moments[name] + 0.1 * gradient
                squares[name] = 0.999 * squares[name] + 0.001 * gradient**2
                spread = np.sqrt(squares[name] / (1 - 0.999 ** (step + 1))) + 1e-8
                value *= 1 - rate * own_decay
                value -= rate * moments[name] / (1 - 0.9 ** (step + 1)) / spread
            else:
                gradient = gradient + own_decay * value
                moments[name] = 0.9 * moments[name] + gradient
                value -= rate * (gradient + 0.9 * moments[name] if optimizer == "sgd" else moments[name])
    trained = train_network(model, data.images, data.labels, recipe, 5)
    for found, value in zip(trained[1].parameters(), (weight, bias), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), value, atol=2e-5)


def test_dropout_draws_depend_on_the_seed_alone():
    """MobileNetV2 has dropout, which uses the global generator."""
    data, recipe = scenes(), replace(RECIPE, steps=3, warmup=0)
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        states.append(train_student("mobilenetv2", data.images, data.labels, 3, recipe, 0).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_soft_labels_that_are_certain_are_hard_labels():
    """One-hot probabilities train exactly the same weights as labels without smoothing."""
    data, recipe = scenes(), replace(RECIPE, label_smoothing=0.0)
    certain = np.eye(3, dtype=np.float32)[data.labels]
    hard = train_student("convnet", data.images, data.labels, 3, recipe, 0).state_dict()
    smoothed = replace(recipe, label_smoothing=0.3)
    soft = train_student("convnet", data.images, data.labels, 3, smoothed, 0, soft=certain).state_dict()
    for key, value in hard.items():
        torch.testing.assert_close(soft[key], value, atol=1e-4, rtol=1e-3)


def test_students_learn_the_soft_labels_and_not_the_hard_ones():
    data = scenes()
    swapped = np.eye(3, dtype=np.float32)[[1, 2, 0]][data.labels]
    model = train_student("convnet", data.images, data.labels, 3, replace(RECIPE, steps=60), 0, soft=swapped)
    found = predict(model, data.images, "fp32")
    assert (found == (data.labels + 1) % 3).mean() > 0.9


def test_the_plan_gives_full_its_own_budget_and_weighs_the_remaining_time(tmp_path):
    data = scenes()
    rows = np.arange(24)
    recipe = replace(RECIPE, steps=4, full_steps=12, warmup=0)
    plan = [Training(arm, "convnet", 8, 0, ((data, rows),)) for arm in ("real", FULL_ARM)]
    assert [item.recipe(recipe).steps for item in plan] == [4, 12]
    seen: list[float] = []

    def tell(done: float, total: int, what: str) -> None:
        assert total == 2
        seen.append(done)

    outcomes, cached = run_plan(plan, data, recipe, 1, tmp_path, tell)
    assert cached == [False, False]
    assert [outcome.confusion.sum() for outcome in outcomes] == [24, 24]
    assert seen == sorted(seen)
    assert 0.5 in seen  # a quarter of the steps is half a training of mean length
    assert seen[-1] == 2
    assert run_plan(plan, data, recipe, 1, tmp_path, tell)[1] == [True, True]
    soft = [replace(item, soft=np.full((24, 3), 1 / 3, np.float32)) for item in plan]
    assert run_plan(soft, data, recipe, 1, tmp_path, tell)[1] == [False, False]


def test_a_probe_costs_one_look_at_each_image_and_a_tuned_network_its_own_steps() -> None:
    """The time that is left was 18 minutes where it was one: a probe counted as if it took the recipe's steps."""
    part = ((scenes(), np.arange(6)),)
    quick, tune = load_recipe("quick"), load_recipe("tune")
    for student, expected in {
        "probe:hf:a": 7.0 * 6,
        "tune:hf:a": 7.0 * 3 * tune.steps * tune.batch,
        "convnet": 7.0 * 3 * quick.steps * quick.batch,
    }.items():
        assert Training("set", student, 3, 0, part, cost=7.0).work(quick) == expected
