"""Matched codes: losses against sums over single images, prefixes, resumed runs, and where codes begin."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from dpd_runtime.sampler import BlockGuidance
from dpd_runtime.sampling import image_noise
from dpd_train.bases import load_base
from dpd_train.captions import embed as embed_prompts
from dpd_train.compute import Deadline, TimeUp, autocast
from dpd_train.config import WATCHER_STEPS
from dpd_train.loop import set_learning_rate
from dpd_train.matching import (
    BESIDE_PUBLISHED,
    FIRST,
    LATER,
    RIDGE,
    SHIFT,
    Matching,
    Standard,
    Statistics,
    Watcher,
    Weights,
    attention_shapes,
    embed,
    features_of,
    gaussian_codes,
    match_codes,
    measure,
    moment_losses,
    own_watchers,
    residual_shapes,
    ridge_loss,
    seeing,
    shifted,
    starting_codes,
    view_seed,
)
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.run import STORED
from dpd_train.symmetry import ORDER, d4
from tests.tiny import tiny_base

RECIPES = Path(__file__).parents[3] / "recipes"
CLASSES, WIDTH, SIDE = 3, 7, 16
CPU = torch.device("cpu")


def statistics_of(features: list[torch.Tensor]) -> Statistics:
    """Of standardised features [n_c, F] of each class."""
    return Statistics(
        standard=Standard(torch.zeros(WIDTH), torch.ones(WIDTH)),
        class_means=torch.stack([z.mean(0) for z in features]),
        class_deviations=torch.stack([z.std(0) for z in features]),
        second_moment=torch.stack([z.T @ z / len(z) for z in features]).mean(0),
    )


def drawn(counts: tuple[int, ...], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [label + torch.randn(count, WIDTH, generator=generator) for label, count in enumerate(counts)]


def test_ridge_loss_is_the_error_of_sklearns_regression_on_every_image() -> None:
    from sklearn.linear_model import Ridge

    images, few = drawn((50, 20, 90), 0), torch.stack(drawn((4, 4, 4), 1))
    targets = np.eye(CLASSES) - 1 / CLASSES
    model = Ridge(alpha=RIDGE * WIDTH, fit_intercept=False)
    model.fit(few.flatten(0, 1).numpy(), targets.repeat(4, axis=0))
    errors = [np.square(model.predict(z.numpy()) - targets[c]).sum(axis=1).mean() for c, z in enumerate(images)]
    expected = np.mean(errors) / (1 - 1 / CLASSES)
    assert float(ridge_loss(few, statistics_of(images))) == pytest.approx(expected, rel=1e-4)


def test_moment_losses_vanish_for_the_images_themselves_and_tell_mean_from_spread() -> None:
    images = drawn((30, 30, 30), 2)
    statistics, same = statistics_of(images), torch.stack(images)
    assert [float(loss) for loss in moment_losses(same, statistics)] == pytest.approx([0, 0], abs=1e-6)
    means, deviations = moment_losses(same + 0.5, statistics)
    assert (float(means), float(deviations)) == pytest.approx((0.25, 0), abs=1e-5)
    centre = same.mean(1, keepdim=True)
    means, deviations = moment_losses(centre + 2 * (same - centre), statistics)
    assert float(means) == pytest.approx(0, abs=1e-6)
    assert float(deviations) == pytest.approx(float(statistics.class_deviations.square().mean()), rel=1e-3)


def test_a_class_of_one_image_has_a_gradient() -> None:
    one = torch.stack(drawn((1, 1, 1), 3)).requires_grad_()
    means, deviations = moment_losses(one, statistics_of(drawn((9, 9, 9), 4)))
    (means + deviations + ridge_loss(one, statistics_of(drawn((9, 9, 9), 4)))).backward()  # type: ignore[no-untyped-call]
    assert one.grad is not None
    assert bool(one.grad.isfinite().all())


def network(seed: int = 0) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = ResNetConfig(num_classes=CLASSES, widths=(8, 12), blocks=(1, 1), stem_stride=1)
        return ResNet(shape).eval().requires_grad_(False)


def coloured(per_class: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one colour each, [n, 3, SIDE, SIDE], of classes that differ by it: D4 leaves them as they are."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    colours = 0.5 * (labels[:, None] - 1) + 0.1 * torch.randn(len(labels), 3, generator=generator)
    return colours[:, :, None, None].expand(-1, -1, SIDE, SIDE).contiguous(), labels


def test_measured_statistics_are_those_of_the_features() -> None:
    images, labels = coloured(20, 0)
    model = network()
    found = measure(features_of(model), images, labels, CLASSES, 5, CPU)
    with autocast("cpu"):
        features = embed(model.features(images))
    z = found.standard(features)
    assert z.mean(0).abs().max() < 1e-3
    for label in range(CLASSES):
        own = z[labels == label]
        torch.testing.assert_close(found.class_means[label], own.mean(0), atol=1e-3, rtol=1e-3)
    balanced = torch.stack([z[labels == c].T @ z[labels == c] / 20 for c in range(CLASSES)]).mean(0)
    torch.testing.assert_close(found.second_moment, balanced, atol=1e-3, rtol=1e-2)


def test_statistics_are_of_all_symmetries_and_shifts() -> None:
    """A bright edge looks otherwise to a network where a shift moves it: statistics without shifts miss their mean."""
    images = torch.zeros(60, 3, SIDE, SIDE)
    images[..., 0] = 1.0
    images += 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    model, reach = network(), range(-(SIDE // SHIFT), SIDE // SHIFT + 1)
    turned = [d4(images, element) for element in range(ORDER)]
    unshifted = embed(model.features(torch.cat(turned))).mean(0)
    everywhere = [shifted(view, down, right) for view in turned for down in reach for right in reach]
    wanted = embed(model.features(torch.cat(everywhere))).mean(0)
    found = measure(features_of(model), images, torch.arange(60) % CLASSES, CLASSES, 5, CPU).standard.mean
    assert (found - wanted).norm() < 0.3 * (unshifted - wanted).norm()


def test_no_two_runs_share_the_seed_of_a_watcher_or_of_its_views() -> None:
    seeds = [watcher.training.seed for run in range(9) for watcher in own_watchers(CLASSES, run)]
    numbers = range(len(seeds) // 9)
    seeds += [view_seed(run, number) for run in range(9) for number in numbers]
    assert len(set(seeds)) == len(seeds) == 9 * 2 * len(numbers)


def test_beside_published_networks_each_shape_watches_once_and_the_lengths_are_all_there() -> None:
    every = own_watchers(CLASSES, 0)
    few = [every[number] for number in BESIDE_PUBLISHED]
    assert [watcher.shape for watcher in few] == [*residual_shapes(CLASSES), *attention_shapes(CLASSES)]
    assert {watcher.training.steps for watcher in few} >= {40, 150, WATCHER_STEPS, 2000}
    assert any(watcher.logits for watcher in few)


def decode(codes: torch.Tensor) -> torch.Tensor:
    """[n, 3, 4, 4] → [n, 3, SIDE, SIDE]."""
    return torch.tanh(F.interpolate(codes, scale_factor=SIDE // 4))


@pytest.fixture(scope="module")
def watchers() -> list[Watcher]:
    images, labels = coloured(40, 1)
    return [
        Watcher(seeing(m, logits=False), measure(features_of(m), images, labels, CLASSES, 6, CPU))
        for m in map(network, (1, 2))
    ]


def start(count: int) -> torch.Tensor:
    return torch.randn((CLASSES, count, 3, 4, 4), generator=torch.Generator().manual_seed(7))


def test_codes_take_on_the_colours_of_their_classes(watchers: list[Watcher], tmp_path: Path) -> None:
    begun = start(10)
    codes = match_codes(begun, decode, watchers, Matching(steps=150, rate=0.2), state=tmp_path / "state")
    wanted = 0.5 * (torch.arange(CLASSES) - 1.0)[:, None]

    def away(found: torch.Tensor) -> float:
        return float((decode(found.flatten(0, 1)).mean((2, 3)).view(CLASSES, -1, 3).mean(1) - wanted).abs().mean())

    assert away(begun) > 0.3
    assert away(codes) < 0.1


@pytest.mark.parametrize("views", [None, 1])
def test_codes_follow_the_gradient_of_the_published_sum(views: int | None, tmp_path: Path) -> None:
    """Of images of one colour, which every view leaves as they are: two blocks, by Adam on the loss written out."""
    images, labels = coloured(40, 1)
    seen = [seeing(m, logits=logits) for m, logits in ((network(1), True), (network(2), False))]
    watchers = [
        Watcher(
            s, measure(features_of(network(i + 1)), images, labels, CLASSES, 6, CPU), earlier_views=views if i else None
        )
        for i, s in enumerate(seen)
    ]
    first = Weights(means=2.0, deviations=3.0, ridge=0.7, opinion=0.9, near_start=40.0)
    later = Weights(means=0.6, deviations=5.0, ridge=1.3, opinion=1.7, near_start=20.0)
    begun = torch.randn((CLASSES, 12, 3, 1, 1), generator=torch.Generator().manual_seed(7))

    def one_colour(codes: torch.Tensor) -> torch.Tensor:
        return torch.tanh(codes).expand(-1, -1, SIDE, SIDE)

    matching = Matching(steps=3, rate=0.1, first=first, later=later)
    found = match_codes(begun, one_colour, watchers, matching, state=tmp_path / "state")
    wanted = begun.clone()
    for start, end, weights in ((0, 10, first), (10, 12, later)):
        free = wanted[:, start:end].clone().requires_grad_()
        adam = torch.optim.Adam([free], betas=(0.9, 0.95))
        for step in range(3):
            losses = []
            for watcher in watchers:
                features, logits = watcher.see(one_colour(torch.cat([wanted[:, :start], free], 1).flatten(0, 1)))
                of_classes = watcher.statistics.standard(features).view(CLASSES, end, -1)
                means, deviations = moment_losses(of_classes, watcher.statistics)
                loss = weights.means * means + weights.deviations * deviations
                loss = loss + weights.ridge * ridge_loss(of_classes, watcher.statistics)
                if logits is not None:
                    named = logits.float().log_softmax(1).view(CLASSES, end, CLASSES)[:, start:]
                    loss = loss - weights.opinion * torch.stack([named[c, :, c] for c in range(CLASSES)]).mean()
                losses.append(loss)
            far = (free - begun[:, start:end]).square().mean()
            adam.param_groups[0]["lr"] = 0.1 * (0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * step / 3)))
            adam.zero_grad()
            (sum(losses) / 2 + weights.near_start * far).backward()  # type: ignore[union-attr]
            adam.step()
        wanted[:, start:end] = free.detach()
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)
    assert (found - begun).abs().min() > 0.02


def test_the_weights_are_those_of_the_page() -> None:
    """docs/reference/training-method.md says them to who implements the method."""
    path = Path(__file__).parents[3] / "docs/reference/training-method.md"
    page = " ".join(path.read_text(encoding="utf-8").split())
    assert f"+ {FIRST.opinion} cross-entropy under trained watchers, + {FIRST.near_start} the squared distance" in page
    assert f"From the second ten on, means and deviations weigh {LATER.means:g}" in page
    assert replace(FIRST, means=10, deviations=10) == LATER


def test_a_later_block_leaves_the_earlier_ones_alone_and_completes_them(
    watchers: list[Watcher], tmp_path: Path
) -> None:
    matching, begun = Matching(steps=6), start(13)
    ten = match_codes(begun[:, :10], decode, watchers, matching, state=tmp_path / "ten")
    more = match_codes(begun, decode, watchers, matching, state=tmp_path / "more")
    assert torch.equal(more[:, :10], ten)
    alone = match_codes(begun[:, 10:], decode, watchers, matching, state=tmp_path / "alone")
    assert not torch.allclose(more[:, 10:], alone, atol=1e-3)
    assert not torch.allclose(more[:, 10:], begun[:, 10:], atol=1e-3)


def test_later_blocks_make_the_whole_set_a_picture_of_the_classes(watchers: list[Watcher], tmp_path: Path) -> None:
    begun = start(20)

    def away(later: Weights) -> float:
        """Mean squared differences of class means and deviations, of all codes in the watchers' features."""
        matching = Matching(steps=40, rate=0.1, later=later)
        codes = match_codes(begun, decode, watchers, matching, state=tmp_path / f"{later.means}")
        images = decode(codes.flatten(0, 1))
        total = 0.0
        for watcher in watchers:
            z = watcher.statistics.standard(watcher.see(images)[0])
            total += sum(map(float, moment_losses(z.view(CLASSES, 20, -1), watcher.statistics)))
        return total

    assert away(LATER) < 0.8 * away(FIRST)


@pytest.mark.parametrize(
    "extra", [pytest.param((), marks=pytest.mark.full), pytest.param((5,), marks=pytest.mark.full), (4, 5)]
)
def test_four_different_watchers_look_at_each_decoded_image(extra: tuple[int, ...], tmp_path: Path) -> None:
    images, labels = coloured(40, 1)
    networks = list(map(network, range(6)))
    watchers = [
        Watcher(seeing(m, logits=i > 2), measure(features_of(m), images, labels, CLASSES, 6, CPU), i in extra)
        for i, m in enumerate(networks)
    ]
    seen: list[list[int]] = []
    for number, watched in enumerate(networks):
        watched.stem.register_forward_pre_hook(lambda *_, number=number: seen[-1].append(number))

    def counted(codes: torch.Tensor) -> torch.Tensor:
        seen.append([])
        return decode(codes)

    match_codes(start(2), counted, watchers, Matching(steps=5), state=tmp_path / "state")
    assert [len(set(step)) for step in seen] == [4] * 5
    assert [len(step) for step in seen] == [4] * 5
    assert len({number for step in seen for number in step}) > 4
    assert [len(set(step) & set(extra)) for step in seen] == [min(1, len(extra))] * 5


def test_watchers_that_join_late_see_the_last_steps_of_each_block_and_the_rate_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of six steps are the last two; of one step it is that one."""
    images, labels = coloured(40, 1)
    networks = list(map(network, range(3)))
    watchers = [
        Watcher(seeing(m, logits=False), measure(features_of(m), images, labels, CLASSES, 6, CPU), *late)
        for m, late in zip(networks, ((), (), (True, 1 / 3)), strict=True)
    ]
    seen: list[int] = []
    networks[2].stem.register_forward_pre_hook(lambda *_: seen.append(len(rates)))
    rates: list[float] = []

    def told(optimizer: torch.optim.Optimizer, rate: float) -> None:
        rates.append(rate)
        set_learning_rate(optimizer, rate)

    monkeypatch.setattr("dpd_train.loop.set_learning_rate", told)
    match_codes(start(11), decode, watchers, Matching(steps=6, rate=1.0), state=tmp_path / "state")
    assert sorted({number - 1 for number in seen}) == [4, 5, 10, 11]
    falling = [[0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * i / n)) for i in range(n)] for n in (4, 2)]
    np.testing.assert_allclose(rates, [*falling[0], *falling[1]] * 2)
    seen.clear()
    match_codes(start(2), decode, watchers, Matching(steps=1), state=tmp_path / "short")
    assert seen


def test_earlier_blocks_are_looked_at_once_in_each_of_a_few_views(tmp_path: Path) -> None:
    """A published network takes as long for the forty images of four blocks as for the ten that are matched."""
    images, labels = coloured(40, 1)
    model, looks = network(1), list[int]()

    def see(images: torch.Tensor) -> tuple[torch.Tensor, None]:
        looks.append(0 if images.requires_grad else len(images))
        return features_of(model)(images), None

    statistics = measure(features_of(model), images, labels, CLASSES, 6, CPU)
    watcher = Watcher(see, statistics, earlier_views=4)
    match_codes(start(21), decode, [watcher], Matching(steps=6), state=tmp_path / "state")
    assert [look for look in looks if look] == [*[10 * CLASSES] * 4, *[20 * CLASSES] * 4]


@pytest.mark.parametrize("views", [None, 2])
def test_sessions_of_one_step_end_where_an_uninterrupted_run_does(
    views: int | None, watchers: list[Watcher], tmp_path: Path
) -> None:
    watchers = [replace(watcher, earlier_views=views) for watcher in watchers]
    matching, begun = Matching(steps=2), start(11)
    whole = match_codes(begun, decode, watchers, matching, state=tmp_path / "whole")
    stops = []
    while True:
        try:
            cut = match_codes(begun, decode, watchers, matching, state=tmp_path / "cut", deadline=Deadline(0))
            break
        except TimeUp as stop:
            stops.append((stop.step, stop.steps))
    assert stops == [(1, 4), (2, 4), (3, 4)]
    assert torch.equal(whole, cut)


@pytest.mark.skipif(not RECIPES.is_dir(), reason="the recipes are not beside the tests")
def test_codes_that_the_recipe_kept_are_where_another_machine_goes_on(watchers: list[Watcher], tmp_path: Path) -> None:
    codes = runpy.run_path(str(RECIPES / "codes.py"))
    matching, begun = Matching(steps=4), start(21)
    whole = match_codes(begun, decode, watchers, matching, state=tmp_path / "whole")
    run, other = tmp_path / "run", tmp_path / "other"
    state = run / "checkpoints" / "matching.safetensors"
    state.parent.mkdir(parents=True)
    (run / STORED).write_text(json.dumps({"config": {"matching_steps": 4}}))
    save_file({"codes": begun}, run / "checkpoints" / "start.safetensors")
    for done in range(1, 7):  # 6 of 12 steps: one block, and half of the next
        with pytest.raises(TimeUp, match=f"{done}"):
            match_codes(begun, decode, watchers, matching, state=state, deadline=Deadline(0))
    assert codes["keep"](run, tmp_path / "codes.safetensors") == 10
    assert load_file(tmp_path / "codes.safetensors")["codes"].shape[:2] == (begun.shape[0], 10)
    starts = other / "checkpoints" / "start.safetensors"
    made = f"import shutil, time; from pathlib import Path; Path({str(starts.parent)!r}).mkdir(parents=True)"
    copied = f"shutil.copy({str(run / 'checkpoints' / 'start.safetensors')!r}, {str(starts)!r})"
    stored = f"shutil.copy({str(run / STORED)!r}, {str(other / STORED)!r})"
    begins = [sys.executable, "-c", f"{made}; {stored}; {copied}; time.sleep(60)"]
    codes["begin"](tmp_path / "codes.safetensors", other, begins)
    again = match_codes(begun, decode, watchers, matching, state=other / "checkpoints" / "matching.safetensors")
    assert torch.equal(again[:, :10], whole[:, :10].half().float())
    assert float((again - whole).abs().mean()) < 2e-3 < 0.1 * float((begun - whole).abs().mean())
    with pytest.raises(SystemExit, match="none has no starting codes"):
        codes["begin"](tmp_path / "codes.safetensors", tmp_path / "none", ["false"])
    with pytest.raises(SystemExit, match="the matching has not begun"):
        codes["keep"](tmp_path / "none", tmp_path / "codes.safetensors")


def test_codes_begin_as_the_clearest_of_the_models_own_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny_base(tmp_path)))
    channels, side = base.unet.config.in_channels, base.unet.config.sample_size
    judge = ResNet(ResNetConfig(num_classes=2, in_channels=channels, widths=(8,), blocks=(1,), stem_stride=1)).eval()
    prompts = embed_prompts(base.text_encoder, base.tokenizer, ["river", "forest", ""])
    seen: list[BlockGuidance] = []

    def as_it_is(denoise: object, noise: np.ndarray, *rest: object) -> np.ndarray:  # type: ignore[type-arg]
        seen.append(rest[-1])  # type: ignore[arg-type]
        return noise

    monkeypatch.setattr("dpd_train.matching.sample", as_it_is)
    codes = starting_codes(base, judge, ("a", "b"), prompts, 4, seed=9)
    assert codes.shape == (2, 4, channels, side, side)
    assert all(guidance.guidance_scale > 1 for guidance in seen)
    for index in range(4):
        noise = np.stack([image_noise(9, "b", index, c, (channels, side, side), 0, 1.2)[0] for c in range(3)])
        with torch.no_grad():
            logits = judge(torch.from_numpy(noise))
        best = int((logits[:, 1] - logits[:, 0]).argmax())
        np.testing.assert_allclose(codes[1, index], noise[best], rtol=0, atol=0)


def test_noise_that_codes_start_from_has_the_mean_and_the_spectrum_of_its_class() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(60, 2, 24, 24, generator=generator), 5, stride=1)[..., :16, :16]
    rough = torch.randn(60, 2, 16, 16, generator=generator)
    rough[:, 1] = 0.6 * rough[:, 1] - 0.8 * rough[:, 0]
    latents = torch.cat([3 + 2 * smooth, rough])
    codes = gaussian_codes(latents, torch.arange(2).repeat_interleave(60), 2, 400, 1)
    assert codes.shape == (2, 400, 2, 16, 16)
    for own, made in zip(latents.split(60), codes, strict=True):
        torch.testing.assert_close(made.mean((0, 2, 3)), own.mean((0, 2, 3)), atol=0.02, rtol=0)
        mean = own.mean((0, 2, 3), keepdim=True)
        power, wanted = (torch.fft.fft2(values - mean).abs().square().mean(0) for values in (made, own))
        assert (power / wanted - 1).abs().max() < 0.5  # 400 draws, 1,000 frequencies
        assert (power / wanted).mean() == pytest.approx(1, abs=0.02)
    again = gaussian_codes(latents, torch.arange(2).repeat_interleave(60), 2, 400, 1)
    assert torch.equal(codes, again)
    for made, wanted in zip(codes, (0.0, -0.8), strict=True):  # how the two channels go together
        a, b = (made[:, channel] - made[:, channel].mean() for channel in range(2))
        assert float((a * b).mean() / (a.std() * b.std())) == pytest.approx(wanted, abs=0.05)
    nearest = torch.cdist(codes[0].flatten(1), latents[:60].flatten(1)).min()
    assert nearest > 0.5 * torch.cdist(latents[:60].flatten(1), latents[:60].flatten(1)).median()  # none is an image
