"""The audit of images of all bands: copies are found, places on the map too, and pairs are drawn in false colour."""

import io
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import rasterio
from PIL import Image
from rasterio import Affine

from dpd_eval import attacks, extractors
from dpd_eval.artefacts import find_pictures
from dpd_eval.attacks import LabelledImages, student_tests
from dpd_eval.nearness import AuditedImages, near_copies, structure_space, write_worst_pairs
from dpd_eval.subject import AuditData, open_audited, read_as_made, subject_of
from dpd_runtime.annotations import Images, Int64
from dpd_runtime.bands import Band
from dpd_runtime.errors import InputError
from dpd_train.reading import HeldOut, parse_reading
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import open_scenes
from tests.audits import audit
from tests.banded import COUNTS, bands_of, scenes, write_distilled, write_real

ALL = parse_reading("all", "0:2550")
HELD = HeldOut(val_per_class=4, split="names")


def with_data(train: SceneSet, held: SceneSet) -> AuditData:
    rows = np.arange(len(held.labels))
    return AuditData(train, held, rows[::2], rows[1::2], ())


@pytest.mark.parametrize("count", COUNTS)
def test_copies_are_found_in_any_view_and_at_any_contrast(count: int) -> None:
    data = with_data(scenes(count, 10), scenes(count, 4, seed=1))
    fresh = AuditedImages("images", *labelled(scenes(count, 4, seed=2)))
    assert near_copies(fresh, data, None).verdict == "PASS"
    turned = np.rot90(data.train.images[:5], axes=(1, 2)).astype(float)
    copies = np.concatenate([(turned * 0.7 + 20).round().astype(np.uint8), fresh.images])
    found = near_copies(AuditedImages("images", copies, np.zeros(len(copies), np.int64)), data, None)
    assert (found.verdict, found.value) == ("FAIL", 5.0)


@pytest.mark.parametrize("count", COUNTS)
def test_a_space_sees_each_band(count: int) -> None:
    space, images = structure_space(), scenes(count, 2).images
    vectors = space.embed(images)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for band in range(count):
        other = images.copy()
        other[..., band] = np.random.default_rng(band).permuted(images[..., band], axis=1)
        assert (vectors * space.embed(other)).sum(axis=1).max() < 1 - 0.1 / count


def labelled(drawn: SceneSet) -> tuple[Images, Int64]:
    return drawn.images, drawn.labels


def test_the_attack_by_students_takes_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "FEWEST", 10)
    monkeypatch.setattr(attacks, "STUDENTS", 1)
    monkeypatch.setattr(attacks, "EPOCHS", 2)
    recipe = replace(attacks.RECIPE, steps=12, warmup=2, batch=12)
    data = with_data(scenes(13, 10), scenes(13, 10, seed=1))
    released = LabelledImages(*labelled(scenes(13, 5, seed=2)))
    tests, controls = student_tests(released, data, lambda done, total: None, recipe=recipe)
    assert [test.verdict != "NOT RUN" for test in tests[:1]] == [True]
    assert all(np.isfinite(one.value) for one in (*tests, *controls) if one.value is not None)
    large = LabelledImages(np.zeros((2, 80, 80, 13), np.uint8), np.zeros(2, np.int64))
    assert large.small.images.shape == (2, 64, 64, 13)


def test_pairs_are_drawn_in_false_colour(tmp_path: Path) -> None:
    """Red, green and blue lie in the third, second and first of four bands whose names and places say nothing."""
    images = np.zeros((1, 16, 16, 4), np.uint8)
    images[...] = (10, 20, 30, 40)
    write_worst_pairs(tmp_path / "pairs.png", images, images, bands_of(4))
    drawn = np.asarray(Image.open(tmp_path / "pairs.png"))
    assert (drawn == (30, 20, 10)).all(axis=2).sum() == 2 * 16 * 16
    named = [Band(name, 0, 1) for name in ("Red", "Green", "Blue", "NIR")]
    write_worst_pairs(tmp_path / "pairs.png", images, images, tuple(named))
    assert (np.asarray(Image.open(tmp_path / "pairs.png")) == (10, 20, 30)).all(axis=2).sum() == 2 * 16 * 16


@pytest.mark.parametrize("count", [1, 3, 13])
@pytest.mark.parametrize("big", ["NO", "YES"])
def test_a_place_on_the_map_is_a_trace(count: int, big: str) -> None:
    def written(**more: object) -> bytes:
        with warnings.catch_warnings(action="ignore"), rasterio.MemoryFile() as memory:
            form = {"driver": "GTiff", "width": 8, "height": 8, "count": count, "dtype": "float32", "BIGTIFF": big}
            with memory.open(**form, **more) as file:
                file.write(np.random.default_rng(0).random((count, 8, 8), np.float32))
            return bytes(memory.read())

    placed = find_pictures("a.tif", written(transform=Affine(0.1, 0, 7.1, 0, -0.1, 50.7), crs="EPSG:4326"), of_set=True)
    assert {one.what for one in placed} == {"a place on the map"}
    assert find_pictures("a.tif", written(), of_set=True) == []
    assert [one.what for one in find_pictures("a.tif", written()[:30], of_set=True)] == [
        "a picture that cannot be opened"
    ]
    rgb = io.BytesIO()
    Image.new("RGB", (8, 8)).save(rgb, "TIFF", tiffinfo={270: "Rome"})
    assert find_pictures("a.tif", rgb.getvalue(), of_set=True)[0].detail == "ImageDescription", "as Pillow tells it"


def test_a_set_of_bands_is_audited_beside_real_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = extractors.own_extractor
    monkeypatch.setattr(extractors, "own_extractor", lambda *a, **more: built(*a, **more, steps=10))
    train = write_real(tmp_path / "train", 4, 14, 1)
    bands = [replace(band, low=0.0, high=2550.0) for band in bands_of(4)]
    copied = write_distilled(tmp_path / "copied", bands, 3, 1)  # the noise of the training images, of three a class
    found = audit(
        copied, train=train, held_out=HELD, reading=ALL, cache=tmp_path / "cache", private=tmp_path / "private"
    )
    verdicts = {test.name: test.verdict for test in found.tests}
    assert verdicts["near duplicates of T, generated images"] == "FAIL"
    assert verdicts["artefact scan"] in ("PASS", "WARN")
    assert (tmp_path / "private" / "near duplicates of T, generated images.png").is_file()
    with pytest.raises(InputError, match=r"copied has 4 bands, --train is read as RGB: give --bands all$"):
        audit(copied, train=train, held_out=HELD, cache=tmp_path / "cache")
    with pytest.raises(InputError, match="--extractor mdfl: sees images of 3 bands, these have 4"):
        audit(copied, train=train, held_out=HELD, reading=ALL, extractor="mdfl", cache=tmp_path / "cache")
    with pytest.raises(InputError, match=r"copied has 4 bands \(B1, .*\), --train has 2 bands \(B1, B2\): both need"):
        audit(copied, train=train, held_out=HELD, reading=parse_reading("1,2"), cache=tmp_path / "cache")


def test_t_is_read_as_the_run_read_it_unless_the_options_say_it(tmp_path: Path) -> None:
    subject = subject_of(open_audited(write_distilled(tmp_path / "set", bands_of(2), 2, 0)))
    bundle = replace(subject, kind="bundle")
    (tmp_path / "run.json").write_text('{"config": {"bands": "all", "stretch": "dB:-25:5"}}')
    (tmp_path / "classes.json").write_text("{}")
    plain, banded = open_scenes(tmp_path / "set"), open_scenes(tmp_path / "set", reading=ALL)
    assert read_as_made(bundle, tmp_path, plain).reading == parse_reading("all", "dB:-25:5")
    assert read_as_made(bundle, tmp_path, banded) is banded
    assert read_as_made(replace(bundle, bands=()), tmp_path, plain) is plain
    with pytest.raises(InputError, match=r"has 2 bands, --train is read as RGB: give --bands all, or --run RUN$"):
        read_as_made(bundle, None, plain)
