"""Reading scene folders: against folders and damaged files that are built here, byte by byte where that matters."""

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dpd_runtime.errors import DataError
from dpd_train.reading import By, HeldOut
from dpd_train.scene_set import fingerprint
from dpd_train.scenes import read_scenes
from tests.painted import greys, paint, reasons, tree

DATA = Path(__file__).parents[3].parent / "shared" / "data"


def test_pixels_labels_and_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    root = tree(tmp_path)
    scenes = read_scenes(root, part="all")
    assert scenes.classes == ("Alpha", "Beta")
    assert scenes.images.shape == (8, 8, 8, 3)
    assert scenes.images.dtype == np.uint8
    assert scenes.labels.dtype == np.int64
    assert scenes.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert greys(scenes) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert scenes.hashes[5] == hashlib.sha256((root / "Beta" / "Beta_1.png").read_bytes()).hexdigest()
    assert scenes.rejected == ()


def test_validation_is_the_last_names_sorted_as_strings(tmp_path: Path) -> None:
    root = tree(tmp_path, count=12)  # as strings: 0, 1, 10, 11, 2, … 9
    assert greys(read_scenes(root, part="val", held_out=HeldOut(split="names")))[:1] == [9]  # 12 // 10 = 1
    nine = HeldOut(val_per_class=9, split="names")
    assert greys(read_scenes(root, part="val", held_out=nine))[:9] == [11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert greys(read_scenes(root, part="train", held_out=nine))[:3] == [0, 1, 10]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.one_of(st.none(), st.integers(1, 10)), split=st.sampled_from(["content", "names"]))
def test_train_and_validation_part_the_images(tmp_path: Path, number: int | None, split: By) -> None:
    root = tmp_path if any(tmp_path.iterdir()) else tree(tmp_path, count=12)
    held_out = HeldOut(val_per_class=number, split=split)
    train, val = (read_scenes(root, part=part, held_out=held_out) for part in ("train", "val"))
    assert sorted([*train.hashes, *val.hashes]) == sorted(read_scenes(root, part="all").hashes)
    assert not set(train.hashes) & set(val.hashes)
    assert np.bincount(val.labels).tolist() == [number or 1] * 2


def test_a_damaged_file_keeps_its_place_in_the_split(tmp_path: Path) -> None:
    root = tree(tmp_path, count=6)
    (root / "Alpha" / "Alpha_5.png").write_bytes(b"")
    assert greys(read_scenes(root, part="train", held_out=HeldOut(val_per_class=2, split="names")))[:4] == [0, 1, 2, 3]
    val = read_scenes(root, part="val", held_out=HeldOut(val_per_class=2, split="names"))
    assert greys(val) == [4, 104, 105]
    assert reasons(val) == {"Alpha/Alpha_5.png": "empty file"}


def test_folders_train_val_and_test_are_the_parts(tmp_path: Path) -> None:
    for shift, part in enumerate(("train", "val", "test")):
        for name in ("Alpha", "Beta"):
            for index in range(2):
                paint(tmp_path / part / name / f"{index}.png", 10 * shift + index)
    assert greys(read_scenes(tmp_path, part="train")) == [0, 1, 0, 1]
    assert greys(read_scenes(tmp_path, part="val")) == [10, 11, 10, 11]
    assert greys(read_scenes(tmp_path, part="test")) == [20, 21, 20, 21]
    assert greys(read_scenes(tmp_path, part="all"))[:6] == [0, 1, 10, 11, 20, 21]
    with pytest.raises(DataError, match=r"holds val/.* have no effect"):
        read_scenes(tmp_path, part="train", held_out=HeldOut(val_per_class=3, split="names"))


def test_without_val_folder_validation_comes_out_of_train(tmp_path: Path) -> None:
    tree(tmp_path / "train", count=4)
    tree(tmp_path / "test", count=2)
    last = HeldOut(split="names")
    assert greys(read_scenes(tmp_path, part="train", held_out=last)) == [0, 1, 2, 100, 101, 102]
    assert greys(read_scenes(tmp_path, part="val", held_out=last)) == [3, 103]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    scenes = read_scenes(tree(tmp_path, classes=("plane", "train")), part="all")
    assert scenes.classes == ("plane", "train")


def test_classes_of_the_parts_must_agree(tmp_path: Path) -> None:
    tree(tmp_path / "train", classes=("Alpha", "Beta", "Gamma"))
    tree(tmp_path / "test", classes=("Alpha", "Gamma", "Omega"))
    with pytest.raises(DataError, match=r"test: .* lacks Beta; has in addition Omega; make the class folders equal"):
        read_scenes(tmp_path, part="test")


def test_images_are_cropped_to_the_middle_and_resized(tmp_path: Path) -> None:
    for name in ("Alpha", "Beta"):
        for index in range(2):
            wide = np.zeros((16, 32, 3), np.uint8)
            wide[:, 8:24] = 200  # the middle square
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(wide).save(tmp_path / name / f"{index}.png")
    assert (read_scenes(tmp_path, part="all").images == 200).all()
    half = read_scenes(tmp_path, part="all", resolution=8).images
    assert half.shape == (4, 8, 8, 3)
    assert (half == 200).all()


def test_most_common_size_decides_and_is_the_same_for_each_part(tmp_path: Path) -> None:
    root = tree(tmp_path, count=5)
    for name in ("Alpha", "Beta"):
        paint(root / name / "z.png", 7, (40, 30))  # the last by name: the only one in validation
    assert read_scenes(root, part="train").images.shape[1:3] == (8, 8)
    assert read_scenes(root, part="val").images.shape[1:3] == (8, 8)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "README.md").write_text("words")
    (root / "Alpha" / "notes.txt").write_text("words")
    (root / "Alpha" / "._Alpha_0.png").write_bytes(b"resource fork")
    (root / ".git").mkdir()
    paint(root / "Alpha" / "UPPER.JPG", 50)
    scenes = read_scenes(root, part="all")
    assert len(scenes.labels) == 9
    assert scenes.rejected == ()


def test_links_out_of_the_folder_are_read_and_broken_ones_listed(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    (root / "Alpha" / "linked.png").symlink_to(paint(tmp_path / "elsewhere.png", 77))
    (root / "Alpha" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    scenes = read_scenes(root, part="all")
    assert 77 in greys(scenes)
    assert reasons(scenes) == {"Alpha/lost.png": "broken link"}


def test_unusable_images_are_listed_with_the_reason(tmp_path: Path) -> None:
    root = tree(tmp_path)
    bad = root / "Alpha"
    whole = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(whole).save(bad / name)
        (bad / name).write_bytes((bad / name).read_bytes()[:600])
    (bad / "zero.png").write_bytes(b"")
    (bad / "text.png").write_text("not an image")
    (bad / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (1, 200, 90)]
    frames[0].save(bad / "moving.png", save_all=True, append_images=frames[1:])
    frames[0].save(bad / "pages.tif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(bad / "clear.png")
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(bad / "dark16.png")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(bad / "float.tif")
    paint(bad / "bomb.png", 0)
    header = bytearray((bad / "bomb.png").read_bytes())
    header[16:24] = struct.pack(">II", 60_000, 60_000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    (bad / "bomb.png").write_bytes(header)
    (bad / "fake.png").symlink_to("/dev/zero")
    frames[0].save(bad / "moving.gif", save_all=True, append_images=frames[1:])
    (bad / "notes.txt").write_text("no image, and no reason")

    scenes = read_scenes(root, part="all")
    found = {Path(path).name: reason for path, reason in reasons(scenes).items()}
    assert len(scenes.labels) == 8
    assert "damaged or unsupported" in found.pop("cut.jpg")
    assert "damaged or unsupported" in found.pop("cut.png")
    assert "multi-page; save the wanted image" in found.pop("moving.png")
    assert "multi-page" in found.pop("pages.tif")
    assert found.pop("moving.gif").startswith("not readable as any of JPEG")
    assert "most values up to 4000 only" in found.pop("dark16.png")
    assert found.pop("text.png").startswith("not readable as any of JPEG")
    assert found.pop("script.png").startswith("not readable as any of JPEG")
    assert "no known range" in found.pop("float.tif")
    assert found == {
        "zero.png": "empty file",
        "clear.png": "fully transparent",
        "bomb.png": "too many pixels for one image; cut it into tiles",
        "fake.png": "not a regular file",
    }


def test_other_modes_are_converted(tmp_path: Path) -> None:
    root = tree(tmp_path, count=2)
    odd = root / "Beta"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(odd / "c_red.jpg", quality=95)
    Image.new("L", (8, 8), 120).save(odd / "d_grey.png")
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(odd / "e_grey16.png")
    half = Image.new("RGBA", (8, 8), (255, 200, 100, 255))
    half.paste((255, 200, 100, 0), (0, 0, 8, 4))
    half.save(odd / "f_alpha.png")
    Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4).save(odd / "g_palette.png")
    Image.new("1", (8, 8), 1).save(odd / "h_bit.png")
    camera = Image.new("RGB", (8, 8), (90, 90, 90))
    camera.save(odd / "i_camera.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    scenes = read_scenes(root, part="all")
    assert scenes.rejected == ()
    red, grey, grey16, alpha, palette, bit, preview = scenes.images[4:]
    assert red[4, 4, 0] > 200
    assert (red[4, 4, 1:] < 60).all()
    assert (grey == 120).all()
    assert (grey16 == 128).all()
    assert alpha[0, 0].tolist() == [0, 0, 0]  # no data is black
    assert alpha[7, 0].tolist() == [255, 200, 100]
    assert palette[0, 0].tolist() == [10, 200, 30]
    assert (bit == 255).all()
    assert (preview == 90).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["png", "jpg", "tif", "webp", "bmp"]), seed=st.integers(0, 2**32 - 1))
def test_damaged_bytes_never_crash(tmp_path: Path, kind: str, seed: int) -> None:
    root = tmp_path if any(tmp_path.iterdir()) else tree(tmp_path)
    victim = root / "Alpha" / f"victim.{kind}"
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(victim)
    content = bytearray(victim.read_bytes())
    for place in rng.integers(0, len(content), rng.integers(1, 6)):
        content[place] = rng.integers(256)
    victim.write_bytes(content[: rng.integers(1, len(content) + 1)])
    try:
        scenes = read_scenes(root, part="all")
    finally:
        victim.unlink()
    assert len(scenes.labels) + len(scenes.rejected) == 9


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: root / "nowhere", r"nowhere: no such folder; give a folder"),
        (lambda root: paint(root / "one.png", 1), r"one\.png: is a file; give a folder"),
        (lambda root: root, r"holds no class folders; put each class's images"),
        (lambda root: tree(root, classes=("Only",)), r"holds one class only \('Only'\); at least two"),
        (
            lambda root: (tree(root), (root / "Void").mkdir())[0],
            r"Void: class 'Void' has no images .* remove the folder",
        ),
        (
            lambda root: tree(root, count=2),
            r"'Alpha' has 1 usable image in part 'train', at least 2 needed; add images",
        ),
    ],
)
def test_unusable_folders_are_refused(tmp_path: Path, build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message) as caught:
        read_scenes(build(tmp_path), part="train")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_too_few_usable_names_the_first_damaged_file(tmp_path: Path) -> None:
    root = tree(tmp_path, count=3)
    (root / "Beta" / "Beta_0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"'Beta' has 1 usable image .*1 rejected, first Beta/Beta_0\.png: empty file"):
        read_scenes(root, part="train")


def test_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "flat")
    with pytest.raises(DataError, match=r"flat: has no test/ with class folders; give the folder"):
        read_scenes(root, part="test")
    tree(tmp_path / "parts" / "test")
    with pytest.raises(DataError, match=r"parts: has test/ but no train/"):
        read_scenes(tmp_path / "parts", part="train")
    with pytest.raises(DataError, match=r"usable images in part 'train'.*hold out fewer"):
        read_scenes(root, part="train", held_out=HeldOut(val_per_class=4, split="names"))


def test_fingerprint_follows_content_and_tells_no_names(tmp_path: Path) -> None:
    root = tree(tmp_path / "one", count=3)
    before = fingerprint(read_scenes(root, part="all"))
    assert before["images"] == 6
    assert before["classes"] == {"Alpha": 3, "Beta": 3}
    assert "png" not in str(before)
    (root / "Alpha" / "Alpha_0.png").rename(root / "Alpha" / "zzz.png")
    assert fingerprint(read_scenes(root, part="all")) == before
    paint(root / "Alpha" / "zzz.png", 9)
    assert fingerprint(read_scenes(root, part="all")) != before


def test_a_real_folder(tmp_path: Path) -> None:
    source = DATA / "eurosat_rgb" / "test"
    if not source.is_dir():
        pytest.skip(f"{source} is not on this machine")
    for name in ("River", "Forest"):  # links: a small part of it, and nothing is copied
        (tmp_path / name).mkdir()
        for path in sorted((source / name).iterdir())[:5]:
            (tmp_path / name / path.name).symlink_to(path)
    scenes = read_scenes(tmp_path, part="all")
    assert scenes.images.shape == (10, 64, 64, 3)
    assert scenes.rejected == ()
    assert len(set(scenes.hashes)) == 10
