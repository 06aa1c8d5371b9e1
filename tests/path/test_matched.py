"""Matched codes from `dpd train` through the bundle: each of the first images is a decoded code."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from safetensors.numpy import load_file

from dpd_eval.sets import open_set
from dpd_export import ExportOptions, export_run
from dpd_runtime import generate, load_bundle, write_set
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.sampler import DEFAULT_SAMPLER, suited_sampler
from dpd_runtime.sampling import image_element
from dpd_train.bases import decode_images, load_base
from dpd_train.config import TrainConfig
from dpd_train.run import matched_count
from dpd_train.symmetry import d4
from dpd_train.train import train
from tests.tiny import CODES, CONFIG, drawn_scenes, tiny_base


@pytest.fixture(autouse=True)
def short_watchers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few views, in one thread: with two, beside another process, these small tensors take minutes."""
    monkeypatch.setattr("dpd_train.matching.VIEWS", 100)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(folder: Path, **changes: object) -> TrainConfig:
    quick = replace(CONFIG, base=str(tiny_base(folder)), prototypes="matched", k_min=15, ipc=9)
    quick = replace(quick, watcher_steps=2, matching_steps=2)
    return replace(quick, **changes)  # type: ignore[arg-type]


def many_scenes(folder: Path) -> Path:
    """22 different training images and 2 validation images in each of 6 classes."""
    return drawn_scenes(folder / "scenes", per_class=24)


def test_images_are_decoded_prototypes_and_later_ones_are_drawn(matched: Path) -> None:
    record = json.loads((matched / "run" / "run.json").read_text())
    table = json.loads((matched / "run" / "classes.json").read_text())
    assert table["prototype_kind"] == "matched"
    assert [entry["prototype_counts"] for entry in table["classes"]] == [[24] * CODES] * 6, "not 24 // --k-min"
    assert isinstance(record["prototypes_too_near"], int)

    bundle = load_bundle(matched / "whole.dpd")
    assert bundle.manifest.sampler.guidance[0].decodes
    evaluations = [bundle.manifest.sampler.evaluations_per_latent(block) for block in range(3)]
    assert evaluations[:2] == [0, 0], "11 codes are two blocks"
    assert evaluations[2] > 0
    images, others = (
        list(generate(bundle, ipc=22, classes=(bundle.classes[0].name,), seed=seed, provider="cpu")) for seed in (0, 1)
    )
    stored = load_file(matched / "run" / "prototypes.safetensors")["class.0"].astype(np.float16).astype(np.float32)
    decoded = decode_images(load_base(str(matched / "run" / "pipeline")), stored)
    for image in images[:20]:
        element = image_element(0, image.class_name, image.index)
        code = d4(torch.from_numpy(decoded[image.index % CODES]).permute(2, 0, 1), element).permute(1, 2, 0)
        assert np.abs(image.pixels.astype(int) - code.numpy().astype(int)).max() <= 1
    turned = [np.array_equal(ours.pixels, theirs.pixels) for ours, theirs in zip(images[:20], others, strict=False)]
    assert sum(turned) < 10, "another seed shows the prototypes in other ways"
    for image in images[20:]:
        assert np.abs(image.pixels.astype(int) - decoded[image.index % CODES].astype(int)).max() > 5


@pytest.mark.full  # a session for each step
def test_sessions_end_as_one_run(tmp_path: Path) -> None:
    scenes, made = many_scenes(tmp_path), config(tmp_path, steps=0, teacher_steps=1, latent_classifier_steps=1, ipc=2)
    train(scenes, tmp_path / "whole", made, cache=tmp_path / "cache")
    stages = []
    while True:
        record = train(scenes, tmp_path / "cut", made, cache=tmp_path / "cache", resume=True, max_minutes=0)
        if "unfinished" not in record:
            break
        stages.append(record["unfinished"]["stage"])
        assert len(stages) < 40
    assert {"watchers", "matching"} <= set(stages)
    name = "prototypes.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_what_cannot_be_matched_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="has 8 different training images, and --prototypes matched needs at least 20"):
        train(drawn_scenes(tmp_path / "few"), tmp_path / "run", config(tmp_path), cache=tmp_path / "cache")
    monkeypatch.setattr("dpd_train.bases.DECODER_LIMIT", 1000)
    with pytest.raises(InputError, match=r"--prototypes matched .* use pooled, or --device cuda"):
        train(many_scenes(tmp_path), tmp_path / "run", config(tmp_path), cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("per_class", "kind"), [pytest.param(24, "matched", marks=pytest.mark.full), (12, "pooled")])
def test_codes_are_matched_by_default_where_every_class_has_twenty_images(
    per_class: int, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", per_class=per_class)
    short = config(tmp_path, steps=0, teacher_steps=1, latent_classifier_steps=1, prototypes=None, ipc=2, k_min=2)
    record = train(scenes, tmp_path / "run", short, cache=tmp_path / "cache")
    assert json.loads((tmp_path / "run" / "classes.json").read_text())["prototype_kind"] == kind
    assert record["config"]["prototypes"] == kind
    told = [line for line in caplog.messages if line.startswith("prototypes are pooled: class ")]
    assert len(told) == (kind == "pooled")


def test_no_code_stands_for_fewer_than_two_images() -> None:
    assert [matched_count(10, images) for images in (20, 30, 1000)] == [10, 10, 10]
    assert [matched_count(50, images) for images in (20, 30, 1000)] == [10, 15, 50]


def test_the_suited_sampler_decodes_whole_blocks_of_matched_prototypes_alone() -> None:
    def table(kind: str, *counts: int) -> dict[str, object]:
        return {"prototype_kind": kind, "classes": [{"prototype_counts": [5] * n} for n in counts]}

    assert suited_sampler(table("centroid", 20, 20)) == DEFAULT_SAMPLER
    assert suited_sampler(table("matched", 20, 0)) == DEFAULT_SAMPLER
    for fewest, blocks in ((10, 1), (9, 1), (50, 5)):
        guidance = suited_sampler(table("matched", 50, fewest)).guidance
        assert [g.decodes for g in guidance] == [True, False, False]
        assert [g.begins_at_prototypes for g in guidance] == [True, True, False]
        assert [g.from_block for g in guidance] == [0, blocks, 10 * blocks]
        assert guidance[2] == replace(DEFAULT_SAMPLER.guidance_for(10 * blocks), from_block=10 * blocks)


def test_networks_that_watched_are_named_at_the_site(matched: Path, tmp_path: Path) -> None:
    shutil.copytree(matched / "run", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "watchers" not in record
    seen = [{"name": "hf:eyes", "weights_sha256": "0123456789ab" + "0" * 52, "licence": "cc-by-nd-4.0"}]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"watchers": seen}))
    export_run(tmp_path / "run", tmp_path / "seen.dpd", ExportOptions(precision="fp32", codes_only=True))
    with zipfile.ZipFile(tmp_path / "seen.dpd") as archive:
        assert (
            "| network that watched | hf:eyes, weights 0123456789ab…, licence cc-by-nd-4.0, which forbids derivatives |"
            in archive.read("MODEL_CARD.md").decode()
        )
    for bundle, names in ((tmp_path / "seen.dpd", ["hf:eyes"]), (matched / "codes.dpd", [])):
        out = tmp_path / bundle.stem
        write_set(generate(load_bundle(bundle), ipc=1, provider="cpu"), out)
        assert json.loads((out / "dataset.json").read_text())["watchers"] == names
        assert open_set(out).published_watchers == tuple(names)
        assert (
            "Networks that watched beside the run's own, as the bundle claims: `hf:eyes`"
            in (out / "README.md").read_text()
        ) == (bool(names))
