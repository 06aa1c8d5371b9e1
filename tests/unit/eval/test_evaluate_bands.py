"""`evaluate` with images of all bands: a set of physical values beside real GeoTIFFs, and what says no by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from dpd_eval import EvaluateConfig, Evaluation, Recipe, evaluation
from dpd_eval import evaluate as compare
from dpd_eval.inputs import EvaluationInputs, check_sight, open_compared, read_inputs
from dpd_eval.report_records import read_evaluation
from dpd_eval.selection import check_look, find_method
from dpd_runtime.bundle import load_bundle
from dpd_runtime.errors import DataError, InputError
from dpd_train.reading import HeldOut, ImageOptions, parse_reading
from dpd_train.scenes import read_scenes
from tests.banded import CLASSES, COUNTS, bands_of, scenes, write_distilled, write_real

RECIPE = Recipe(name="tiny", steps=40, batch=12, optimizer="adamw", peak_rate=5e-3, warmup=5, shift=2)
ALL = parse_reading("all", "0:2550")
HELD = HeldOut(val_per_class=4)
BANDED = ImageOptions(val_per_class=4, bands="all", stretch="0:2550")


def evaluate(sets: list[Path], train: Path, cache: Path, **options: Any) -> Evaluation:
    usual: dict[str, Any] = {"val_per_class": 4, "bands": "all", "stretch": "0:2550", "pairs": 2, "ipc": (4,)}
    return compare(sets, EvaluateConfig(**usual | options), train=train, test="val", recipe=RECIPE, cache=cache)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Path]]:
    """Real scenes, and a set with the physical values of the same noise of another seed, by number of bands."""
    root = tmp_path_factory.mktemp("bands")
    made = {}
    for count in COUNTS:
        bands = [replace(band, low=0.0, high=2550.0) for band in bands_of(count)]
        made[count] = (
            write_real(root / f"real{count}", count, 12, 1),
            write_distilled(root / f"set{count}", bands, 6, 2),
        )
    return made


@pytest.mark.parametrize("count", COUNTS)
def test_sets_and_real_images_are_on_one_scale(count: int, folders: dict[int, tuple[Path, Path]]) -> None:
    real, distilled = folders[count]
    inputs = read_inputs(open_compared([distilled], real, "val", BANDED))
    (made,) = inputs.sets
    drawn = scenes(count, 6, seed=2).images
    assert made.images.shape == drawn.shape
    assert np.abs(made.images.astype(int) - drawn).max() <= 1, "float32 of the physical values, and back"
    assert [band.name for band in made.bands] == [band.name for band in bands_of(count)]
    originals = {image.tobytes() for image in scenes(count, 12, seed=1).images}
    for part in (inputs.real, inputs.test):
        assert {image.tobytes() for image in part.images} <= originals


@pytest.mark.full
@pytest.mark.parametrize("count", [1, 4])
def test_students_of_a_set_tell_classes_that_one_band_shows(
    count: int, folders: dict[int, tuple[Path, Path]], tmp_path: Path
) -> None:
    real, distilled = folders[count]
    options = {"baselines": ("random", "herding", "k-center", "k-means", "full"), "extractor": "untrained"}
    found = evaluate([distilled], real, tmp_path, labels=False, with_real=(2,), **options)
    for arm in ("set", "random", "herding", "k-center", "k-means", "full", "2 real", "set + 2 real"):
        (result,) = (one for one in found.arms if one.arm == arm)
        assert result.oa_mean > 0.8, arm
    assert {row.arm for row in found.metrics} == {"set", "random", "herding", "k-center", "k-means"}
    assert np.isfinite([(row.kid, row.coverage, row.mean_max_cosine) for row in found.metrics]).all()
    assert found.reading is not None
    assert [band["name"] for band in found.reading["carried"]] == [band.name for band in bands_of(count)]
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read_evaluation(record, "result", "result.json").config == record["config"]
    assert record["config"]["bands"] == "all"


@pytest.mark.full
def test_soft_labels_and_named_images_have_bands_too(
    folders: dict[int, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpd_eval import extractors

    built = extractors.own_extractor
    monkeypatch.setattr(extractors, "own_extractor", lambda *a, **more: built(*a, **more, steps=40))
    real, distilled = folders[2]
    for chosen, arms in (({"labels": True}, {"labels"}), ({"soft_labels": True}, set())):
        found = evaluate([distilled], real, tmp_path, metrics=False, pairs=1, **chosen)
        assert {arm.arm for arm in found.arms} == {"set", "random"} | arms
        assert all(arm.oa_mean > 0.8 for arm in found.arms)


def test_a_set_of_other_bands_is_refused_in_one_sentence(folders: dict[int, tuple[Path, Path]], tmp_path: Path) -> None:
    real, distilled = folders[4]
    with pytest.raises(InputError, match=r"SET .*set13 has 13 bands \(B1, B2, B3, B4, …\), --train .*real4 has 4 band"):
        read_inputs(open_compared([folders[13][1]], real, "val", BANDED))
    renamed = write_distilled(tmp_path / "renamed", [replace(b, name=f"X{b.name}") for b in bands_of(4)], 2, 0)
    with pytest.raises(InputError, match=r"4 bands \(XB1, .*: both need the same bands in one order, see --bands"):
        read_inputs(open_compared([distilled, renamed], real, "val", BANDED))
    with pytest.raises(InputError, match=r"has 4 bands \(B1, B2, B3, B4\), --train .* has RGB images: add --bands all"):
        read_inputs(open_compared([distilled], real, "val", replace(BANDED, bands="3,2,1", stretch="0:2550")))
    rgb = tmp_path / "rgb"
    for name in CLASSES:
        (rgb / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(rgb / name / "0.png")
    with pytest.raises(DataError, match=r"has 0 usable images.*has 3 bands"):
        read_inputs(open_compared([rgb], real, "val", BANDED))
    (rgb / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=r"rgb has RGB images, --train .* has 4 bands .*: leave out --bands all"):
        read_inputs(open_compared([rgb], real, "val", BANDED))
    (rgb / "dataset.json").write_text(json.dumps({"bands": [{"name": "B1", "low": 2, "high": 1}]}))
    with pytest.raises(InputError, match=r"dataset.json: bands\[0\]: its limits are 2.* run the same dpd generate aga"):
        read_inputs(open_compared([rgb], real, "val", BANDED))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"baselines": ("random", "tdds")}, "tdds: looks at images of 3 bands, these have 4; leave it out"),
        ({"baselines": ("foreground",)}, "foreground: looks at images of 3 bands, these have 4"),
        ({"extractor": "mdfl"}, "--extractor mdfl: sees images of 3 bands, these have 4; give own, untrained"),
        ({"jpegs": 3.1}, "--jpegs 3.1: a JPEG has 3 bands, these images have 4; leave it out"),
    ],
)
def test_what_knows_rgb_alone_says_so_before_anything_is_trained(options: dict[str, Any], said: str) -> None:
    of_four, of_three = (EvaluationInputs(("set",), (s,), s, s, "val") for s in (scenes(4, 2), scenes(3, 2)))
    with pytest.raises(InputError, match=said):
        check_sight(of_four, EvaluateConfig(**options))
    check_sight(of_three, EvaluateConfig(**options))


def test_a_teacher_sees_rgb_alone() -> None:
    of_four, of_three = (EvaluationInputs(("set",), (s,), s, s, "val") for s in (scenes(4, 2), scenes(3, 2)))
    with pytest.raises(InputError, match=r"--teacher .*: it sees 3 bands, these images have 4; leave it out"):
        check_sight(of_four, EvaluateConfig(), load_bundle())
    check_sight(of_three, EvaluateConfig(), load_bundle())


def test_students_that_do_not_fit_the_bands_say_so_before_a_network_is_trained(
    folders: dict[int, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_build_networks", lambda *_: pytest.fail("a network was trained"))
    real, distilled = folders[4]
    config = ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    for name, said in (
        (f"hf:{tmp_path / 'vit'}", "takes images of 3 bands, these have 4"),
        ("groups:A=1,2;B=5", "no band 5: the images have 4"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate([distilled], real, tmp_path, students=("convnet", name))


def test_the_built_in_methods_need_no_sight_of_their_own() -> None:
    for name in ("random", "herding", "k-center", "k-means", "full"):
        check_look(find_method(name), scenes(13, 2))


def test_a_reading_of_three_bands_is_rgb_as_before(folders: dict[int, tuple[Path, Path]]) -> None:
    real, _ = folders[4]
    scene = read_scenes(real, part="all", reading=parse_reading("3,2,1", "0:2550"))
    assert scene.images.shape[-1] == 3
    assert scene.bands == ()
