"""Pretraining a VAE for other bands: what is trained, what a run makes of it, and who may not use it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpd_runtime.errors import InputError
from dpd_train.base_files import check_base_bands, known_bands
from dpd_train.bases import load_base, reconstruct
from dpd_train.compute import one_thread
from dpd_train.config import TrainConfig
from dpd_train.pool import Sources
from dpd_train.pretrain import pretrain_bands
from dpd_train.reading import parse_reading
from dpd_train.scene_set import to_float
from dpd_train.scenes import read_scenes
from dpd_train.train import train
from dpd_train.vae import bands_training, with_bands
from tests.tiny import BAND_NAMES, CONFIG, SIDE, drawn_scenes, scenes_of_bands, tiny_base

pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
COUNT = 4
TRAINING = replace(bands_training(TrainConfig()), steps=120)


def sources(*folders: Path) -> Sources:
    return Sources(data=tuple(map(str, folders)), resolution=SIDE, val_per_class=4, reading=parse_reading("all"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes, the base that the training began at, and the one that it made."""
    folder = tmp_path_factory.mktemp("pretrained")
    scenes = scenes_of_bands(folder / "scenes", COUNT)
    with one_thread():
        made = pretrain_bands(
            sources(scenes), str(tiny_base(folder)), folder / "base4", folder / "state", TRAINING, max_minutes=60
        )
    assert "unfinished" not in made
    return folder


def test_a_card_names_the_command_that_made_it(pretrained: Path) -> None:
    from dpd_export.card import _pretrain_command

    record = json.loads((pretrained / "base4" / "pretrain.json").read_text())
    words = _pretrain_command(record).split()
    assert words[:5] == ["dpd", "pretrain", "DATA", "--out", "BASE"]
    for name, value in (("--bands", "B2,B3,B4,B8"), ("--set", "autoencoder_steps=120"), ("--seed", "0")):
        assert words[words.index(name) + 1] == value


def test_only_the_vae_is_trained_and_it_knows_the_bands(pretrained: Path) -> None:
    before, after = load_base(str(pretrained / "base")), load_base(str(pretrained / "base4"))
    assert (after.vae.config.in_channels, after.vae.config.out_channels) == (COUNT, COUNT)
    for kind in ("unet", "text_encoder"):
        old, new = getattr(before, kind).state_dict(), getattr(after, kind).state_dict()
        assert all(torch.equal(tensor.half().float(), new[name].float()) for name, tensor in old.items())
    assert known_bands(str(pretrained / "base4")) == BAND_NAMES[COUNT]
    assert known_bands(str(pretrained / "base")) == ()
    scenes = read_scenes(pretrained / "scenes", part="all", reading=parse_reading("all"))
    images = to_float(torch.from_numpy(scenes.images))
    vaes = (with_bands(before, COUNT).vae, after.vae)
    errors = [float((reconstruct(vae, images) - images).square().mean()) for vae in vaes]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.full
def test_a_run_goes_on_with_its_vae(pretrained: Path, tmp_path: Path) -> None:
    """With next to no steps, a run's decoder is the base's own."""
    base = str(pretrained / "base4")
    config = replace(
        CONFIG, base=base, bands="all", prototypes=None, tune_vae=None, vae_steps=1, watcher_steps=2, matching_steps=2
    )
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr("dpd_train.matching.VIEWS", 100)
        train(pretrained / "scenes", tmp_path / "run", config, cache=tmp_path / "cache")
    old, new = load_base(base).vae.state_dict(), load_base(str(tmp_path / "run" / "pipeline")).vae.state_dict()
    for name, tensor in old.items():  # Adam's first step is the learning rate, which is near zero while it warms up
        torch.testing.assert_close(new[name], tensor, rtol=0.01, atol=2e-3)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["base_pretraining"]["bands"] == list(BAND_NAMES[COUNT])


def test_it_goes_on_where_it_stopped(pretrained: Path, tmp_path: Path) -> None:
    begun, short = str(pretrained / "base"), replace(TRAINING, steps=3)
    folders = (sources(pretrained / "scenes"), begun)
    with one_thread():
        while "unfinished" in pretrain_bands(*folders, tmp_path / "parts", tmp_path / "state", short, max_minutes=0):
            pass
        pretrain_bands(*folders, tmp_path / "whole", tmp_path / "other", short)
    parts, whole = (load_base(str(tmp_path / name)).vae.state_dict() for name in ("parts", "whole"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    record = json.loads((tmp_path / "parts" / "pretrain.json").read_text())
    assert record["pieces"] == [f"VAE of {COUNT} bands: 1 of 3 steps"] * 3
    other = sources(scenes_of_bands(tmp_path / "scenes13", 13))
    with pytest.raises(InputError, match=r"state: holds .* other images .* give another --state"):
        pretrain_bands(other, str(tiny_base(tmp_path / "b")), tmp_path / "again", tmp_path / "state", short)


def test_images_of_other_bands_are_refused(pretrained: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(pretrained / "base4"))
    with pytest.raises(InputError, match=r"its VAE is for bands B2, .* and the images have red, green and blue"):
        train(drawn_scenes(tmp_path / "rgb"), tmp_path / "run", config)
    other = scenes_of_bands(tmp_path / "other", 13)
    with pytest.raises(InputError, match=r"its VAE is for bands B2, .* and the images have bands B1, "):
        train(other, tmp_path / "run", replace(config, bands="all", prototypes=None, tune_vae=None))
    assert not (tmp_path / "run").exists()
    shutil.copytree(pretrained / "base4", tmp_path / "unknown")
    (tmp_path / "unknown" / "pretrain.json").unlink()  # such as the pipeline of a run
    with pytest.raises(InputError, match="its VAE is for 4 bands, and the images have 3"):
        check_base_bands(str(tmp_path / "unknown"), ())
    with pytest.raises(InputError, match="scenes, other have different ones"):
        pretrain_bands(sources(pretrained / "scenes", other), "nano", tmp_path / "base", tmp_path / "state", TRAINING)
