"""Images with masks as scenes of bands: what goes in comes out, and a segmenter learns from it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from typer.testing import CliRunner

from dpd_neighbours.masks import app, joined, mask_values, mean_iou, parted
from dpd_neighbours.segmenter import Segmenter, segment, train_segmenter
from dpd_runtime.errors import DataError, InputError
from dpd_train.reading import parse_reading
from dpd_train.scenes import read_scenes

VALUES = (0, 7, 255)


def pairs(count: int, seed: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright and a dark disc; the mask's numbers are 0 outside, 1 in the bright, 2 in the dark one."""
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 140, (count, side, side, 3), dtype=np.uint8)
    masks = np.zeros((count, side, side), np.uint8)
    places = np.mgrid[:side, :side]
    for image, mask in zip(images, masks, strict=True):
        for number, value in ((1, 230), (2, 20)):
            middle, radius = rng.uniform(0, side, 2), rng.uniform(5, 10)
            inside = np.hypot(*(places - middle[:, None, None])) < radius
            image[inside], mask[inside] = value, number
    return images, masks


def write(root: Path, count: int, seed: int) -> tuple[Path, Path]:
    images, masks = pairs(count, seed)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image).save(root / "images" / f"{number}.jpg", quality=95)
        Image.fromarray(np.array(VALUES, np.uint8)[mask]).save(root / "masks" / f"{number}.png")
    return root / "images", root / "masks"


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@given(
    arrays.arrays(np.uint8, (5, 6, 3)),
    arrays.arrays(np.uint8, (5, 6), elements=st.integers(0, 3)),
    st.integers(-100, 100),
)
def test_a_mask_survives_what_a_decoder_does_to_its_bands(pixels: np.ndarray, mask: np.ndarray, error: int) -> None:
    """Errors below half the range, the same for all bands of a pixel or not."""
    bands = joined(pixels, mask, 4).astype(np.int64)
    bands[..., 3:] += np.where(bands[..., 3:] > 127, -abs(error), error)
    again, numbers = parted(bands.clip(0, 255).astype(np.uint8))
    np.testing.assert_array_equal(again, pixels)
    np.testing.assert_array_equal(numbers, mask)


def test_packed_scenes_are_read_as_bands_and_come_back_as_images_and_masks(tmp_path: Path) -> None:
    images, masks = write(tmp_path, 6, 0)
    run("pack", images, masks, "--values", "0,7,255", "--out", tmp_path / "scenes")
    extra = tmp_path / "scenes" / "mostly_7"  # a scene set has two classes at least
    extra.mkdir(exist_ok=True)
    for number in range(2):
        np.savez(extra / f"x{number}.npz", bands=joined(*(x[number] for x in pairs(2, 9)), 3))
    reading = parse_reading("all", "0:255")
    scenes = read_scenes(tmp_path / "scenes", part="all", resolution=32, reading=reading)
    assert scenes.images.shape[1:] == (32, 32, 6)
    order = np.arange(len(scenes.labels))
    np.savez(tmp_path / "set.npz", images=scenes.images, labels=scenes.labels, index=order)
    run("unpack", tmp_path / "set.npz", "--values", "0,7,255", "--out", tmp_path / "pairs")
    for row, path in enumerate(scenes.paths):
        mask = np.asarray(Image.open(tmp_path / "pairs" / "masks" / f"{row:05d}.png"))
        if Path(path).parts[0] == "mostly_0":
            np.testing.assert_array_equal(mask, np.asarray(Image.open(masks / f"{Path(path).stem}.png")))


def test_mean_iou_of_a_known_pair() -> None:
    truth, found = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    assert mean_iou(truth, found, 3) == pytest.approx((1 / 2 + 2 / 3) / 2)  # nobody says 2
    assert mean_iou(truth, truth, 3) == 1.0


@pytest.mark.full
def test_a_segmenter_learns_and_depends_on_its_seed_alone() -> None:
    images, masks = pairs(12, 0)
    unseen, truth = pairs(8, 1)
    models = [train_segmenter(images, masks, 3, 60, seed) for seed in (0, 0, 1)]
    first = [next(model.parameters()) for model in models]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert mean_iou(truth, segment(models[0], unseen), 3) > 0.8
    assert Segmenter(3).eval()(torch.zeros(1, 3, 32, 48)).shape == (1, 3, 32, 48)


def test_a_set_of_the_real_pairs_is_worth_what_they_are(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train", 8, 0), write(tmp_path / "test", 4, 1)
    said = run(
        *("compare", tmp_path / "train", "--values", "0,7,255", "--train", *train, "--test", *test),
        *("--numbers", "8", "--repeats", "2", "--steps", "40", "--side", "32"),
    )
    found = json.loads(said)["8"]
    assert abs(found["difference"][0]) < 5, "the same pairs, in another order"
    assert min(found["set"]) > 80


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((4, 5), np.uint8), r"0.png: has the shape \(4, 5\), its image \(32, 32\)"),
        (np.full((32, 32), 3, np.uint8), r"has the value 3; --values declares \(0, 7, 255\)"),
        (None, "has no mask"),
        (b"no picture", "0.png: cannot be read as an image"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(tmp_path: Path, mask: np.ndarray | bytes | None, said: str) -> None:
    images, masks = write(tmp_path, 1, 0)
    (masks / "0.png").unlink()
    if isinstance(mask, bytes):
        (masks / "0.png").write_bytes(mask)
    elif mask is not None:
        Image.fromarray(mask).save(masks / "0.png")
    with pytest.raises(DataError, match=said):
        run("pack", images, masks, "--values", "0,7,255", "--out", tmp_path / "out")


@pytest.mark.parametrize("text", ["0", "0,0", "0,1,", "0,256", "a,b", ""])
def test_values_must_be_declared(text: str) -> None:
    with pytest.raises(InputError, match="give two or more different numbers"):
        mask_values(text)


def test_a_set_of_other_bands_and_too_many_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 8, 8, 5), np.uint8), labels=[0, 1], index=[0, 0])
    with pytest.raises(InputError, match="has 5 bands"):
        run("unpack", tmp_path / "set.npz", "--values", "0,1,2", "--out", tmp_path / "out")
    images, masks = write(tmp_path / "x", 2, 0)
    with pytest.raises(InputError, match="--numbers 3: the set has 2 images"):
        run(
            *("compare", tmp_path / "x", "--values", "0,7,255", "--train", images, masks, "--test", images, masks),
            *("--numbers", "3", "--side", "32"),
        )
