"""Validation images that content decides: independent of names, with near duplicates and groups on one side."""

import csv
import hashlib
import shutil
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dpd_runtime.errors import DataError, InputError
from dpd_train.reading import HeldOut, choose_groups, joined
from dpd_train.scene_set import SceneSet, hashes_of, scenes_of
from dpd_train.scenes import read_scenes
from tests.tiny import drawn_scenes

COUNT = 12
HALF = HeldOut(val_per_class=COUNT // 2)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Six classes of COUNT different images."""
    return drawn_scenes(tmp_path / "scenes", COUNT)


def parts(root: Path, held_out: HeldOut) -> tuple[SceneSet, SceneSet]:
    return read_scenes(root, part="train", held_out=held_out), read_scenes(root, part="val", held_out=held_out)


def test_other_names_and_another_order_change_nothing(scenes: Path, tmp_path: Path) -> None:
    for folder in scenes.iterdir():
        by_brightness = sorted(folder.iterdir(), key=lambda path: float(np.asarray(Image.open(path)).mean()))
        for number, path in enumerate(by_brightness):
            (tmp_path / "sorted" / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "sorted" / folder.name / f"{number:03d}.png")
    before, after = parts(scenes, HALF), parts(tmp_path / "sorted", HALF)
    for old, new in zip(before, after, strict=True):  # in one order, too, so that a run has no other input
        assert old.hashes == new.hashes
        assert old.hashes != read_scenes(scenes, part="all").hashes[: len(old.hashes)]
        np.testing.assert_array_equal(old.images, new.images)
        np.testing.assert_array_equal(old.labels, new.labels)
    assert np.bincount(before[1].labels).tolist() == [COUNT // 2] * 6
    by_name = parts(tmp_path / "sorted", HeldOut(val_per_class=COUNT // 2, split="names"))
    darkest = {label: min(by_name[1].images[by_name[1].labels == label].mean(axis=(1, 2, 3))) for label in range(6)}
    for label, limit in darkest.items():  # the names' split is the one that brightness decides
        assert (by_name[0].images[by_name[0].labels == label].mean(axis=(1, 2, 3)) <= limit).all()
    assert set(by_name[1].hashes) != set(after[1].hashes)


def test_near_duplicates_are_on_one_side(scenes: Path) -> None:
    copies = {}
    for folder in scenes.iterdir():
        for path in sorted(folder.iterdir())[::2]:
            image = Image.open(path).convert("RGB").transpose(Image.Transpose.ROTATE_90)
            copies[path] = path.with_name(f"{path.stem}-turned.png")
            Image.fromarray((0.95 * np.asarray(image)).astype(np.uint8)).save(copies[path])
    side_of = {
        path: number for number, part in enumerate(parts(scenes, HALF)) for path in (scenes / p for p in part.paths)
    }
    assert [side_of[path] for path in copies] == [side_of[copy] for copy in copies.values()]
    assert 0 < sum(side_of[path] for path in copies) < len(copies)  # some are held out, some are not


def test_groups_by_the_file_name_and_by_a_column_of_a_list(scenes: Path) -> None:
    rows = []
    for folder in scenes.iterdir():
        for number, path in enumerate(sorted(folder.iterdir())):
            moved = path.rename(folder / f"flight{number % 4}-{number}.png")
            rows.append([str(moved.relative_to(scenes)), folder.name, f"area {number % 4}"])
    by_name = parts(scenes, HeldOut(val_per_class=3, groups=r"^(flight\d)-"))
    flights = [Counter(Path(path).name[:7] for path in part.paths) for part in by_name]
    assert (len(flights[0]), len(flights[1])) == (3, 1)
    assert not flights[0].keys() & flights[1].keys()
    listed = scenes / "list.csv"
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "area"], *rows])
    by_column = parts(listed, HeldOut(val_per_class=3, groups="area"))
    assert [part.hashes for part in by_column] == [part.hashes for part in by_name]


def test_groups_that_cannot_be_used_are_named(scenes: Path) -> None:
    with pytest.raises(DataError, match="does not match the file name"):
        read_scenes(scenes, part="train", held_out=HeldOut(groups="flight"))
    with pytest.raises(DataError, match=r"class '\w+': no group of its files can be held out.*--groups \.png"):
        read_scenes(scenes, part="train", held_out=HeldOut(groups=".png"))
    with pytest.raises(InputError, match="no effect with --split names"):
        HeldOut(groups="a", split="names")
    with pytest.raises(InputError, match="neither a column nor a regular expression"):
        HeldOut(groups="(")
    with pytest.raises(InputError, match="--val-per-class is -1"):
        HeldOut(val_per_class=-1)


def test_a_class_of_one_scene_cannot_be_divided(scenes: Path) -> None:
    folder = next(iter(scenes.iterdir()))
    first, *others = sorted(folder.iterdir())
    for number, path in enumerate(others):
        content = BytesIO()
        Image.open(first).convert("RGB").save(content, "JPEG", quality=90 + number % 5)
        path.with_suffix(".jpg").write_bytes(content.getvalue())
        path.unlink()
    with pytest.raises(DataError, match="near duplicates of one another"):
        read_scenes(scenes, part="val", held_out=HALF)


def test_near_duplicates_come_from_the_cache_and_a_damaged_one_is_made_again(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = next(scenes.rglob("*.png"))
    Image.open(path).convert("RGB").save(path.with_name("copy.jpg"), quality=95)
    hashes = hashes_of(sorted(scenes.rglob("*.*g")), None)
    wanted = scenes_of(hashes, None)
    assert wanted[path] == wanted[path.with_name("copy.jpg")]
    (kept,) = (tmp_path / "cache/dpd/near-duplicates").iterdir()
    content = kept.read_bytes()
    for damaged in (b"", b"[]", b'{"key": 1}', content.replace(b'"groups"', b'"group"'), content):
        kept.write_bytes(damaged)
        assert scenes_of(hashes, None) == wanted
    assert kept.read_bytes() == content


@given(
    groups=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), min_size=3, max_size=60),
    number=st.integers(1, 4),
)
def test_groups_are_held_out_whole(groups: list[tuple[str, int]], number: int) -> None:
    """Files of classes a, b, c with a group each; at least six more of each class stand alone."""
    files = [(name, group) for name, group in groups] + [(name, None) for name in "abc" for _ in range(6)]
    classes = {name: {i: f"{i:04d}" for i, (own, _) in enumerate(files) if own == name} for name in "abc"}
    group_of = {i: group for i, (_, group) in enumerate(files) if group is not None}
    held = choose_groups(classes, group_of, HeldOut(val_per_class=number))
    assert not {group_of[i] for i in held if i in group_of} & {g for i, g in group_of.items() if i not in held}
    for members in classes.values():
        assert len(held & members.keys()) == number  # single files fill what no group does


HASHES = st.integers(0, 10**6).map("{:06d}".format)


@given(
    hashes=st.lists(HASHES, min_size=4, max_size=40, unique=True),
    place=st.integers(0, 39),
    new=HASHES,
    k=st.integers(1, 3),
)
def test_one_file_that_is_replaced_moves_one_other_at_most(hashes: list[str], place: int, new: str, k: int) -> None:
    """By its own hash alone: what a guarantee for one image rests on."""
    before, after = dict(enumerate(hashes)), dict(enumerate(hashes)) | {place % len(hashes): new}
    alone = HeldOut(val_per_class=k, split="files")
    kept = [{row: own[row] for row in own.keys() - choose_groups({"a": own}, {}, alone)} for own in (before, after)]
    assert len(kept[0]) == len(kept[1]) == len(hashes) - k
    assert len(set(kept[0].values()) - set(kept[1].values())) <= 1
    assert len(set(kept[1].values()) - set(kept[0].values())) <= 1


def test_by_files_near_duplicates_do_not_move_together(scenes: Path) -> None:
    folder = next(iter(scenes.iterdir()))
    first, *others = sorted(folder.iterdir())
    for number, path in enumerate(others[: COUNT // 2]):
        path.unlink()
        Image.open(first).convert("RGB").save(path.with_suffix(".jpg"), "JPEG", quality=80 + number)
    every = read_scenes(scenes, part="all")
    expected = set()
    for label in range(len(every.classes)):
        own = [digest for digest, of in zip(every.hashes, every.labels, strict=True) if of == label]
        expected |= {*sorted(own, key=lambda digest: hashlib.sha256(digest.encode()).hexdigest())[:2]}
    assert {*read_scenes(scenes, part="val", held_out=HeldOut(val_per_class=2, split="files")).hashes} == expected
    assert {*read_scenes(scenes, part="val", held_out=HeldOut(val_per_class=2)).hashes} != expected


def test_joined_groups_are_the_components_of_all_partitions() -> None:
    found = joined({"a": 1, "b": 1, "c": 2}, {"c": 9, "b": 9, "d": 8})
    assert found["a"] == found["b"] == found["c"] != found["d"]
