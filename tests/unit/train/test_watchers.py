"""Further watchers of `dpd train --prototypes matched`: encoders trained without labels."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dpd_neighbours.swimdiff.folder import save_encoder
from dpd_runtime.errors import DataError, InputError
from dpd_train.config import TrainConfig, extra_watchers, renamed
from dpd_train.encoders import open_encoder
from dpd_train.matching import Watcher, embed, maps_of
from dpd_train.model_files import model_hash
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.run import check_inputs, found_by_name, match_config, names_folders, read_unfinished, recorded
from dpd_train.scenes import open_scenes
from dpd_train.train import train
from tests.tiny import CONFIG, SIDE, drawn_scenes, tiny_base


@pytest.fixture(autouse=True)
def short_watchers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few steps and views in one thread, and all watchers look at each image."""
    monkeypatch.setattr("dpd_train.matching.LENGTHS", (1,))
    monkeypatch.setattr("dpd_train.matching.ATTENTION_LENGTHS", (1,))
    monkeypatch.setattr("dpd_train.matching.VIEWS", 100)
    monkeypatch.setattr("dpd_train.matching.WATCHERS", 100)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def encoder(folder: Path, side: int = SIDE, seed: int = 0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = ResNetConfig(num_classes=8, widths=(8, 12), blocks=(1, 1), dropout=0.0)
        save_encoder(ResNet(shape), folder, {"resolution": side})
    return folder


@pytest.mark.full
def test_an_encoder_watches_and_the_record_names_it(tmp_path: Path) -> None:
    place = encoder(tmp_path / "eyes")
    scenes = drawn_scenes(tmp_path / "scenes", per_class=24)
    short = replace(CONFIG, base=str(tiny_base(tmp_path)), prototypes="matched", ipc=2, matching_steps=2, steps=0)
    records, codes = [], []
    for name, watchers in (("plain", "own"), ("seen", f"own,swimdiff:{place}")):
        config = replace(short, watchers=watchers)
        records.append(train(scenes, tmp_path / name, config, cache=tmp_path / "cache"))
        codes.append(load_file(tmp_path / name / "prototypes.safetensors"))
    with Image.open(tmp_path / "plain" / "samples" / "matching.png") as sheet:
        assert sheet.height == 6 * (64 + 2) + 2, "a row for each class, written while codes were matched"
    plain, seen = records
    assert "watchers" not in plain, "no network but the run's own ones watched"
    assert plain["config"]["watchers"] == "own"
    digest = hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest()
    assert seen["watchers"] == [{"name": "swimdiff:eyes", "weights_sha256": digest}]
    assert seen["config"]["watchers"] == "own,swimdiff:eyes"
    assert str(place) not in json.dumps(seen)
    assert any(not torch.equal(values, codes[1][name]) for name, values in codes[0].items())


def test_watchers_without_effect_or_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no effect on --prototypes pooled"):
        TrainConfig(watchers="own,swimdiff:x", prototypes="pooled")
    scenes = drawn_scenes(tmp_path / "scenes", per_class=4)
    base = str(tiny_base(tmp_path))
    config = TrainConfig(base=base, watchers=f"own,swimdiff:{tmp_path / 'x'}")
    with pytest.raises(InputError, match="x: no such folder; make it: dpd swimdiff"):
        check_inputs(open_scenes(scenes), tmp_path / "run", config)
    with pytest.raises(InputError, match="say auto, or own and, once each, swimdiff:FOLDER"):
        check_inputs(open_scenes(scenes), tmp_path / "run", replace(config, watchers="swimdiff:x"))
    other = replace(config, base=base, watchers=f"own,swimdiff:{encoder(tmp_path / 'other', side=2 * SIDE)}")
    with pytest.raises(
        InputError, match=f"it was trained at {2 * SIDE} px and this run works at {SIDE} px; train it again"
    ):
        check_inputs(open_scenes(scenes), tmp_path / "run", other)
    asked = replace(CONFIG, base=base, prototypes=None, watchers=f"own,swimdiff:{encoder(tmp_path / 'eyes')}")
    with pytest.raises(DataError, match="matched needs at least 20"):  # never silently pooled, which has no watchers
        train(scenes, tmp_path / "run", asked, cache=tmp_path / "cache")


def test_a_run_does_not_go_on_with_another_encoder(tmp_path: Path) -> None:
    place = encoder(tmp_path / "eyes")
    config, out = TrainConfig(watchers=f"own,swimdiff:{place}"), tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    for _ in range(2):
        match_config(out, config, {})
    for path in encoder(tmp_path / "again", seed=1).iterdir():
        path.replace(place / path.name)
    with pytest.raises(InputError, match="had another watcher in --watchers; use the same"):
        match_config(out, config, {})


def test_a_run_goes_on_with_the_command_that_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has absolute paths; the same words of before are the same encoder, from elsewhere they are not."""
    monkeypatch.chdir(tmp_path)
    encoder(Path("eyes"))
    words, out = "own,swimdiff:eyes", tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    match_config(out, TrainConfig(watchers=words), {})
    before = read_unfinished(out, {"watchers": words})
    assert before is not None
    assert before.config.watchers == f"own,swimdiff:{tmp_path / 'eyes'}"
    with pytest.raises(InputError, match="--watchers own: the unfinished run"):
        read_unfinished(out, {"watchers": "own"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--watchers own,swimdiff:eyes: the unfinished run"):
        read_unfinished(out, {"watchers": words})
    assert read_unfinished(out, {"watchers": before.config.watchers}) == before


@pytest.mark.full
def test_encoders_judge_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes differ with one more watcher anyway; this asks which networks watch, and whose opinion counts."""
    found: list[list[Watcher]] = []

    def watch(
        start: torch.Tensor, decode: object, watchers: list[Watcher], *rest: object, **more: object
    ) -> torch.Tensor:
        found.append(watchers)
        return start

    monkeypatch.setattr("dpd_train.stages.match_codes", watch)
    place = encoder(tmp_path / "eyes")
    config = replace(
        CONFIG,
        base=str(tiny_base(tmp_path)),
        prototypes="matched",
        ipc=2,
        matching_steps=1,
        steps=0,
        watchers=f"own,swimdiff:{place}",
    )
    train(drawn_scenes(tmp_path / "scenes", per_class=24), tmp_path / "run", config, cache=tmp_path / "cache")
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    seen = [watcher.see(images) for watcher in found[0]]
    assert [logits is not None for _, logits in seen] == [True] * 7 + [False]
    assert [watcher.extra for watcher in found[0]] == [False] * 7 + [True]
    network = open_encoder(f"swimdiff:{place}").load().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.equal(seen[-1][0], embed(maps_of(network, images)))


def test_a_record_has_the_watchers() -> None:
    """Where an older one has none, a run's own networks watched alone."""
    assert recorded(TrainConfig(watchers="own"))["watchers"] == "own"
    assert renamed({"ipc": 3})["watchers"] == "own"
    assert recorded(TrainConfig(watchers="own,swimdiff:x"))["watchers"] == f"own,swimdiff:{Path('x').absolute()}"
    own = TrainConfig(watchers="own")
    assert TrainConfig(**recorded(own)) == own


def test_a_record_names_folders_unless_they_are_where_networks_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of another content is another one."""
    monkeypatch.setenv("DPD_NETWORKS", str(tmp_path))
    for name in ("lite", "changed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    recorded = [{"name": f"hf:{name}", "weights_sha256": model_hash(tmp_path / "lite")} for name in ("lite", "changed")]
    recorded.append({"name": "hf:..", "weights_sha256": model_hash(tmp_path / "lite" / "..")})
    for watchers, folders, here in (
        *((name, False, True) for name in ("own", "auto", "own,hf:lab/eyes")),
        *((f"own,{name}", True, name == "hf:lite") for name in ("hf:lite", "hf:changed", "hf:..", "swimdiff:lite")),
        ("own,hf:lite,swimdiff:x", True, False),
    ):
        assert (names_folders(watchers), found_by_name(watchers, recorded)) == (folders, here), watchers
    assert not found_by_name("own,hf:lite", None)


def test_watchers_are_own_and_folders() -> None:
    assert extra_watchers("own") == ()
    assert extra_watchers("own, swimdiff:a/b,hf:c/d") == ("swimdiff:a/b", "hf:c/d")
    assert extra_watchers("auto") == ()
    wrong = (
        "",
        "auto,own",
        "own,auto",
        "swimdiff:a",
        "own,own",
        "own,swimdiff:",
        "own,hf:",
        "own,mdfl",
        "own,hf:a,hf:a",
    )
    for text in wrong:
        with pytest.raises(InputError, match="say auto, or own and, once each, swimdiff:FOLDER or hf:ID_OR_PATH"):
            extra_watchers(text)
