"""Scenes are counted, not files: turned, mirrored and compressed copies change no number that decides something."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_distill.distillation import usable
from dpd_distill.plan import remarks, task_of
from dpd_runtime.errors import DataError
from dpd_train.config import TrainConfig
from dpd_train.context import read_parts, rows_by_class
from dpd_train.reading import HeldOut, choose_groups
from dpd_train.scenes import open_scenes, read_scenes

CLASSES = ("Fields", "River")


def originals(root: Path, scenes: int, copies: int, seed: int = 0) -> Path:
    """Scenes of smooth noise, each as it is and in `copies` - 1 other views and qualities of JPEG."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(scenes):
            coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
            image = coarse.resize((64, 64), Image.Resampling.BICUBIC)
            for copy in range(copies):
                view = image.rotate(90 * (copy % 4))
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if copy >= 4 else view
                view.save(root / name / f"{number:03d}_{copy}.jpg", quality=95 - copy)
    return root


@pytest.mark.parametrize("copies", [1, 3, 8])
@pytest.mark.parametrize("part", ["train", "val", "all"])
def test_copies_change_no_count(tmp_path: Path, copies: int, part: str) -> None:
    data = originals(tmp_path, 22, copies)
    counted = open_scenes(data).counted(part)  # type: ignore[arg-type]
    scenes = {"train": 20, "val": 2, "all": 22}[part]
    assert counted.scenes == dict.fromkeys(CLASSES, scenes)
    assert counted.images == dict.fromkeys(CLASSES, scenes * copies)
    more = f", {2 * scenes} distinct scenes" if copies > 1 else ""
    assert str(counted) == f"{2 * scenes * copies} images{more}"


def test_where_nothing_repeats_files_are_counted(tmp_path: Path) -> None:
    data = originals(tmp_path, 12, 1)
    (data / "River" / "cut.jpg").write_bytes(b"no image, but a file")
    for part in ("train", "val", "all"):
        counted = open_scenes(data).counted(part)  # type: ignore[arg-type]
        assert counted.images == counted.scenes == open_scenes(data).counts(part)  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [None, 1, 5])
def test_the_validation_part_has_as_many_scenes_as_without_copies(tmp_path: Path, wanted: int | None) -> None:
    held_out = HeldOut(val_per_class=wanted)
    data = originals(tmp_path, 22, 8)
    held, train = (read_scenes(data, part=part, held_out=held_out) for part in ("val", "train"))
    expected = 2 if wanted is None else wanted
    shown = {Path(path).parent / Path(path).stem.split("_")[0] for path in held.paths}
    assert (len(shown), len(held.paths)) == (2 * expected, 2 * expected * 8)
    assert not shown & {Path(path).parent / Path(path).stem.split("_")[0] for path in train.paths}


def test_groups_count_the_scenes_in_them() -> None:
    """A flight of three scenes, one of them in four files, is three images for the class."""
    flight = dict.fromkeys(range(6), "flight")
    scenes = dict.fromkeys(range(4), "scene")
    taken = {2: set[int](), 3: set[int]()}
    for salt in range(40):
        classes = {"a": {number: f"{salt} {number}" for number in range(12)}}
        for wanted, sizes in taken.items():
            sizes.add(len(choose_groups(classes, flight, HeldOut(val_per_class=wanted), scenes=scenes)))
    assert taken == {2: {2}, 3: {3, 6}}, "single files, or the flight alone"


def test_a_class_of_one_scene_is_refused_before_training(tmp_path: Path) -> None:
    data = originals(tmp_path, 2, 8)
    with pytest.raises(DataError, match="the 8 training images of class 'Fields' are near duplicates of one another"):
        open_scenes(data).counted("train").check(data)
    open_scenes(data).counted("all").check(data)
    with pytest.raises(DataError, match="no group of its files can be held out and leave 2 training images"):
        open_scenes(data, HeldOut(val_per_class=1)).counted("train")


def test_augmented_data_are_small_data(tmp_path: Path) -> None:
    tasks, lines = [], []
    for copies in (1, 8):
        data = originals(tmp_path / str(copies), 24, copies)
        counts = open_scenes(data).counted("train").scenes
        tasks.append(task_of(counts, held=sum(open_scenes(data).counted("val").scenes.values())))
        lines.append(remarks(counts, tasks[-1]))
    assert tasks[0] == tasks[1]
    assert tasks[1].codes_only
    assert (tasks[1].ipc, tasks[1].held, tasks[1].images) == (5, 4, 44)
    assert lines[0] == lines[1]
    assert "has 22 training images, fewer than 60: 5 codes per class in a codes-only bundle" in lines[1][0]


def test_damaged_files_are_no_scenes(tmp_path: Path) -> None:
    scenes = open_scenes(originals(tmp_path, 12, 4), HeldOut(val_per_class=0))
    cut = tmp_path / "Fields" / "000_0.jpg"
    cut.write_bytes(cut.read_bytes()[:99])
    found, real = scenes.counted("train"), scenes.part("train", 64)
    assert found.scenes == {"Fields": 13, "River": 12}
    assert usable(found, real) == {"Fields": 12, "River": 12}


@pytest.mark.parametrize("keep", [True, False])
def test_prototypes_count_scenes_where_near_duplicates_are_kept(tmp_path: Path, keep: bool) -> None:
    config = TrainConfig(keep_near_duplicates=keep, resolution=64)
    read = read_parts(open_scenes(originals(tmp_path, 12, 4), config), config, 64)
    assert [len(rows) for rows in rows_by_class(read.train)] == [11, 11]
    assert len(read.train.labels) == (88 if keep else 22)
    some = read.train.only(np.arange(0, len(read.train.labels), 2))
    assert [len(rows) for rows in rows_by_class(some)] == ([11, 11] if keep else [6, 5])
