"""The data card beside scenes: it says the same as the options, wherever scenes are opened."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_distill.distillation import Asked, open_inputs, request_of
from dpd_eval.inputs import open_compared, read_inputs
from dpd_private.request import PrivateRequest
from dpd_runtime.errors import InputError
from dpd_train.config import TrainConfig
from dpd_train.context import read_parts
from dpd_train.data_card import NAME, DataCard, place_of, read_card, write_card
from dpd_train.reading import PLAIN, HeldOut, ImageOptions
from dpd_train.run import match_config
from dpd_train.scene_set import fingerprint
from dpd_train.scenes import open_scenes, read_scenes
from tests.tiny import drawn_scenes, scenes_of_bands

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)


def card(folder: Path, text: str) -> Path:
    (folder / NAME).write_text(text, encoding="utf-8")
    return folder


@given(values=st.fixed_dictionaries({}, optional={"groups": TEXT, "bands": TEXT, "val_per_class": st.integers(0, 9)}))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]) -> None:
    import tomllib

    place = write_card(tmp_path_factory.mktemp("data"), values)
    assert tomllib.loads(place.read_text(encoding="utf-8")) == values


def test_a_card_reads_as_the_options_that_it_says(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", per_class=8)
    asked = ImageOptions(val_per_class=3, split="names")
    expected = open_scenes(scenes, asked).part("train").hashes
    assert open_scenes(scenes).part("train").hashes != expected
    place = write_card(scenes, {"val_per_class": 3, "split": "names"})
    opened = open_scenes(scenes)
    assert opened.part("train").hashes == expected
    assert opened.settle(TrainConfig()).image_options == asked.image_options
    told = fingerprint(opened.part("train"))["data_card"]
    assert told == hashlib.sha256(place.read_bytes()).hexdigest()
    assert read_scenes(scenes, part="train").hashes == expected
    assert "data_card" not in fingerprint(read_scenes(scenes, part="train", held_out=asked, reading=PLAIN))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_bands_of_a_card_are_those_of_test_images_too(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    data, other = (scenes_of_bands(tmp_path / name, 4, 6) for name in ("scenes", "other"))
    write_card(data, {"bands": "3,2,1", "stretch": "0:3000"})
    train, test = open_scenes(data), open_scenes(other)
    assert train.reading == ImageOptions(bands="3,2,1", stretch="0:3000").reading
    assert test.read_like(train, "--test", "--train").rendering == train.rendering
    write_card(other, {"bands": "all"})
    with pytest.raises(InputError, match=r"--test .*other.dpd\.toml says how .* of --train .* are read in another way"):
        open_scenes(other).read_like(train, "--test", "--train")


def test_an_option_that_says_something_else_is_refused_and_both_are_named(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", per_class=4)
    place = write_card(scenes, {"val_per_class": 2})
    said = f"--val-per-class 1: {place} says val_per_class = 2; leave the option out, or change that file"
    with pytest.raises(InputError) as caught:
        open_scenes(scenes, HeldOut(val_per_class=1))
    assert str(caught.value) == said
    same = open_scenes(scenes, HeldOut(val_per_class=2))
    assert same.card is not None
    with pytest.raises(InputError, match="was opened with 2; leave it out"):
        same.settle(TrainConfig(val_per_class=1))


def test_a_value_that_equals_the_default_is_one_that_was_given(tmp_path: Path) -> None:
    said = DataCard(tmp_path / NAME, {"split": "names"}, "")
    with pytest.raises(InputError, match=r'--split content: .* says split = "names"'):
        said.with_options({"split": "content", "groups": None})
    assert said.with_options({"split": None, "bands": "all"}) == {"split": "names", "bands": "all"}


def test_records_of_runs_and_evaluations_have_its_hash(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", per_class=8)
    opened = open_scenes(scenes)
    assert "data_card" not in read_parts(opened, TrainConfig(), 16).fingerprint
    assert "data card" not in read_inputs(open_compared([scenes], opened, "val", ImageOptions()), 16).fingerprints()
    sha256 = hashlib.sha256(write_card(scenes, {"val_per_class": 3}).read_bytes()).hexdigest()
    opened = open_scenes(scenes)
    assert read_parts(opened, TrainConfig(), 16).fingerprint["data_card"] == sha256
    compared = open_compared([scenes], opened, "val", ImageOptions())
    assert read_inputs(compared, 16).fingerprints()["data card"] == sha256


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bands = ", r"dpd\.toml: not TOML \("),
        ("\x00", r"dpd\.toml: not TOML \("),
        ("a = " + "[" * 3000, r"dpd\.toml: not TOML \("),
        ("resolution = 64", "says nothing of resolution; it may say bands, stretch, split, groups, val_per_class"),
        ("bands = [4, 3, 2]", r'bands is \[4, 3, 2\]: give text in quotes, such as "4,3,2"'),
        ("val_per_class = true", "val_per_class is True: give a whole number"),
        ("val_per_class = -1", r"dpd\.toml: --val-per-class is -1: it must be at least 0"),
        ('split = "place"', r'split is "place": give content, files, names'),
        ('bands = "4,,2"', r"dpd\.toml: --bands 4,,2: give band numbers"),
        ('groups = "("', "is neither a column nor a regular expression"),
        ("# " + "x" * (1 << 16), "is no file of at most 64 KiB; repair or remove it"),
    ],
)
def test_a_damaged_card_is_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_card(card(tmp_path, text))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes with names")
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(InputError, match="is no file of at most"):
        read_card(tmp_path)


def test_a_resumed_distillation_refuses_a_card_that_says_more(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", per_class=8)
    asked = request_of(Asked, scenes, tmp_path / "site.dpd", {"val_per_class": 3})
    assert open_inputs(asked).scenes.card is None
    write_card(scenes, {"val_per_class": 3})
    assert open_inputs(asked).scenes.card is not None, "it says the same"
    write_card(scenes, {"val_per_class": 3, "split": "names"})
    with pytest.raises(InputError, match=r"dpd\.toml: says more than it did when this began; put back what was there"):
        open_inputs(asked)
    begun = request_of(Asked, scenes, tmp_path / "site.dpd", {})
    assert (begun.split, begun.val_per_class) == ("names", 3)
    write_card(scenes, {"groups": "a"})
    with pytest.raises(InputError, match=r"\(.*dpd\.toml says groups\)"):
        request_of(PrivateRequest, scenes, tmp_path / "site.dpd", {"epsilon": 1.0})


def test_a_card_beside_a_set_is_not_read(tmp_path: Path) -> None:
    made = drawn_scenes(tmp_path / "set", per_class=4)
    card(made, 'bands = "all"\n')
    assert open_compared([made], drawn_scenes(tmp_path / "real", 4), "val", ImageOptions()).sets[0].scenes.card is None


def test_a_comment_in_a_card_does_not_stop_a_resumed_run(tmp_path: Path) -> None:
    run, config = tmp_path / "run", TrainConfig()
    run.mkdir()
    (run / "checkpoints").mkdir()
    match_config(run, config, {"sha256": "a", "data_card": "b"})
    match_config(run, config, {"sha256": "a", "data_card": "c"})
    with pytest.raises(InputError, match="the unfinished run had other data"):
        match_config(run, config, {"sha256": "d", "data_card": "b"})


def test_a_list_has_its_card_beside_it(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", per_class=4)
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(scenes.rglob("*.png"))]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    assert place_of(table) == tmp_path / NAME
    write_card(table, {"val_per_class": 2})
    assert set(open_scenes(table).counts("val").values()) == {2}


def test_a_card_of_comments_says_nothing(tmp_path: Path) -> None:
    assert read_card(card(tmp_path, "# bands = 3\n")) is None
    assert read_card(tmp_path / "no") is None
