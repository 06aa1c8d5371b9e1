"""`dpd train` as a whole on drawn scenes and a tiny random base, read back with other people's code."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import avg_pool2d

from dpd_runtime.errors import DataError, InputError
from dpd_runtime.files import worked_in
from dpd_train.bases import encode, encode_cached, load_base
from dpd_train.captions import aggregate_prompts
from dpd_train.config import TrainConfig
from dpd_train.prototypes import ClassPrototypes
from dpd_train.reading import HeldOut
from dpd_train.scenes import read_scenes
from dpd_train.stages import points_lost
from dpd_train.train import train
from tests.commands import Done
from tests.commands import dpd as run_dpd
from tests.sd_like import sd_like
from tests.tiny import CONFIG, SIDE, drawn_scenes, tiny_base


@pytest.fixture(scope="module")
def run(tiny_trained: Path) -> Path:
    return tiny_trained


def test_run_directory_holds_what_the_design_lists(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    wanted = {"run.json", "pipeline", "classifier", "latent_classifier", "prototypes.safetensors", "classes.json"}
    assert wanted | {"log.jsonl", "samples", "private"} == names  # checkpoints are gone
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["images"] == 6 * 8  # 10 a class, 2 of them validation
    assert record["config"]["seed"] == 0
    assert {"torch", "diffusers"} <= set(record["versions"])
    assert record["seconds"] > 0


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
    prototypes = load_file(run / "prototypes.safetensors")  # pooled: means in blocks of 4 x 4
    table = json.loads((run / "classes.json").read_text())
    assert [entry["name"] for entry in table["classes"]] == ["Fields", "Forest", "Houses", "River", "Road", "Water"]
    scenes = read_scenes(run.parent / "scenes", part="train", resolution=SIDE, held_out=HeldOut(val_per_class=2))
    vae = load_base(str(run / "pipeline")).vae
    latents = encode(vae, scenes.images) * vae.config.scaling_factor
    for label, entry in enumerate(table["classes"]):
        counts = torch.tensor(entry["prototype_counts"], dtype=torch.float32)
        assert counts.min() >= CONFIG.k_min
        mean = (prototypes[f"class.{label}"] * counts[:, None, None, None]).sum(0) / counts.sum()
        torch.testing.assert_close(
            mean, avg_pool2d(latents[torch.from_numpy(scenes.labels) == label].mean(0), 4), atol=1e-4, rtol=1e-4
        )


def test_second_start_does_not_encode_again(tmp_path: Path) -> None:
    base = load_base(str(tiny_base(tmp_path)))
    scenes = read_scenes(drawn_scenes(tmp_path / "scenes", 3), part="train", held_out=HeldOut(val_per_class=1))
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


def _stages(data: Path, out: Path, config: TrainConfig, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """A run and the titles of the stages that did something."""
    seen: list[str] = []

    def stage(title: str) -> Any:
        seen.append(title)
        return lambda done, total: None

    return train(data, out, config, progress=stage, **options), seen


@pytest.mark.full
def test_second_run_neither_encodes_nor_captions_again_and_gives_the_same(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes")
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), steps=1, teacher_steps=2, latent_classifier_steps=2)
    first, seen = _stages(scenes, tmp_path / "a", config, cache=tmp_path / "cache")
    again, less = _stages(scenes, tmp_path / "b", config, cache=tmp_path / "cache")
    cached = ["encoding", "encoding the validation part", "captions", "captions of the validation part"]
    assert seen == ["teacher", *cached[:2], "latent classifier", *cached[2:], "fine-tuning"]
    assert less == ["teacher", "latent classifier", "fine-tuning"]
    for entry, stages in ((first, seen), (again, less)):
        assert list(entry["stages"]) == stages
        assert entry.pop("seconds") >= sum(entry.pop("stages").values()) - 0.5  # each is rounded
    assert first == again
    for name in ("prototypes.safetensors", "classes.json", "pipeline/unet/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize("tune", ["full", pytest.param("lora", marks=pytest.mark.full)])
def test_stopped_sessions_end_as_one_run_and_their_seconds_add_up(
    tune: Literal["full", "lora"], tmp_path: Path
) -> None:
    """No time at all: each session does one step of the stage that it finds, and says where it stands."""
    scenes = drawn_scenes(tmp_path / "scenes")
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), steps=3, teacher_steps=2, latent_classifier_steps=1)
    config = replace(config, tune=tune)
    whole = train(scenes, tmp_path / "whole", config, cache=tmp_path / "cache")
    stops: list[tuple[str, int]] = []
    seconds = [0.0]
    while True:
        record = train(scenes, tmp_path / "cut", config, cache=tmp_path / "cache", resume=True, max_minutes=0)
        assert record["seconds"] > seconds[-1]
        seconds.append(record["seconds"])
        if "unfinished" not in record:
            break
        stops.append((record["unfinished"]["stage"], record["unfinished"]["step"]))
        assert not (tmp_path / "cut" / "run.json").exists()
        assert len(stops) < 6
    assert stops == [("teacher", 1), ("fine-tuning", 1), ("fine-tuning", 2)]
    for name in ("pipeline/unet/diffusion_pytorch_model.safetensors", "classifier/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    assert record["metrics"] == whole["metrics"]


@pytest.mark.full
def test_adapters_on_a_stable_diffusion_base_end_up_in_the_pipeline(tmp_path: Path) -> None:
    source = sd_like(tmp_path / "sd", version=2, class_embed_type="timestep")
    config = replace(CONFIG, base=str(source), tune="lora", lora_rank=2, peak_rate=0.05, teacher_steps=2)
    config = replace(config, latent_classifier_steps=2)
    record = train(drawn_scenes(tmp_path / "scenes"), tmp_path / "run", config, cache=tmp_path / "cache")
    assert record["config"]["tune"] == "lora"
    before, after = (load_base(str(folder)).unet for folder in (source, tmp_path / "run" / "pipeline"))
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    attention = {f"{part}.weight" for part in ("to_q", "to_k", "to_v", "to_out.0")}
    assert changed
    assert all(any(name.endswith(end) for end in attention) for name in changed)
    texts = [load_base(str(folder)).text_encoder.state_dict() for folder in (source, tmp_path / "run" / "pipeline")]
    assert all(torch.equal(value, texts[1][name]) for name, value in texts[0].items())
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline", local_files_only=True)
    pipeline.unet = before
    pipeline.load_lora_weights(tmp_path / "run" / "adapter")
    noisy, context = torch.ones(1, 4, 4, 4), torch.ones(1, 77, 16)
    with torch.no_grad():
        found, expected = (unet(noisy, torch.tensor(9), context).sample for unet in (pipeline.unet, after))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("judge_on", ["latents", "pixels"])
def test_consistency_is_judged_on_latents_or_on_pixels(tmp_path: Path, judge_on: Literal["latents", "pixels"]) -> None:
    plainly = replace(CONFIG, base=str(tiny_base(tmp_path)), batch=16)  # of few images none may be below its floor
    scenes = drawn_scenes(tmp_path / "scenes")
    for out, config in (("plain", plainly), ("run", replace(plainly, lambda_cls=0.5, judge_on=judge_on))):
        train(scenes, tmp_path / out, config, cache=tmp_path / "cache")
    name = "pipeline/unet/diffusion_pytorch_model.safetensors"
    judged, plain = load_file(tmp_path / "run" / name), load_file(tmp_path / "plain" / name)
    assert all(bool(torch.isfinite(value).all()) for value in judged.values())
    assert any(not torch.equal(value, judged[key]) for key, value in plain.items())


@pytest.mark.full
def test_tuned_decoder_leaves_the_latents_alone(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    config = replace(CONFIG, base=str(base), steps=0, teacher_steps=2, latent_classifier_steps=2, tune_vae=True)
    config = replace(config, vae_steps=3, perceptual_steps=2)
    train(drawn_scenes(tmp_path / "scenes"), tmp_path / "run", config, cache=tmp_path / "cache")
    before, after = (load_base(str(folder)).vae.state_dict() for folder in (base, tmp_path / "run" / "pipeline"))
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "post_quant_conv"}


@pytest.mark.parametrize(("most_lost", "tuned"), [(-101.0, True), (100.0, False)])
def test_the_decoder_is_tuned_where_reconstructions_cost_too_much(
    most_lost: float, tuned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpd_train.stages.MOST_LOST", most_lost)
    base = tiny_base(tmp_path)
    config = replace(CONFIG, base=str(base), steps=0, teacher_steps=2, latent_classifier_steps=2, prototypes="none")
    config = replace(config, tune_vae=None, vae_steps=1, perceptual_steps=1)
    record, seen = _stages(drawn_scenes(tmp_path / "scenes"), tmp_path / "run", config, cache=tmp_path / "cache")
    assert record["metrics"]["decoder_tuned"] is tuned
    assert ("VAE decoder" in seen) is tuned


def test_points_lost_is_the_difference_of_two_accuracies(tmp_path: Path) -> None:
    base = load_base(str(tiny_base(tmp_path)))
    images = torch.cat([torch.full((6, 3, SIDE, SIDE), -0.9), torch.full((4, 3, SIDE, SIDE), 0.9)])

    class Brightness(torch.nn.Module):
        """Class 1 is bright; the tiny decoder's reconstructions of bright images are dark."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = (x.mean((1, 2, 3)) > 0.5).float()
            return torch.stack([1 - bright, bright], 1)

    assert points_lost(base, Brightness(), (images, torch.tensor([0] * 6 + [1] * 4))) == pytest.approx(40)  # type: ignore[arg-type]


def test_record_tells_the_machine_and_how_the_base_was_made(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    (base / "pretrain.json").write_text('{"config": {"seed": 3}}')
    config = replace(CONFIG, base=str(base), steps=0, teacher_steps=2, latent_classifier_steps=2, prototypes="none")
    record = train(drawn_scenes(tmp_path / "scenes"), tmp_path / "run", config, cache=tmp_path / "cache")
    assert record["base_pretraining"] == {"config": {"seed": 3}}
    assert f", {torch.get_num_threads()} of " in record["hardware"]
    assert set(record["prototypes"].values()) == {0}
    assert not (tmp_path / "run" / "private" / "prototypes").exists() or not any(
        (tmp_path / "run" / "private" / "prototypes").iterdir()
    )


def test_real_prototypes_are_marked_and_shown_in_private_only(tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), steps=0, teacher_steps=2, latent_classifier_steps=2)
    scenes, run = drawn_scenes(tmp_path / "scenes"), tmp_path / "run"
    record = train(scenes, run, replace(config, prototypes="medoid"), cache=tmp_path / "cache")
    assert record["private_prototypes"] is True
    assert json.loads((run / "classes.json").read_text())["private"] is True
    with safe_open(run / "prototypes.safetensors", framework="pt") as file:
        assert file.metadata() == {"private": "latents of real images"}
        shapes = {name: file.get_tensor(name).shape[1:] for name in file.keys()}  # noqa: SIM118 - not a mapping
    assert set(shapes.values()) == {(4, SIDE // 4, SIDE // 4)}
    sheets = sorted(path.name for path in (run / "private" / "prototypes").iterdir())
    assert sheets == [f"{name}.png" for name in ("Fields", "Forest", "Houses", "River", "Road", "Water")]
    pooled = train(scenes, tmp_path / "pooled", replace(config, prototypes="pooled"), cache=tmp_path / "cache")
    assert "private_prototypes" not in pooled
    table = json.loads((tmp_path / "pooled" / "classes.json").read_text())
    assert table["prototype_kind"] == "pooled"
    assert "private" not in table
    tensors = load_file(tmp_path / "pooled" / "prototypes.safetensors")
    assert {value.shape[1:] for value in tensors.values()} == {(4, 2, 2)}


@pytest.mark.full  # four commands; that every step can be the last is asserted in test_denoiser.py
def test_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    base, scenes = tiny_base(tmp_path), drawn_scenes(tmp_path / "scenes")
    common = [sys.executable, "-m", "dpd_cli", "train", str(scenes), "--base", str(base), "--cache-dir"]
    common += [str(tmp_path / "cache"), "--steps", "30", "--batch", "4", "--set", "teacher_steps=20", "--ipc", "3"]
    common += ["--set", "latent_classifier_steps=20", "--k-min", "2", "--val-per-class", "2", "--threads", "1"]
    common += ["--resolution", str(SIDE), "--preset", "quick"]
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
    config = json.loads((tmp_path / "whole" / "run.json").read_text())["config"]
    assert (config["steps"], config["k_min"], config["peak_rate"]) == (30, 2, 1e-4)  # given, given, the preset's
    for name in ("pipeline/unet/diffusion_pytorch_model.safetensors", "classifier/model.safetensors"):
        whole, cut = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        for key, tensor in whole.items():
            assert torch.equal(tensor, cut[key]), (name, key)


@pytest.mark.full
def test_resume_alone_continues_with_the_stored_data_and_options(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    base = tiny_base(tmp_path)
    drawn_scenes(tmp_path / "scenes")
    options = ["--base", str(base), "--steps", "2", "--batch", "4", "--set", "teacher_steps=6", "--val-per-class", "2"]
    options += [
        "--set",
        "latent_classifier_steps=6",
        "--ipc",
        "3",
        "--k-min",
        "2",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]

    def dpd(*arguments: str) -> Done:
        return run_dpd(["train", *arguments], process_environment, tmp_path)

    whole = dpd("scenes", "--out", "whole", *options)
    assert whole.returncode == 0, whole.stderr
    few = "class 'Fields' has 8 training images, fewer than 60: networks trained on so few give them away; add images"
    assert f"warning        {few}" in whole.stderr
    assert whole.stderr.index(few) < whole.stderr.index("stage 1 of "), "said first"
    begun = dpd("scenes", "--out", "cut", "--max-minutes", "0", *options)
    assert begun.returncode == 0, begun.stderr
    assert re.search(r"^stage 1 of \d+: teacher, a classifier of your images", begun.stderr, re.MULTILINE)
    assert "time is up     teacher is at step 1 of 6" in begun.stdout
    assert begun.stdout.splitlines()[-1].split(maxsplit=1) == ["next", "dpd train --resume --out cut"]
    other = dpd("--resume", "--out", "cut", "--set", "teacher_steps=7")
    assert other.returncode == 2
    assert "--set teacher_steps 7: the unfinished run in cut has 6" in other.stderr
    with worked_in(tmp_path / "cut", "dpd train"):
        second = dpd("--resume", "--out", "cut")
    assert second.returncode == 2
    assert "cut: another dpd train works there; wait until it ends" in second.stderr
    same = dpd("--resume", "--out", "cut", "--set", "teacher_steps=6", "--max-minutes", "0")
    assert "teacher is at step 2 of 6" in same.stdout
    last = dpd("--resume", "--out", "cut")
    assert last.returncode == 0, last.stderr
    for part in ("classifier", "latent_classifier", "pipeline/unet"):
        name = "model.safetensors" if "classifier" in part else "diffusion_pytorch_model.safetensors"
        assert (tmp_path / "cut" / part / name).read_bytes() == (tmp_path / "whole" / part / name).read_bytes(), part
    nothing = dpd("--resume", "--out", "new")
    assert (nothing.returncode, "DATA is missing" in nothing.stderr) == (2, True)


@pytest.mark.full
def test_an_interruption_names_the_command_that_continues(tmp_path: Path, process_environment: dict[str, str]) -> None:
    base = tiny_base(tmp_path)
    drawn_scenes(tmp_path / "scenes")
    command = [sys.executable, "-m", "dpd_cli", "train", "scenes", "--base", str(base), "--out", "my run"]
    command += ["--set", "teacher_steps=1000000", "--cache-dir", str(tmp_path / "cache")]
    environment = process_environment | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "my run" / "checkpoints" / "seconds.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)  # the teacher is trained
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 130
    assert said == "dpd: interrupted; continue with: dpd train --resume --out 'my run'"


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
    with pytest.raises(InputError, match="no such folder"):
        train(scenes, tmp_path / "run", replace(config, base=str(tmp_path / "nothing")))
    with pytest.raises(InputError, match=r"model_index\.json is missing"):
        train(scenes, tmp_path / "run", replace(config, base=str(scenes)))
    with pytest.raises(InputError, match="nobody"):
        train(scenes, tmp_path / "run", replace(config, captioner="nobody"))
    assert not (tmp_path / "run").exists()


def test_what_becomes_of_the_size_of_images_is_said_and_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from dpd_train.drawn_scenes import write_scenes

    write_scenes(tmp_path / "large", per_class=4, seed=0, resolution=128)
    with Image.open(tmp_path / "large" / "Road" / "Road_0001.png") as image:
        image.crop((0, 0, 100, 60)).save(tmp_path / "large" / "Road" / "Road_0001.png")
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), resolution=None, steps=0, val_per_class=1)
    config = replace(config, teacher_steps=2, latent_classifier_steps=2, prototypes="none")
    with caplog.at_level(logging.INFO):
        record = train(tmp_path / "large", tmp_path / "run", config, cache=tmp_path / "cache")
    said = [line for line in caplog.messages if line.startswith(("scenes of", "--resolution"))]
    assert said[0] == (
        "scenes of 60 to 128 px, median 128, are cut to their middle square and reduced to 32 x 32 px, the size of "
        f"base {config.base}: the set shows nothing finer"
    )
    assert said[1].startswith("--resolution 64 keeps more: a step takes about 4 times as long")
    assert record["config"]["resolution"] == 32
    assert record["data"]["scene_sides"] == {"least": 60, "median": 128, "most": 128, "cut": True}
    caplog.clear()
    with caplog.at_level(logging.INFO):
        record = train(tmp_path / "large", tmp_path / "run64", replace(config, resolution=64), cache=tmp_path / "cache")
    said = [line for line in caplog.messages if line.startswith(("scenes of", "--resolution"))]
    assert len(said) == 1
    assert "resized to 64 x 64 px, as --resolution says" in said[0]
    assert record["config"]["resolution"] == 64
    with Image.open(tmp_path / "run64" / "samples" / "final.png") as sheet:
        assert sheet.height >= 6 * 64


def _planted(folder: Path) -> Path:
    """Drawn scenes with three near duplicates: of another class, turned; compressed anew; the same file."""
    scenes = drawn_scenes(folder)
    road = Image.open(scenes / "Road" / "Road_0001.png")
    road.rotate(90).save(scenes / "Water" / "A.png")
    Image.open(scenes / "Houses" / "Houses_0000.png").save(scenes / "Houses" / "Houses_0000a.jpg", quality=95)
    (scenes / "Forest" / "A.png").write_bytes((scenes / "Forest" / "Forest_0002.png").read_bytes())
    return scenes


@pytest.mark.full
def test_near_duplicates_are_left_out_and_counted_unless_they_are_to_stay(tmp_path: Path) -> None:
    scenes = _planted(tmp_path / "scenes")
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), steps=0, teacher_steps=2, latent_classifier_steps=2)
    config = replace(config, prototypes="centroid", split="names")  # none of the three is held out then
    record = train(scenes, tmp_path / "run", config, cache=tmp_path / "cache")
    assert record["near_duplicates"] == 3
    assert record["data"]["images"] == 6 * 8 + 3, "an audit asks for all that were given"
    listed = (tmp_path / "run" / "private" / "quarantine.csv").read_text()
    assert 'Houses/Houses_0000a.jpg,"left out, near Houses/Houses_0000.png"' in listed
    assert 'Water/A.png,"left out, near Road/Road_0001.png"' in listed
    table = json.loads((tmp_path / "run" / "classes.json").read_text())
    members = sum(sum(entry["prototype_counts"]) for entry in table["classes"])
    kept = train(scenes, tmp_path / "kept", replace(config, keep_near_duplicates=True), cache=tmp_path / "cache")
    assert kept["near_duplicates"] is None
    assert kept["data"] == record["data"]
    assert members <= 6 * 8


def test_noise_on_prototypes_is_told_and_is_not_the_seeds(tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), steps=0, teacher_steps=2, latent_classifier_steps=2)
    scenes = drawn_scenes(tmp_path / "scenes")
    config = replace(config, prototypes="pooled", prototype_noise=0.5)
    records = [train(scenes, tmp_path / name, config, cache=tmp_path / "cache") for name in ("a", "b")]
    told = records[0]["prototype_privacy"]
    assert told == records[1]["prototype_privacy"]
    assert told["epsilon"] > 0
    assert (told["noise"], told["norm_limit"], told["members"]) == (0.5, 4.0, 2)  # √(4 · 2 · 2)
    first, second = (load_file(tmp_path / name / "prototypes.safetensors") for name in ("a", "b"))
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    assert shared
    for name in shared:
        assert not torch.equal(first[name], second[name]), "the model card tells the seed: it must not give the noise"


def test_truncated_image_is_listed_and_left_out(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes")
    broken = scenes / "Road" / "Road_0000.png"
    broken.write_bytes(broken.read_bytes()[:200])
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), steps=0, teacher_steps=2, latent_classifier_steps=2)
    record = train(scenes, tmp_path / "run", config, cache=tmp_path / "cache")
    assert record["rejected"] == 1
    assert "Road_0000.png" in (tmp_path / "run" / "private" / "quarantine.csv").read_text()
