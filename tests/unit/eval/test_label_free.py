"""Extractors that know no labels: `swimdiff:FOLDER` has statistics of its encoder's stages, `mdfl` three branches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dpd_eval.extractor_choice import build_extractor, check_name
from dpd_eval.nearness import further_space
from dpd_eval.selection import select
from dpd_neighbours.mdfl import (
    QUANTILES,
    RINGS,
    SEED,
    TIMESTEPS,
    BranchScales,
    branch_scales,
    channel_statistics,
    middle_maps,
    ring_amplitudes,
)
from dpd_neighbours.swimdiff.folder import save_encoder
from dpd_runtime.annotations import Images
from dpd_runtime.errors import InputError
from dpd_train.bases import load_base
from dpd_train.captions import embed
from dpd_train.drawn_scenes import CLASSES, numbered_scene
from dpd_train.encoders import open_encoder
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.scene_set import SceneSet
from dpd_train.symmetry import ORDER, d4, orbit, similarities
from tests.tiny import SIDE, tiny_base

LABELS = np.repeat(np.arange(3), 4)
IMAGES: Images = np.stack([numbered_scene(label, i, 0, SIDE) for i, label in enumerate(LABELS.tolist())])
TRAIN = SceneSet(CLASSES[:3], IMAGES, LABELS, (), ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with random weights."""
    place = tmp_path_factory.mktemp("made") / "encoder"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_encoder(
            ResNet(ResNetConfig(num_classes=4, widths=(4, 8, 16), blocks=(1, 1, 1))), place, {"resolution": SIDE}
        )
    return place


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def channels_first(images: Images) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


# swimdiff:FOLDER


def test_features_of_an_encoder_are_statistics_of_its_stages(folder: Path) -> None:
    extractor = build_extractor(f"swimdiff:{folder}", TRAIN)
    network, pixels = open_encoder(f"swimdiff:{folder}").load(), channels_first(IMAGES) / 127.5 - 1
    views = []
    for flipped in (pixels, pixels.flip(3)):
        for turns in range(4):
            with torch.no_grad():
                stem = network.stem(torch.rot90(flipped, turns, (2, 3)))
                stages = [network.stages[0](stem)]
                stages.append(network.stages[1](stages[0]))  # the last stage, stages[2], is left out
            views.append(np.concatenate([f(s.numpy(), axis=(2, 3)) for s in stages for f in (np.mean, np.std)], axis=1))
    np.testing.assert_allclose(extractor.features(IMAGES), np.mean(views, axis=0), atol=1e-5)
    assert (extractor.classes, extractor.classify(IMAGES)) == (None, None)
    said = "swimdiff:encoder: ResNet 4-8-16 trained without labels at 32 px, means and deviations of all stages but the"
    assert extractor.description.startswith(f"{said} last [24]")
    assert str(folder.parent) not in extractor.description


def test_features_of_an_encoder_do_not_know_which_way_is_up(folder: Path) -> None:
    extractor = build_extractor(f"swimdiff:{folder}", TRAIN)
    upright = extractor.features(IMAGES)
    for turned in (IMAGES[:, ::-1], IMAGES[:, :, ::-1], np.rot90(IMAGES, axes=(1, 2))):
        np.testing.assert_allclose(extractor.features(turned), upright, atol=1e-5)
    assert extractor.symmetric


def test_an_audit_embeds_one_view_of_an_image_where_eight_would_be_the_same(folder: Path) -> None:
    space = further_space(build_extractor(f"swimdiff:{folder}", TRAIN))
    rows, turned = space.embed(IMAGES), np.ascontiguousarray(np.rot90(IMAGES, axes=(1, 2)))
    found, eight = space.orbit(turned), orbit(turned, space.embed)
    assert (found.shape[:2], eight.shape[:2]) == ((12, 1), (12, 8))
    np.testing.assert_allclose(similarities(found, rows), similarities(eight, rows), atol=1e-5)


def test_images_larger_than_an_encoder_knows_are_reduced(folder: Path) -> None:
    extractor = build_extractor(f"swimdiff:{folder}", TRAIN)
    flat = np.full((1, 3 * SIDE, 3 * SIDE, 3), 90, np.uint8)
    np.testing.assert_allclose(extractor.features(flat), extractor.features(flat[:, :SIDE, :SIDE]), atol=1e-4)


# mdfl


def test_mdfl_has_three_branches_of_equal_weight(base: Path) -> None:
    extractor = build_extractor(f"mdfl:{base}", TRAIN)
    features = extractor.features(IMAGES)
    widths = (len(TIMESTEPS) * 16 * 4, 24, 3 * RINGS)
    assert features.shape == (12, sum(widths))
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)
    for branch in np.split(features, np.cumsum(widths)[:-1], axis=1):
        assert np.square(branch).sum(axis=1).mean() == pytest.approx(1, rel=0.02)
    for said in ("spatial [192]", "spectral [24]", "frequency [24]", "standardised on 12 training images"):
        assert said in extractor.description
    assert str(base.parent) not in extractor.description


def test_mdfl_of_an_image_depends_on_nothing_else(base: Path) -> None:
    first, again = (build_extractor(f"mdfl:{base}", TRAIN) for _ in range(2))
    torch.manual_seed(5)
    together = first.features(IMAGES)
    np.testing.assert_array_equal(together, again.features(IMAGES))
    np.testing.assert_allclose(first.features(IMAGES[7:8]), together[7:8], atol=1e-4)
    other = build_extractor(f"mdfl:{base}", replace(TRAIN, images=IMAGES[:6], labels=LABELS[:6]))
    assert np.abs(other.features(IMAGES) - together).max() > 0.01, "it is standardised on other images"


def test_the_middle_maps_are_those_of_a_walk_through_the_unet(base: Path) -> None:
    """conv_in, the down blocks and the middle block, called one by one, as the UNet's forward does."""
    opened = load_base(str(base))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(SEED)
    unet, table = opened.unet, opened.scheduler.alphas_cumprod
    prompt = embed(opened.text_encoder, opened.tokenizer, [""]).expand(2, -1, -1)
    found = middle_maps(opened, latents)
    assert len(found) == len(TIMESTEPS)
    with torch.no_grad():
        for timestep, values in zip(TIMESTEPS, found, strict=True):
            noise = torch.randn(4, 8, 8, generator=generator)
            noisy = table[timestep].sqrt() * latents + (1 - table[timestep]).sqrt() * noise
            time = unet.time_embedding(unet.time_proj(torch.tensor([timestep, timestep])))
            hidden = unet.conv_in(noisy)
            for block in unet.down_blocks:
                context = {"encoder_hidden_states": prompt} if getattr(block, "has_cross_attention", False) else {}
                hidden, _ = block(hidden_states=hidden, temb=time, **context)
            expected = unet.mid_block(hidden, time, encoder_hidden_states=prompt)
            torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)
    assert not unet.mid_block._forward_hooks, "the hook is gone"


@pytest.mark.parametrize(("across", "down"), [(3, 0), (0, 5), (4, 3), (10, 10), (31, 0)])
def test_the_energy_of_a_sine_lies_in_one_ring(across: int, down: int) -> None:
    side = 64
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    wave = 0.5 + 0.3 * np.sin(2 * np.pi * (across * x + down * y) / side)
    rings = ring_amplitudes(torch.from_numpy(np.stack([wave, 0 * wave, wave])).float()[None])
    expected = int(np.hypot(across, down) / side * 2 * RINGS)
    assert rings.shape == (1, 3, RINGS)
    assert int(rings[0, 0].argmax()) == expected
    assert float(rings[0, 0].sum() - rings[0, 0, expected]) < 1e-3 * float(rings[0, 0, expected])
    assert float(rings[0, 1].abs().max()) == 0, "the mean is left out, and this band is empty"
    # two of the frequencies have an amplitude of 0.3 · side / 2 each; a ring's value is the mean over its frequencies
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    members = (np.minimum((radius * 2 * RINGS).astype(int), RINGS - 1) == expected) & (radius > 0)
    assert float(rings[0, 0, expected]) == pytest.approx(0.3 * side / members.sum(), rel=1e-3)


def test_rings_and_statistics_do_not_know_which_way_is_up() -> None:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for element in range(ORDER):
        turned = d4(pixels, element)
        torch.testing.assert_close(ring_amplitudes(turned), ring_amplitudes(pixels), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(channel_statistics(turned), channel_statistics(pixels), atol=1e-5, rtol=1e-4)
    shifted = pixels.roll((3, 5), (2, 3))
    torch.testing.assert_close(ring_amplitudes(shifted), ring_amplitudes(pixels), atol=1e-4, rtol=1e-4)
    smooth = F.avg_pool2d(pixels, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert float((ring_amplitudes(smooth) - ring_amplitudes(pixels)).abs().max()) > 0.05  # control


def test_statistics_of_bands_are_those_of_numpy() -> None:
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = channel_statistics(pixels).numpy()
    for image, row in zip(pixels.numpy(), found, strict=True):
        bands = image.reshape(3, -1)
        covariance = np.cov(bands, bias=True)
        expected = [bands.mean(1), bands.std(1), np.quantile(bands, QUANTILES, axis=1).T.ravel()]
        expected.append(np.array([covariance[0, 1], covariance[0, 2], covariance[1, 2]]))
        np.testing.assert_allclose(row, np.concatenate(expected), atol=1e-5)


def test_a_feature_that_is_the_same_everywhere_is_zero() -> None:
    branches = (torch.ones(3, 2), torch.tensor([[0.0], [1.0], [2.0]]), torch.ones(3, 1))
    standard = branch_scales(branches)
    assert isinstance(standard, BranchScales)
    joined = standard.join(branches)
    expected = np.array([-1, 0, 1]) / np.std([0, 1, 2])
    np.testing.assert_allclose(
        joined.numpy(), np.stack([0 * expected, 0 * expected, expected, 0 * expected], 1), atol=1e-6
    )


# Names.


def test_herding_works_in_every_space(folder: Path, base: Path) -> None:
    for name in (f"swimdiff:{folder}", f"mdfl:{base}"):
        features = build_extractor(name, TRAIN).features(IMAGES)
        for method in ("herding", "k-means", "k-center"):
            rows = select(method, TRAIN, 2, 0, features)
            assert LABELS[rows].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swimdiff:", "there are own, untrained, mdfl, swimdiff:FOLDER and hf:ID_OR_PATH"),
        ("swimdiff", "there are own, untrained, mdfl, swimdiff:FOLDER and hf:ID_OR_PATH"),
        ("mdfl:", "there are own"),
        ("mdflx", "there are own"),
        ("swimdiff:nowhere", "swimdiff:nowhere: no such folder; make it: dpd swimdiff"),
        ("mdfl:no where", "base 'no where': no such folder"),
    ],
)
def test_names_that_cannot_be_used(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_name(name)
