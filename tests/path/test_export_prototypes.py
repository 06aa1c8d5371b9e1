"""Prototypes in a bundle: real images are refused, and block means pull block means."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from dpd_export import ExportOptions, export_run
from dpd_export.options import check_export
from dpd_runtime import generate, load_bundle
from dpd_runtime.annotations import Array
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import Engine
from dpd_runtime.errors import InputError
from dpd_runtime.generation import resolve_sampler
from dpd_train.run import open_run
from dpd_train.train import train
from tests.tiny import CONFIG, SIDE, drawn_scenes, tiny_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, named by their kind of prototypes."""
    folder = tmp_path_factory.mktemp("kinds")
    scenes, base = drawn_scenes(folder / "scenes"), tiny_base(folder)
    config = replace(CONFIG, base=str(base), steps=0, teacher_steps=2, latent_classifier_steps=2)
    for kind in ("medoid", "centroid", "pooled"):
        train(scenes, folder / kind, replace(config, prototypes=kind), cache=folder / "cache")  # type: ignore[arg-type]
    return folder


def recording(engine_of: Callable[..., Engine], decoded: list[Array]) -> Callable[..., Engine]:
    """`Bundle.engine`, whose decoder notes the latents that it decodes."""

    class Recorder:
        def __init__(self, engine: Engine) -> None:
            self._engine = engine

        def run(self, **inputs: Array) -> Array:
            decoded.append(inputs["latent_sample"])
            return self._engine.run(**inputs)

    def recorded(bundle: Bundle, graph: str, *given: Any, **options: Any) -> Engine:
        engine = engine_of(bundle, graph, *given, **options)
        return Recorder(engine) if graph == "vae_decoder/model.onnx" else engine

    return recorded


@pytest.mark.parametrize(
    ("kind", "what"), [("medoid", "latents of real images"), ("centroid", "means of few real images' latents")]
)
def test_weak_prototypes_are_refused_before_anything_is_exported(
    kind: str, what: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"\({kind}\) are {what}, .* pass --allow-weak-prototypes"):
        export_run(folder / kind, tmp_path / "site.dpd")
    assert list(tmp_path.iterdir()) == []
    assert json.loads((folder / kind / "classes.json").read_text())["private"] is True
    check_export(open_run(folder / kind), tmp_path / "site.dpd", ExportOptions(allow_weak_prototypes=True))
    check_export(open_run(folder / "pooled"), tmp_path / "site.dpd", ExportOptions())


@pytest.mark.full
def test_weak_prototypes_that_may_leave_are_marked_in_the_bundle(folder: Path, tmp_path: Path) -> None:
    export_run(folder / "medoid", tmp_path / "site", ExportOptions(precision="fp32", allow_weak_prototypes=True))
    bundle = load_bundle(tmp_path / "site")
    assert bundle.manifest.data["private_prototypes"] is True
    assert json.loads(bundle.files["classes.json"])["private"] is True


@pytest.mark.full
def test_pooled_prototypes_pull_block_means_at_the_site(folder: Path, tmp_path: Path) -> None:
    """With g = 1 to the last step the latents' block means are the prototype's, and the images still differ."""
    export_run(folder / "pooled", tmp_path / "site", ExportOptions(precision="fp32"))
    bundle = load_bundle(tmp_path / "site")
    assert "private_prototypes" not in bundle.manifest.data
    scene = bundle.classes[0]
    assert scene.prototypes.shape[1:] == (4, 2, 2)
    assert bundle.manifest.latent_shape == (4, SIDE // 4, SIDE // 4)
    plain = resolve_sampler(bundle.manifest.sampler, steps=2, candidates=1)
    count, scaling = len(scene.prototypes), bundle.manifest.scaling_factor
    for pull in (0.0, 1.0):
        guidance = replace(plain.guidance[0], prototype_scale=pull, prototype_until=1.0)
        decoded: list[Array] = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Bundle, "engine", recording(Bundle.engine, decoded))
            sampler = replace(plain, guidance=(guidance,))
            made = list(generate(bundle, ipc=1 + count, classes=(scene.name,), sampler=sampler))
        latents = scaling * np.concatenate(decoded)[: 1 + count]
        means = latents.reshape(1 + count, 4, 2, SIDE // 8, 2, SIDE // 8).mean(axis=(3, 5))
        wanted = scene.prototypes[np.arange(1 + count) % count]
        assert bool(np.abs(means - wanted).max() < 1e-3) is (pull == 1.0)
        assert np.abs(made[0].pixels.astype(int) - made[count].pixels.astype(int)).max() > 0


@pytest.mark.full
def test_prototype_guidance_pulls_towards_the_prototype(folder: Path, tmp_path: Path) -> None:
    """With g = 1 to the last step every image of a prototype is the decoded prototype; with g = 0 they differ."""
    export_run(folder / "centroid", tmp_path / "site", ExportOptions(precision="fp32", allow_weak_prototypes=True))
    opened = load_bundle(tmp_path / "site")
    plain = resolve_sampler(opened.manifest.sampler, steps=2, candidates=1)
    guidance = replace(plain.guidance[0], prototype_scale=1.0, prototype_until=1.0)
    pulled = replace(plain, guidance=(guidance,))
    count = len(opened.classes[0].prototypes)
    name = opened.classes[0].name
    for sampler, equal in ((pulled, True), (plain, False)):
        images = [i.pixels for i in generate(opened, ipc=1 + count, classes=(name,), sampler=sampler)]
        difference = np.abs(images[0].astype(int) - images[count].astype(int)).max()
        assert bool(difference <= 1) is equal
