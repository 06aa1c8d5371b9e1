"""The pool that a base learns from: crops are the regions they say, validation stays out, draws go by the shares."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpd_runtime.errors import InputError
from dpd_train.bases import load_base, nano_vae
from dpd_train.classifiers import ClassifierTraining, train_classifier
from dpd_train.compute import draw_rows
from dpd_train.denoiser import DenoiserTraining, LatentData, train_denoiser
from dpd_train.drawn_scenes import CLASSES, write_scenes
from dpd_train.networks import ResNetConfig
from dpd_train.pool import Pool, Sources, read_pool
from dpd_train.pretrain import PretrainConfig, pretrain
from dpd_train.reading import HeldOut
from dpd_train.scene_set import Crops, crop_boxes, fingerprint, multi_scale
from dpd_train.scenes import read_scenes
from dpd_train.vae import AutoencoderTraining, train_autoencoder
from tests.painted import tree
from tests.tiny import SIDE, drawn_scenes, latent_data, tiny_base

LARGE = 4 * SIDE


def _maps(root: Path, count: int = 4) -> Path:
    """Pixels that say where they are (red: column, green: row) and which image it is (blue)."""
    column, row = np.meshgrid(np.arange(LARGE), np.arange(LARGE))
    for label, name in enumerate(("Alpha", "Gamma")):
        (root / name).mkdir(parents=True)
        for index in range(count):
            blue = np.full_like(row, 100 * label + 10 * index)
            Image.fromarray(np.stack([column, row, blue], -1).astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def _pool(tmp_path: Path, **changes: object) -> Pool:
    """Two small folders of 8 px flat images and 128 px maps with a class name in common, and drawn scenes."""
    small, large = tree(tmp_path / "small" / "train", count=6), _maps(tmp_path / "large")
    data = (str(small), str(large), "drawn:4")
    sources = Sources(data=data, resolution=SIDE, val_per_class=(2, 1, 1), crops=Crops(middle=2, native=3))
    sources = replace(sources, split="names")  # the maps are near duplicates
    return read_pool(replace(sources, **changes))


def test_a_single_folder_is_read_and_drawn_from_as_ever(tmp_path: Path) -> None:
    root = tree(tmp_path, count=6)
    pool = read_pool(Sources(data=(str(root),), resolution=8, val_per_class=2, split="names"))
    for part, found in (("train", pool.train), ("val", pool.held)):
        wanted = read_scenes(root, part=part, resolution=8, held_out=HeldOut(val_per_class=2, split="names"))
        assert np.array_equal(found.images, wanted.images)
        assert (found.hashes, found.paths, found.classes) == (wanted.hashes, wanted.paths, wanted.classes)
    assert pool.weights is None
    assert pool.record == fingerprint(pool.train)
    rows = draw_rows(1000, 64, None, torch.Generator().manual_seed(3))
    assert torch.equal(rows, torch.randint(1000, (64,), generator=torch.Generator().manual_seed(3)))


def test_a_crop_is_the_region_that_its_box_says(tmp_path: Path) -> None:
    scenes = read_scenes(_maps(tmp_path), part="all", resolution=LARGE)
    crops = Crops(middle=2, native=3)
    found, levels, of_image = multi_scale(scenes, SIDE, seed=5, crops=crops)
    boxes = [crop_boxes(LARGE, SIDE, digest, 5, crops) for digest in scenes.hashes]
    flat = [(row, box) for row, of_image in enumerate(boxes) for level in of_image for box in level]
    assert len(flat) == len(found.images) == 8 * (1 + 2 + 3)
    assert of_image.tolist() == [row for row, _ in flat]
    for (row, (left, top, side)), image, level in zip(flat, found.images, levels, strict=True):
        step = side / SIDE
        assert step == (4, 2, 1)[level]
        centres = step * np.arange(SIDE) + (step - 1) / 2  # of a reduced pixel, in pixels of the map
        inner = slice(3, -3) if step > 1 else slice(None)  # Lanczos reaches over the border
        assert np.abs(image[:, inner, 0] - (left + centres)[None, inner]).max() <= 1
        assert np.abs(image[inner, :, 1] - (top + centres)[inner, None]).max() <= 1
        assert set(image[..., 2].flat) == {scenes.images[row, 0, 0, 2]}
        if step == 1:
            assert np.array_equal(image, scenes.images[row, top : top + side, left : left + side])


def test_the_whole_of_an_image_is_what_the_reader_makes_of_it(tmp_path: Path) -> None:
    root = _maps(tmp_path)
    found, levels, _ = multi_scale(read_scenes(root, part="all", resolution=LARGE), SIDE, 0, Crops())
    wanted = read_scenes(root, part="all", resolution=SIDE)
    assert np.array_equal(found.images[levels == 0], wanted.images)
    assert np.array_equal(found.labels[levels == 0], wanted.labels)
    assert tuple(np.array(found.hashes)[levels == 0]) == wanted.hashes


def test_crops_depend_on_seed_and_image_alone_and_have_hashes_of_their_own(tmp_path: Path) -> None:
    scenes = read_scenes(_maps(tmp_path), part="all", resolution=LARGE)
    found, _, _ = multi_scale(scenes, SIDE, 0, Crops())
    alone, _, _ = multi_scale(scenes.only([6]), SIDE, 0, Crops())
    each = len(found.hashes) // 8
    assert np.array_equal(alone.images, found.images[6 * each : 7 * each])
    assert alone.hashes == found.hashes[6 * each : 7 * each]
    pixels = {image.tobytes() for image in found.images}
    assert len(set(found.hashes)) == len(found.hashes) == len(pixels)  # none of these maps' crops is another one
    other, _, _ = multi_scale(scenes, SIDE, 1, Crops())
    same = [a == b for a, b in zip(found.hashes, other.hashes, strict=True)]
    assert sum(same) == 8  # the whole images


@pytest.mark.parametrize(
    ("side", "scales"),
    [(8, [8]), (20, [20]), (SIDE, [SIDE]), (LARGE, [128, 64, 32]), (100, [100, 50, 32]), (40, [40, 32])],
)
def test_scales_are_halves_down_to_native_pixels(side: int, scales: list[int]) -> None:
    levels = crop_boxes(side, SIDE, "0" * 64, 0, Crops())
    assert [{box[2] for box in level} for level in levels] == [{scale} for scale in scales]
    assert all(0 <= left <= side - size and 0 <= top <= side - size for level in levels for left, top, size in level)


def test_no_validation_image_is_in_the_pool_nor_any_crop_of_one(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    assert list(pool.held_of) == ["small", "large", "drawn"]
    blues = {}
    for part, scenes in (("train", pool.train), ("val", pool.held)):
        rows = [i for i, label in enumerate(scenes.labels) if scenes.classes[label] in ("Alpha large", "Gamma")]
        blues[part] = {int(value) for value in scenes.images[rows][..., 2].flat}
    assert blues == {"train": {0, 10, 20, 100, 110, 120}, "val": {30, 130}}
    assert not set(pool.train.hashes) & set(pool.held.hashes)
    greys = {int(v) for v in pool.held.images[pool.held_of["small"]][:, 0, 0, 0]}
    assert greys == {4, 5, 104, 105}
    assert len(pool.held.images[pool.held_of["large"]]) == 2 * 3  # one crop of each scale
    assert len(pool.held.images[pool.held_of["drawn"]]) == len(CLASSES)


def test_classes_of_different_folders_stay_apart(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    assert pool.train.classes == pool.held.classes == ("Alpha", "Beta", "Alpha large", "Gamma", *CLASSES)
    rows = 2 * 4, 2 * 3 * 6, len(CLASSES) * 3
    counts = np.bincount(pool.train.labels)
    assert counts.tolist() == [4, 4, 18, 18, *[3] * len(CLASSES)]
    told = pool.record["sources"]
    assert [source["rows"] for source in told] == list(rows)  # type: ignore[attr-defined]
    assert [source["name"] for source in told] == ["small", "large", "drawn:4"]  # type: ignore[attr-defined]
    twice = read_pool(Sources(data=("drawn:4", "drawn:5", "drawn:4"), resolution=8))
    assert len({name.lower() for name in twice.train.classes}) == 3 * len(CLASSES)


def test_drawn_scenes_are_those_that_the_files_would_hold(tmp_path: Path) -> None:
    write_scenes(tmp_path, per_class=5, seed=2, resolution=SIDE)
    pool = read_pool(Sources(data=("drawn:5",), resolution=SIDE, val_per_class=2, seed=2))
    for part, scenes in (("train", pool.train), ("val", pool.held)):
        wanted = read_scenes(tmp_path, part=part, held_out=HeldOut(val_per_class=2, split="names"))
        assert np.array_equal(scenes.images, wanted.images)
        assert np.array_equal(scenes.labels, wanted.labels)


def test_draws_go_by_the_shares_and_each_scale_gets_as_much(tmp_path: Path) -> None:
    pool = _pool(tmp_path, shares=(5.0, 3.0, 2.0))
    assert pool.weights is not None
    rows = draw_rows(len(pool.train.labels), 60_000, pool.weights, torch.Generator().manual_seed(0)).numpy()
    source = np.digitize(rows, [8, 8 + 36])
    assert np.bincount(source) / len(rows) == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    scale = np.array([0, 1, 1, 2, 2, 2] * 6)[rows[source == 1] - 8]
    assert np.bincount(scale) / len(scale) == pytest.approx([1 / 3] * 3, abs=0.02)
    by_root = [source["share"] for source in _pool(tmp_path / "again").record["sources"]]  # type: ignore[attr-defined]
    assert by_root == pytest.approx(np.sqrt([8, 6, 18]) / np.sqrt([8, 6, 18]).sum(), abs=1e-4)


def test_no_training_sees_an_image_without_weight(tmp_path: Path) -> None:
    """Whatever stands in rows of weight 0, the networks come out the same."""
    weights = torch.tensor([1.0, 0, 2, 0, 1, 0], dtype=torch.float64)
    images = torch.randint(0, 256, (6, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    folder, data = tiny_base(tmp_path), latent_data()
    found: list[list[torch.Tensor]] = []
    for i in range(2):
        torch.manual_seed(0)
        base = load_base(str(folder))
        pixels, latents = images.clone(), data.latents.clone()
        pixels[weights == 0], latents[weights == 0] = i, float(i)
        short = AutoencoderTraining(steps=3, batch=2, bfloat16=False)
        vae = train_autoencoder(base.vae, pixels, images[:2], short, tmp_path / f"vae{i}", weights=weights)
        labels, net = torch.tensor([0, 1] * 3), ResNetConfig(num_classes=2, widths=(8, 16), blocks=(1, 1))
        floats = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        named = train_classifier(
            floats, labels, (floats[:1], labels[:1]), net, ClassifierTraining(steps=3, batch=4), weights=weights
        )
        unet, _, _ = train_denoiser(
            base.unet,
            base.text_encoder,
            LatentData(latents, data.labels, data.captions, weights),
            data,
            base.schedule,
            DenoiserTraining(steps=3, batch=4),
            tmp_path / f"denoiser{i}",
        )
        found.append([p for net in (vae, named.model, unet) for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_weights_have_to_go_with_the_rows() -> None:
    with pytest.raises(ValueError, match="5 weights for 6 rows"):
        draw_rows(6, 2, torch.ones(5), torch.Generator())


def test_numbers_that_do_not_go_with_the_sources_are_named(tmp_path: Path) -> None:
    for wrong, said in (
        ({"val_per_class": (2, 1)}, "--val-per-class: 2 numbers for 3"),
        ({"shares": (1.0,)}, "--shares: 1 numbers for 3"),
        ({"shares": (0.0, 0.0, 0.0)}, "--shares"),
        ({"shares": (1.0, -1.0, 1.0)}, "--shares"),
        ({"shares": (1.0, float("nan"), 1.0)}, "--shares"),
        ({"data": ("drawn:many", "drawn:4", "drawn:4")}, "drawn:many"),
        ({"data": ("drawn:2", "drawn:4", "drawn:4")}, "drawn:2"),
    ):
        sources = Sources(data=("drawn:4",) * 3, resolution=8, val_per_class=1)
        with pytest.raises(InputError, match=said):
            read_pool(replace(sources, **wrong))


def test_a_base_of_eight_channels_from_several_sources(tmp_path: Path) -> None:
    config, short = (
        PretrainConfig(resolution=SIDE, val_per_class=(2, 1), split="names", latent_channels=8),
        {"steps": 1, "batch": 2},
    )
    parts = {
        name: replace(getattr(config, name), **short) for name in ("perceptual", "autoencoder", "decoder", "denoiser")
    }
    config = replace(config, crops=Crops(middle=1, native=1), **parts)
    data = (str(drawn_scenes(tmp_path / "scenes", 5)), str(_maps(tmp_path / "maps")))
    metrics = pretrain(data, tmp_path / "base", tmp_path / "state", config)
    assert [source["name"] for source in metrics["data"]["sources"]] == ["scenes", "maps"]
    assert metrics["autoencoder of maps"]["psnr"] > 0
    assert str(tmp_path) not in (tmp_path / "base" / "pretrain.json").read_text()
    base = load_base(str(tmp_path / "base"))
    assert base.vae.config.latent_channels == base.unet.config.in_channels == base.unet.config.out_channels == 8
    clash = replace(config, start=str(tmp_path / "base"), latent_channels=4)
    with pytest.raises(InputError, match="8 latent channels, not 4"):
        pretrain(data, tmp_path / "other", tmp_path / "second", clash, ("perceptual", "autoencoder"))


def test_eight_channels_stay_within_the_sizes_of_the_design() -> None:
    vae = nano_vae(64, 8)
    assert sum(p.numel() for p in vae.parameters()) <= 1_700_000
    assert sum(p.numel() for p in vae.decoder.parameters()) <= 1_100_000
