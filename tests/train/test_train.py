"""`dpd train` as a whole on drawn scenes and a tiny random base, read back with other people's code."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from dpd_runtime.errors import DataError, InputError
from dpd_train.base import load_base
from dpd_train.images import read_scenes
from dpd_train.latents import encode, encode_cached
from dpd_train.prompts import aggregate_prompts
from dpd_train.prototypes import ClassPrototypes
from dpd_train.train import train
from tests.tiny import CONFIG, SIDE, drawn_scenes, tiny_base, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("train"))


def test_run_directory_holds_what_the_design_lists(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    wanted = {"run.json", "pipeline", "classifier", "latent_classifier", "prototypes.safetensors", "classes.json"}
    assert wanted | {"log.jsonl", "samples", "private"} == names  # checkpoints are gone
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["images"] == 6 * 8  # 10 a class, 2 of them validation
    assert record["config"]["seed"] == 0
    assert {"torch", "diffusers"} <= set(record["versions"])


def test_no_local_path_or_file_name_is_recorded(run: Path) -> None:
    for path in run.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "Forest_0" not in text, path
        if path.name != "run.json":  # which holds the base's name as the user gave it
            assert str(run.parent) not in text, path


def test_pipeline_opens_in_plain_diffusers(run: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(run / "pipeline", safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a satellite image of river", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (SIDE, SIDE, 3)
    assert np.isfinite(image).all()


def test_prototypes_are_means_of_cached_latents(run: Path) -> None:
    prototypes = load_file(run / "prototypes.safetensors")
    table = json.loads((run / "classes.json").read_text())
    assert [entry["name"] for entry in table["classes"]] == ["Fields", "Forest", "Houses", "River", "Road", "Water"]
    scenes = read_scenes(run.parent / "scenes", part="train", resolution=SIDE, val_per_class=2)
    vae = load_base(str(run / "pipeline")).vae
    latents = encode(vae, scenes.images) * vae.config.scaling_factor
    for label, entry in enumerate(table["classes"]):
        counts = torch.tensor(entry["prototype_counts"], dtype=torch.float32)
        assert counts.min() >= CONFIG.k_min
        mean = (prototypes[f"class.{label}"] * counts[:, None, None, None]).sum(0) / counts.sum()
        torch.testing.assert_close(
            mean, latents[torch.from_numpy(scenes.labels) == label].mean(0), atol=1e-4, rtol=1e-4
        )


def test_second_start_does_not_encode_again(tmp_path: Path) -> None:
    base = load_base(str(tiny_base(tmp_path)))
    scenes = read_scenes(drawn_scenes(tmp_path / "scenes", 3), part="train", val_per_class=1)
    calls: list[int] = []
    first = encode_cached(
        base.vae, scenes.images, scenes.hashes, tmp_path / "c", progress=lambda done, _total: calls.append(done)
    )
    encoded = len(calls)
    second = encode_cached(
        base.vae, scenes.images, scenes.hashes, tmp_path / "c", progress=lambda done, _total: calls.append(done)
    )
    assert encoded > 0
    assert len(calls) == encoded
    assert torch.equal(first, second)


def test_prompt_keeps_only_what_enough_members_share() -> None:
    members = np.array([0, 0, 0, 0, 1, 1])
    found = ClassPrototypes(np.zeros((2, 4, 8, 8), np.float32), (4, 2), members)
    phrases = [("dark green", "smooth")] * 3 + [("pale brown",)] + [("smooth",), ("smooth",)]
    table = aggregate_prompts(["SeaLake"], [phrases], [found], k_min=2)
    assert table.texts == ("a satellite image of sea lake, dark green, smooth", "a satellite image of sea lake, smooth")
    assert table.rows == ((0, 1),)


def test_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    base, scenes = tiny_base(tmp_path), drawn_scenes(tmp_path / "scenes")
    common = [sys.executable, "-m", "dpd_cli", "train", str(scenes), "--base", str(base), "--cache-dir"]
    common += [str(tmp_path / "cache"), "--steps", "30", "--batch", "4", "--teacher-steps", "20", "--ipc", "3"]
    common += ["--latent-classifier-steps", "20", "--k-min", "2", "--val-per-class", "2", "--threads", "1"]
    common += ["--resolution", str(SIDE)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*common, "--out", str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    killed = subprocess.Popen(
        [*common, "--out", str(tmp_path / "cut")], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    marker = tmp_path / "cut" / "classifier" / "model.safetensors"
    deadline = time.monotonic() + 120
    while not marker.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "cut" / "run.json").exists()
    refused = subprocess.run(
        [*common, "--out", str(tmp_path / "cut")], env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    subprocess.run(
        [*common, "--out", str(tmp_path / "cut"), "--resume"], check=True, env=environment, capture_output=True
    )
    for name in ("pipeline/unet/diffusion_pytorch_model.safetensors", "classifier/model.safetensors"):
        whole, cut = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        for key, tensor in whole.items():
            assert torch.equal(tensor, cut[key]), (name, key)


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    config = replace(CONFIG, base=str(base))
    with pytest.raises(DataError, match="missing"):
        train(tmp_path / "missing", tmp_path / "run", config)
    scenes = drawn_scenes(tmp_path / "scenes", 4)
    one = tmp_path / "one"
    (one / "Only").mkdir(parents=True)
    (scenes / "Road" / "Road_0000.png").rename(one / "Only" / "a.png")
    with pytest.raises(DataError):
        train(one, tmp_path / "run", config)
    with pytest.raises(InputError, match=r"model_index\.json is missing"):
        train(scenes, tmp_path / "run", replace(config, base=str(tmp_path / "nothing")))
    assert not (tmp_path / "run").exists()


def test_large_images_need_an_explicit_resolution(tmp_path: Path) -> None:
    from dpd_train.scenes import write_scenes

    write_scenes(tmp_path / "large", per_class=4, seed=0, resolution=64)
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), resolution=None)
    with pytest.raises(InputError, match=r"64 px and base .* makes 32 px: pass --resolution"):
        train(tmp_path / "large", tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_truncated_image_is_listed_and_left_out(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes")
    broken = scenes / "Road" / "Road_0000.png"
    broken.write_bytes(broken.read_bytes()[:200])
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), steps=0, teacher_steps=2, latent_classifier_steps=2)
    record = train(scenes, tmp_path / "run", config, cache=tmp_path / "cache")
    assert record["rejected"] == 1
    assert "Road_0000.png" in (tmp_path / "run" / "private" / "quarantine.csv").read_text()
