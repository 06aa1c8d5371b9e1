"""SwiMDiff: its losses against plain sums and diffusers, which keys are negatives, and what decides the weights."""

import json
import shutil
from collections import deque
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import dpd_neighbours.swimdiff.views as views
from dpd_neighbours.swimdiff.config import SwimDiff
from dpd_neighbours.swimdiff.contrast import NOTHING, KeyQueue, follow, in_groups, info_nce
from dpd_neighbours.swimdiff.diffusion import FeatureDenoiser, cosine_schedule, diffusion_loss, noisy_images
from dpd_neighbours.swimdiff.features import pretrain_features
from dpd_neighbours.swimdiff.training import encoder_shape, spread, train_swimdiff
from dpd_neighbours.swimdiff.unlabelled import Unlabelled, check_images, read_unlabelled
from dpd_runtime.errors import DataError, InputError
from dpd_train.compute import Deadline, TimeUp, step_generator
from dpd_train.drawn_scenes import CLASSES, numbered_scene
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.pool import Sources
from dpd_train.scene_set import Crops
from dpd_train.symmetry import NEAR, ORDER, d4, orbit, similarities, structure
from tests.tiny import SIDE, drawn_scenes

SHAPE = ResNetConfig(num_classes=16, widths=(16, 32), blocks=(1, 1), dropout=0.0)
SHORT = SwimDiff(steps=6, batch=8, queue=32, bfloat16=False)
CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@cache
def drawn(per_class: int, first: int = 0) -> tuple[Unlabelled, np.ndarray]:
    """Drawn scenes, each a scene of its own, and their labels, which no training gets."""
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    tiles = [numbered_scene(label, first + i % per_class, 0, SIDE) for i, label in enumerate(labels.tolist())]
    return Unlabelled(np.stack(tiles), np.arange(len(tiles)), None, {"images": len(tiles)}), labels


# Contrast.


def test_info_nce_is_the_mean_of_the_softmax_by_hand() -> None:
    queries, keys, negatives = units(3, 5), units(3, 5, seed=1), units(7, 5, seed=2)
    hidden = torch.zeros(3, 7, dtype=torch.bool)
    hidden[0, 2] = hidden[2, 0] = hidden[2, 6] = True
    losses = []
    for i in range(3):
        shown = [j for j in range(7) if not hidden[i, j]]
        scores = [np.exp(float(queries[i] @ vector) / 0.3) for vector in (keys[i], *negatives[shown])]
        losses.append(-np.log(scores[0] / sum(scores)))
    assert float(info_nce(queries, keys, negatives, hidden, 0.3)) == pytest.approx(np.mean(losses), rel=1e-5)
    everything = float(info_nce(queries, keys, negatives, torch.zeros_like(hidden), 0.3))
    assert everything > np.mean(losses), "a hidden key is no longer in the sum"


def test_without_negatives_the_loss_is_zero_and_has_a_gradient() -> None:
    queries = units(2, 4).requires_grad_()
    loss = info_nce(queries, units(2, 4, seed=1), units(3, 4, seed=2), torch.ones(2, 3, dtype=torch.bool), 0.2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert queries.grad is not None
    assert bool(queries.grad.isfinite().all())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_a_key_is_hidden_where_its_scene_is_the_querys(stored: list[int], asked: list[int]) -> None:
    queue = KeyQueue(6, 2, CPU)
    queue.add(units(len(stored), 2), torch.tensor(stored))
    hidden, plain = (queue.hidden_from(torch.tensor(asked), same) for same in (False, True))
    for i, scene in enumerate(asked):
        for j in range(6):
            empty = j >= len(stored)
            assert bool(plain[i, j]) == empty
            assert bool(hidden[i, j]) == (empty or stored[j] == scene)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_the_queue_keeps_the_newest_keys(batches: list[int]) -> None:
    queue, expected, number = KeyQueue(5, 1, CPU), deque[int](maxlen=5), 0
    for size in batches:
        numbers = list(range(number, number + size))
        queue.add(torch.tensor(numbers, dtype=torch.float32)[:, None], torch.tensor(numbers))
        expected.extend(numbers)
        number += size
        stored = [int(scene) for scene in queue.scenes if scene != NOTHING]
        assert sorted(stored) == list(expected)
        assert [int(key) for key, scene in zip(queue.keys, queue.scenes, strict=True) if scene != NOTHING] == stored
        oldest = queue.scenes.roll(-queue.position)
        assert [int(scene) for scene in oldest if scene != NOTHING] == list(expected), "oldest first"


def test_the_key_encoder_follows_the_weights() -> None:
    slow, fast = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        slow.weight.fill_(1.0)
        fast.weight.fill_(3.0)
    follow(slow, fast, 0.9)
    assert slow.weight.tolist() == pytest.approx([1.2, 1.2])
    assert fast.weight.tolist() == [3, 3]


@settings(deadline=None)
@given(count=st.integers(2, 40), seed=st.integers(0, 99))
def test_keys_are_encoded_in_mixed_groups_and_come_back_in_order(count: int, seed: int) -> None:
    """The encoder stands for batch statistics: beside an image's number it gives the mean of its group."""
    images = torch.arange(float(count))[:, None]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    sizes: list[int] = []

    def encode(group: torch.Tensor) -> torch.Tensor:
        sizes.append(len(group))
        return torch.cat([group, group.mean().expand(len(group), 1)], dim=1)

    numbers, means = in_groups(encode, images, order).T
    assert numbers.tolist() == list(range(count))
    assert (sum(sizes), min(sizes) >= 2, max(sizes) - min(sizes) <= 1) == (count, True, True)
    assert len(sizes) == min(4, count // 2)
    first = order[: sizes[0]]
    assert means[first].tolist() == pytest.approx([float(numbers[first].mean())] * sizes[0])


# Views.


def test_views_keep_size_and_range_and_differ() -> None:
    images = torch.from_numpy(drawn(2)[0].images).permute(0, 3, 1, 2).float() / 127.5 - 1
    first, second = (views.random_views(images, step_generator(0, step)) for step in (0, 1))
    assert first.shape == images.shape
    assert float(first.abs().max()) <= 1
    assert float((first - second).abs().mean()) > 0.05
    assert torch.equal(first, views.random_views(images, step_generator(0, 0)))


def test_a_whole_view_without_other_colours_is_one_of_the_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LEAST_AREA", 1.0), ("JITTER", 0.0), ("GREY", 0.0)):
        monkeypatch.setattr(views, name, value)
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for image, view in zip(images, views.random_views(images, step_generator(0, 0)), strict=True):
        assert min(float((d4(image, element) - view).abs().max()) for element in range(ORDER)) < 1e-5


def test_a_part_lies_inside_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red is the column and green the row, in [-1, 1]: a part spans less of both, and equally much."""
    for name in ("JITTER", "GREY"):
        monkeypatch.setattr(views, name, 0.0)
    ramp = (torch.arange(16) + 0.5) / 8 - 1
    image = torch.stack([ramp.expand(16, 16), ramp[:, None].expand(16, 16), torch.zeros(16, 16)])
    spans = views.random_views(image.expand(50, -1, -1, -1), step_generator(0, 0))[:, :2].flatten(2)
    extents = (spans.amax(2) - spans.amin(2)) / (ramp[-1] - ramp[0])
    torch.testing.assert_close(extents[:, 0], extents[:, 1], atol=0.02, rtol=0)
    assert float(extents.min()) > views.LEAST_AREA**0.5 - 0.02
    assert float(extents.max()) <= 1 + 1e-5
    assert float(extents.std()) > 0.05


def test_a_grey_image_stays_grey_and_a_colour_survives() -> None:
    grey = torch.full((40, 3, 4, 4), 0.2)
    assert float(views.random_views(grey, step_generator(0, 0)).diff(dim=1).abs().max()) < 1e-5
    red = torch.tensor([0.5, -0.5, -0.5])[None, :, None, None].expand(40, 3, 4, 4)
    leads = views.random_views(red, step_generator(0, 0))
    share = float(((leads[:, 0] - leads[:, 1]).mean(dim=(1, 2)) > 0.2).float().mean())
    assert 0.7 < share < 1, "most views keep the colour, some are grey"


# Diffusion.


def test_noisy_images_are_those_of_diffusers() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    images, noise = (torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    timesteps = torch.tensor([0, 10, 300, 700, 999])
    ours = noisy_images(images, noise, timesteps, cosine_schedule())
    torch.testing.assert_close(ours, scheduler.add_noise(images, noise, timesteps), atol=2e-5, rtol=1e-4)


class Oracle(nn.Module):
    """Solves diffusers' add_noise for ε, as it knows the images."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images = images
        self.table = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        ratio = self.table[timesteps][:, None, None, None]
        found: torch.Tensor = (noisy - ratio.sqrt() * self.images) / (1 - ratio).sqrt()
        return found


def test_the_target_of_the_diffusion_loss_is_the_noise() -> None:
    images, noise = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    maps, timesteps = torch.zeros(4, 2, 1, 1), torch.tensor([100, 400, 600, 900])
    known, wrong = (
        float(diffusion_loss(Oracle(x), maps, images, noise, timesteps, cosine_schedule())) for x in (images, -images)
    )
    assert known < 1e-6
    assert wrong > 0.1


def test_the_diffusion_loss_reaches_the_encoder() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, denoiser = ResNet(SHAPE), FeatureDenoiser(SHAPE.widths[-1])
    images, noise = (torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    maps = encoder.features(images)[-1]
    loss = diffusion_loss(denoiser, maps, images, noise, torch.tensor([50, 200, 500, 900]), cosine_schedule())
    loss.backward()  # type: ignore[no-untyped-call]
    stem = next(encoder.stem.parameters()).grad
    assert stem is not None
    assert float(stem.abs().sum()) > 0


# Images.


def test_crops_of_an_image_and_near_duplicates_are_one_scene(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, label in enumerate((0, 1, 2)):
        Image.fromarray(numbered_scene(label, 0, 0, 2 * SIDE)).save(folder / f"{number}.png")
    Image.fromarray(numbered_scene(1, 0, 0, 2 * SIDE)).save(folder / "again.jpg", quality=92)
    data = read_unlabelled(Sources(data=(str(folder),), resolution=SIDE, crops=Crops(native=3)))
    assert len(data.images) == 4 * (1 + 3)
    _, counts = np.unique(data.scenes, return_counts=True)
    assert sorted(counts.tolist()) == [4, 4, 8]
    assert data.record["scenes"] == 3
    whole = read_unlabelled(Sources(data=(str(folder),), resolution=SIDE))
    assert sorted(np.unique(whole.scenes, return_counts=True)[1].tolist()) == [1, 1, 2]


def test_scenes_are_closed_under_near_duplication(tmp_path: Path) -> None:
    """A scene that fades into another by small steps is one scene, in whatever order the hashes come."""
    first, last = (numbered_scene(label, 0, 0, SIDE) for label in (0, 1))
    assert float(similarities(orbit(first[None]), structure(last[None])).max()) < NEAR / 2
    for number, weight in enumerate(np.linspace(0, 1, 30)):
        between = ((1 - weight) * first + weight * last).round().astype(np.uint8)
        Image.fromarray(between).save(tmp_path / f"{number}.png")
    Image.fromarray(numbered_scene(2, 0, 0, SIDE)).save(tmp_path / "other.png")
    data = read_unlabelled(Sources(data=(str(tmp_path),), resolution=SIDE))
    assert sorted(np.unique(data.scenes, return_counts=True)[1].tolist()) == [1, 30]


def test_names_of_folders_and_files_decide_nothing(tmp_path: Path) -> None:
    """The same images under permuted classes, and without any class: the same weights, bit for bit."""
    scenes = drawn_scenes(tmp_path / "scenes" / "train", per_class=3)
    drawn_scenes(tmp_path / "scenes" / "val", per_class=1, seed=1)
    shuffled, flat = tmp_path / "shuffled", tmp_path / "flat"
    shutil.copytree(tmp_path / "scenes" / "val", shuffled / "val")
    flat.mkdir()
    files = sorted(scenes.rglob("*.png"))
    for number, path in enumerate(files):
        target = shuffled / "train" / CLASSES[number * 5 % len(CLASSES)] / f"{97 * number % 101}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        shutil.copyfile(path, flat / f"{-number % 7}{number}.png")
    found = [
        read_unlabelled(Sources(data=(str(place),), resolution=SIDE)) for place in (tmp_path / "scenes", shuffled, flat)
    ]
    first, *others = (train_swimdiff(data, SHORT, shape=SHAPE)[0].state_dict() for data in found)
    assert len(found[0].images) == len(files)
    for other in others:
        assert all(torch.equal(value, other[name]) for name, value in first.items())
    changed = replace(found[0], images=found[0].images[::-1].copy())
    control = train_swimdiff(changed, SHORT, shape=SHAPE)[0].state_dict()
    assert not all(torch.equal(value, control[name]) for name, value in first.items())


def test_options_that_a_flat_folder_ignores_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(numbered_scene(0, number, 0, SIDE)).save(tmp_path / f"{number}.png")
    check_images(Sources(data=(str(tmp_path),), resolution=SIDE))
    with pytest.raises(InputError, match="--val-per-class, --split and --shares have no effect"):
        check_images(Sources(data=(str(tmp_path),), resolution=SIDE, val_per_class=2))
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match="holds one image; at least 2 needed"):
        check_images(Sources(data=(str(tmp_path),), resolution=SIDE))


# Training.


def test_sessions_end_where_an_uninterrupted_training_does(tmp_path: Path) -> None:
    data, _ = drawn(3)
    whole, losses = train_swimdiff(data, SHORT, shape=SHAPE)
    state, sessions = tmp_path / "state.safetensors", 0
    while True:
        sessions += 1
        try:
            pieces, again = train_swimdiff(data, SHORT, shape=SHAPE, state=state, deadline=Deadline(0))
            break
        except TimeUp:
            continue
    assert sessions == SHORT.steps
    assert again == losses
    for name, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[name]), name
    with pytest.raises(InputError, match="training with other settings or images"):
        train_swimdiff(data, replace(SHORT, seed=1), shape=SHAPE, state=state)


def test_each_term_alone_trains_and_the_other_is_not_computed() -> None:
    data, _ = drawn(3)
    _, contrast = train_swimdiff(data, replace(SHORT, diffusion_weight=0.0), shape=SHAPE)
    _, diffusion = train_swimdiff(data, replace(SHORT, contrast_weight=0.0), shape=SHAPE)
    assert (contrast[-1]["diffusion"], diffusion[-1]["contrast"]) == (0, 0)
    assert contrast[-1]["contrast"] > 0
    assert 0.3 < diffusion[-1]["diffusion"] < 2, "noise of variance 1, at first unpredicted"


def test_same_scene_keys_change_the_loss_only_where_a_scene_comes_twice() -> None:
    data, _ = drawn(1)  # 6 images in batches of 8: the queue soon holds every scene
    own, plain = (
        train_swimdiff(data, replace(SHORT, same_scene_negatives=same, diffusion_weight=0.0), shape=SHAPE)[1]
        for same in (False, True)
    )
    assert own[-1]["contrast"] < plain[-1]["contrast"], "fewer negatives"
    once, _ = drawn(4)  # 24 images in three batches of 8: an epoch, in which none comes twice
    same, other = (
        train_swimdiff(once, replace(SHORT, steps=3, same_scene_negatives=kept), shape=SHAPE)[1]
        for kept in (False, True)
    )
    assert same == other, "where a scene is one image, plain contrast has no false negatives before the next epoch"


def test_the_deviation_of_features_is_zero_for_equal_ones_and_one_at_most() -> None:
    assert float(spread(torch.ones(5, 8))) == pytest.approx(0, abs=1e-6)
    axes = torch.cat([torch.eye(64), -torch.eye(64)])
    assert float(spread(axes)) == pytest.approx(1, rel=1e-2)


def linear_probe(network: ResNet, few: int) -> float:
    """Accuracy of a logistic regression on features of other scenes, from `few` labelled ones of each class."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    found = []
    for data, labels in (drawn(few, first=200), drawn(25, first=300)):
        pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            found.append((network.features(pixels)[-1].mean(dim=(2, 3)).numpy(), labels))
    (known, labels), (asked, truth) = found
    scale = StandardScaler().fit(known)
    model = LogisticRegression(max_iter=2000).fit(scale.transform(known), labels)
    return float((model.predict(scale.transform(asked)) == truth).mean())


@pytest.mark.full
def test_a_short_training_improves_a_linear_probe() -> None:
    data, _ = drawn(30)
    training = SwimDiff(steps=120, batch=32, queue=128)
    trained, losses = train_swimdiff(data, training, shape=SHAPE)
    untrained, _ = train_swimdiff(data, replace(training, peak_rate=0.0), shape=SHAPE)  # with batch statistics as good
    assert losses[-1]["diffusion"] < 0.8 * losses[0]["diffusion"]
    assert losses[-1]["feature_std"] > 0.2, "no collapse"
    assert linear_probe(trained, 3) > linear_probe(untrained, 3) + 0.05


def test_the_folder_has_a_record_and_no_state_is_left(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", per_class=4)
    sources = Sources(data=(str(scenes),), resolution=SIDE, seed=3)
    training = replace(SHORT, steps=2, seed=3)
    made = pretrain_features(sources, tmp_path / "encoder", tmp_path / "state", training)
    record = json.loads((tmp_path / "encoder" / "features.json").read_text())
    assert record["seed"] == 3
    assert record["data"]["images"] == 18
    assert "classes" not in record["data"]
    assert record["losses"] == made["losses"]
    assert {"torch", "numpy"} <= set(record["versions"])
    assert str(tmp_path) not in json.dumps(record)
    assert list((tmp_path / "state").iterdir()) == []
    assert encoder_shape().widths[-1] == json.loads((tmp_path / "encoder" / "config.json").read_text())["widths"][-1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "--steps is 0: give at least 1"),
        ({"batch": 1}, "at least 2 images"),
        ({"batch": 9000}, "at most 4096"),
        ({"queue": 0}, "queue is 0: give at least 1 key"),
        ({"contrast_weight": 0.0, "diffusion_weight": 0.0}, "not both 0"),
        ({"diffusion_weight": -1.0}, "numbers of 0 or more"),
        ({"contrast_weight": NAN}, "numbers of 0 or more"),
        *(({"peak_rate": rate}, "--rate is .*: give a number of 0 or more") for rate in (-1e-3, INF, NAN)),
        *(({"weight_decay": decay}, "weight_decay is .*: give a number of 0 or more") for decay in (-1.0, INF, NAN)),
        *(({"momentum": share}, "momentum is .*: give 0 to below 1") for share in (-0.1, 1.0, NAN)),
        *(({"temperature": value}, "temperature is .*: give a number above 0") for value in (0.0, -1.0, INF, NAN)),
    ],
)
def test_settings_out_of_range(changes: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SwimDiff(**changes)  # type: ignore[arg-type]


def test_settings_at_the_ends_of_their_ranges_are_taken() -> None:
    SwimDiff(steps=1, batch=2, queue=2, peak_rate=0.0, weight_decay=0.0, momentum=0.0, contrast_weight=0.0)
