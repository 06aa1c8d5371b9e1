"""Validation images that content decides: independent of names, with near duplicates and groups on one side."""

import csv
import hashlib
import math
import shutil
import warnings
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dpd_runtime.errors import DataError, InputError
from dpd_train.rasters import centre_of
from dpd_train.reading import HeldOut, cell_of, choose_groups, joined
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
    for wrong in ("cells:", "cells:0", "cells:ten", "cells:-3"):
        with pytest.raises(InputError, match=f"--groups {wrong}: give the side of the cells in kilometres"):
            HeldOut(groups=wrong)
    with pytest.raises(InputError, match="--val-per-class is -1"):
        HeldOut(val_per_class=-1)


EARTH_KM = 6371.0


def distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Kilometres of a great circle (haversine) between two (longitude, latitude)."""
    (a, b), (c, d) = (tuple(map(math.radians, place)) for place in (one, other))
    h = math.sin((d - b) / 2) ** 2 + math.cos(b) * math.cos(d) * math.sin((c - a) / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(h))


LON, LAT = st.floats(-180, 180), st.floats(-80, 80)


@given(lon=LON, lat=LAT, side=st.floats(0.1, 100), east=st.floats(-1, 1), north=st.floats(-1, 1))
def test_places_of_one_cell_are_near_and_far_ones_are_not_in_it(
    lon: float, lat: float, side: float, east: float, north: float
) -> None:
    away = 3 * side / 111.195
    other = (
        min(180, max(-180, lon + east * away / math.cos(math.radians(lat)))),
        min(80, max(-80, lat + north * away)),
    )
    if cell_of(lon, lat, side) == cell_of(*other, side):
        assert distance((lon, lat), other) < 1.6 * side


@pytest.mark.parametrize(("lon", "lat"), [(10, 0), (10, 47), (-70, -60), (179.5, 30)])
def test_cells_have_the_side_that_was_asked_for(lon: float, lat: float) -> None:
    """A square of 90 km holds 81 cells of 10 km, and at most a row and a column more of those on its border."""
    steps = np.arange(0.5, 90) / 111.195
    places = [((lon + x / math.cos(math.radians(lat)) + 180) % 360 - 180, lat + y) for x in steps for y in steps]
    found = Counter(cell_of(*place, 10.0) for place in places)
    assert 81 <= len(found) <= 110
    assert 85 < max(found.values()) <= 121  # places a kilometre apart


def test_cells_at_the_date_line_and_at_the_poles() -> None:
    assert cell_of(180, 12, 10) == cell_of(-180, 12, 10)
    for pole in (-90, 90):
        assert len({cell_of(lon, pole, 100) for lon in range(-180, 180, 5)}) <= 8
    assert all(" -" not in cell_of(lon, 89.95, 100) for lon in (-170, 10, 170))


def test_cells_by_the_columns_of_a_list(scenes: Path) -> None:
    """Rows lie along the equator, four kilometres apart; a cell of ten holds two or three of them."""
    rows, places = [], {}
    for folder in sorted(scenes.iterdir()):
        for number, path in enumerate(sorted(folder.iterdir())):
            longitude = 10 + number * 4 / 111.195
            rows.append([str(path.relative_to(scenes)), folder.name, f"{longitude:.6f}", "0.01"])
            places[rows[-1][0]] = (longitude, 0.01)
    listed = scenes / "list.csv"
    for names in (("lon", "lat"), ("longitude", "latitude")):
        with listed.open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label", *names], *rows])
        train, val = parts(listed, HeldOut(val_per_class=3, groups="cells:10"))
        cells = [{cell_of(*places[path], 10.0) for path in part.paths} for part in (train, val)]
        assert cells[1]
        assert not cells[0] & cells[1]
    for wrong in ("91", "north", ""):
        with listed.open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label", "lon", "lat"], [*rows[0][:3], wrong], *rows[1:]])
        with pytest.raises(DataError, match=r"list.csv, row 2: lat '.*' is no number of degrees from −90 to 90"):
            parts(listed, HeldOut(groups="cells:10"))


def test_cells_by_the_georeference_of_files(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    rng, places = np.random.default_rng(0), {}
    for label, name in enumerate(("Forest", "River")):
        (tmp_path / name).mkdir()
        for number in range(12):  # UTM zone 32: its middle, 500,000 m east, is at 9 degrees
            east, north = 500_000 + 4_000 * number, 5_300_000 + 400 * label
            transform = rasterio.Affine(10, 0, east - 320, 0, -10, north + 320)
            options = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
            path = tmp_path / name / f"{number:02d}.tif"
            with rasterio.open(path, "w", transform=transform, **options) as file:
                file.write(rng.integers(0, 256, (3, 64, 64), np.uint8))
            places[f"{name}/{path.name}"] = east
    longitude, latitude = centre_of(tmp_path / "Forest" / "00.tif")  # type: ignore[misc]
    assert longitude == pytest.approx(9, abs=1e-9)
    assert latitude == pytest.approx(47.85, abs=0.02)  # 5,300 km on the ellipsoid, by the scale of UTM
    train, val = parts(tmp_path, HeldOut(val_per_class=3, groups="cells:10"))
    assert val.paths
    nearest = min(abs(places[a] - places[b]) for a in train.paths for b in val.paths)
    assert nearest >= 4_000  # of two cells, never one place
    assert {places[path] for path in train.paths}.isdisjoint(places[path] for path in val.paths)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "River" / "plain.png")
    with pytest.raises(DataError, match=r"plain.png: has no georeference; --groups cells:10 keeps images of one place"):
        parts(tmp_path, HeldOut(groups="cells:10"))


MOON = 'GEOGCS["Moon",DATUM["D_Moon",SPHEROID["Moon",1737400,0]],PRIMEM["Reference",0],UNIT["Degree",0.0174532925]]'
DRAWING = 'LOCAL_CS["of a drawing",UNIT["metre",1]]'


@pytest.mark.parametrize(
    ("crs", "origin", "reason"),
    [
        (None, (500_000, 5_300_000), "has no georeference"),
        ("EPSG:32632", None, "has no georeference"),  # a reference system, and no place in it
        ("EPSG:32632", (5e9, 5_300_000), "has a georeference that leads to no place on Earth"),
        (DRAWING, (500_000, 5_300_000), "has a georeference that leads to no place on Earth"),
        (MOON, (9, 47), "has a georeference that leads to no place on Earth"),
    ],
)
def test_a_georeference_without_a_place_is_named(
    tmp_path: Path, crs: str | None, origin: tuple[float, float] | None, reason: str
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    options: dict[str, Any] = {"driver": "GTiff", "width": 8, "height": 8, "count": 1, "dtype": "uint8"}
    if origin is not None:
        options["transform"] = rasterio.Affine(10, 0, origin[0], 0, -10, origin[1])
    with warnings.catch_warnings(action="ignore"), rasterio.open(tmp_path / "a.tif", "w", crs=crs, **options) as file:
        file.write(np.zeros((1, 8, 8), np.uint8))
    assert centre_of(tmp_path / "a.tif") == reason
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:60])
    assert str(centre_of(tmp_path / "b.tif")).startswith("damaged, cut short")


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
