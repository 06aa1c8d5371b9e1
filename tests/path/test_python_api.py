"""The Python API takes drawn scenes to a classifier, and each call hands on what the one before returned."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
import dpd_distill as dpd
import dpd_runtime
from dpd_runtime.bundle import Bundle, embedded_bundle
from dpd_runtime.errors import InputError
from dpd_runtime.generation import Generation, resolve_sampler
from dpd_train.compute import one_thread
from dpd_train.config import TrainConfig
from tests.tiny import CONFIG, drawn_scenes, tiny_base


def test_it_generates_from_the_embedded_bundle() -> None:
    made = dpd.generate(ipc=2, seed=1, classes=["Forest"], threads=1)
    images = list(made)
    assert len(made) == len(images) == 2
    assert [image.class_name for image in images] == ["Forest"] * 2
    assert images[0].pixels.shape == (64, 64, 3)


def test_a_place_and_settings_of_sampling_are_enough(tmp_path: Path) -> None:
    bundle = dpd_runtime.load_bundle()
    sampler = resolve_sampler(bundle.manifest.sampler, steps=2, candidates=1, solver="ddim", guidance_scale=2.0)
    asked = {"ipc": 2, "classes": ["Forest"], "provider": "cpu", "threads": 1}
    expected = [image.pixels for image in Generation(bundle, sampler=sampler, **asked)]
    place = shutil.copy(embedded_bundle(), tmp_path / "site.dpd")
    made = dpd_runtime.generate(str(place), steps=2, candidates=1, solver="ddim", guidance_scale=2.0, **asked)
    np.testing.assert_array_equal([image.pixels for image in made], expected)
    decoded = [image.pixels for image in dpd_runtime.generate(place, **asked)]
    assert not np.array_equal(decoded, expected)


def test_what_a_user_looks_at_is_shown_in_a_line() -> None:
    bundle = dpd_runtime.load_bundle()
    made = dpd_runtime.generate(bundle, ipc=1, classes=["Forest"], threads=1)
    assert repr(bundle.classes[1]) == "SceneClass('Forest', label 1, 50 prototypes, matched)"
    for shown in (bundle, *bundle.classes, bundle.schedule, bundle.manifest.sampler, made, *made):
        assert len(repr(shown)) < 200


@pytest.mark.full
def test_from_scenes_to_a_classifier(tmp_path: Path) -> None:
    scenes = dpd.open_scenes(drawn_scenes(tmp_path / "scenes", per_class=12), val_per_class=3)
    usual = asdict(TrainConfig())
    options = {
        name: value for name, value in asdict(CONFIG).items() if value != usual[name] and name != "val_per_class"
    }
    with one_thread():
        run = dpd.train(scenes, tmp_path / "run", device="cpu", base=str(tiny_base(tmp_path)), **options)
        assert run.record["data"]["val_per_class"] == 3
        bundle = dpd.export(run, tmp_path / "site.dpd", precision="fp32", name="site")
        assert isinstance(bundle, Bundle)
        made = dpd.write_set(dpd.generate(bundle, ipc=3, provider="cpu", threads=1), tmp_path / "set")
        compared = dpd.evaluate(
            made.out, train=scenes, test="val", device="cpu", ipc=(2,), pairs=2, metrics=False, jobs=1
        )
        assert compared.val_per_class == 3
        assert {arm.arm for arm in compared.arms} >= {"set", "random"}
        assert "<table>" in compared._repr_html_()
        audited = tmp_path / "audited.dpd"
        found = dpd.audit(bundle, train=scenes, device="cpu", run=run, images=20, out=audited)
        assert found.audited.bundle_hash == bundle.hash
        assert dpd_runtime.load_bundle(audited).manifest.audit == found.verdict
        with pytest.raises(InputError, match=r"audited\.dpd exists"):
            dpd.audit(bundle, train=scenes, out=audited)
        with pytest.raises(InputError, match="an audit is written into a bundle, and this is none"):
            dpd.audit(run, train=scenes, out=tmp_path / "none.dpd")
        assert f"Audit: {found.verdict}" in found._repr_html_()
        classifier = dpd.fit(made.out, tmp_path / "model", device="cpu", steps=5)
        labelled = dpd.predict(classifier, tmp_path / "set" / scenes.classes[0])
    assert len(labelled.labels) == 3
    assert not labelled.unread
