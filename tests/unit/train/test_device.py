"""Training on a device and by the clock: all that a machine without a GPU can show of it."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dpd_runtime.errors import InputError, ProviderError
from dpd_train.bases import load_base, nano_vae
from dpd_train.classifiers import ClassifierTraining, train_classifier
from dpd_train.compute import (
    NEVER,
    Deadline,
    TimeUp,
    autocast,
    hardware,
    load_state,
    save_state,
    use_device,
    without_prefix,
)
from dpd_train.denoiser import DenoiserTraining, train_denoiser
from dpd_train.loop import restore_moments, rewarmed
from dpd_train.networks import ResNet, ResNetConfig
from dpd_train.pretrain import PretrainConfig, pretrain
from dpd_train.reading import HeldOut
from dpd_train.scene_set import Crops
from dpd_train.scenes import read_scenes
from dpd_train.symmetry import ORDER, d4, d4_each
from dpd_train.vae import AutoencoderTraining, train_autoencoder
from recipes.device import pack, report
from recipes.device.unpack import unpack
from tests.tiny import SIDE, drawn_scenes, latent_data, tiny_base

Weights = dict[str, torch.Tensor]
Training = Callable[[Path, Deadline], Weights]
SHAPE = ResNetConfig(num_classes=2, widths=(8, 16), blocks=(1, 1))
"""Not narrower: oneDNN 3 (PyTorch 2.13) writes beyond the gradient of a 1 × 1 convolution of stride 2 with fewer than 8
channels in float32, on processors with AVX2 alone."""


def _classifier(state: Path, deadline: Deadline) -> Weights:
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.rand(8, 3, 16, 16, generator=generator), torch.arange(8) % 2
    training = ClassifierTraining(steps=4, batch=4, colour_gain=0.1, validate_every=2, bfloat16=False)
    held = (inputs, labels)
    return dict(
        train_classifier(inputs, labels, held, SHAPE, training, deadline=deadline, state=state).model.state_dict()
    )


def _autoencoder(state: Path, deadline: Deadline) -> Weights:
    images = torch.randint(0, 256, (6, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    networks = [ResNet(SHAPE).eval().requires_grad_(False)]
    training = AutoencoderTraining(steps=4, batch=2, spectral_weight=1.0, bfloat16=False)
    vae = train_autoencoder(nano_vae(SIDE), images, images[:2], training, state, networks, deadline=deadline)
    return dict(vae.state_dict())


def _denoiser(state: Path, deadline: Deadline) -> Weights:
    base = load_base(str(tiny_base(state.parent / "tiny")))
    training = DenoiserTraining(steps=4, batch=3, warmup=2, validate_every=2, precision="fp32")
    unet, _, _ = train_denoiser(
        base.unet, base.text_encoder, latent_data(), latent_data(), base.schedule, training, state, deadline=deadline
    )
    return dict(unet.state_dict())


@pytest.mark.full
@pytest.mark.parametrize("training", [_classifier, _autoencoder, _denoiser])
def test_stopping_after_every_step_changes_no_bit_of_the_weights(training: Training, tmp_path: Path) -> None:
    whole = training(tmp_path / "whole.safetensors", NEVER)
    stops = []
    for _ in range(9):
        try:
            resumed = training(tmp_path / "cut.safetensors", Deadline(0.0))
            break
        except TimeUp as stop:
            stops.append((stop.step, load_state(tmp_path / "cut.safetensors")[1]["step"], stop.steps))
    assert stops == [(1, 1, 4), (2, 2, 4), (3, 3, 4)]  # each call gets on, however short
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_deadline_without_a_state_file_is_refused() -> None:
    inputs, labels = torch.zeros(2, 3, 16, 16), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="state file"):
        train_classifier(
            inputs, labels, (inputs, labels), SHAPE, ClassifierTraining(steps=1), deadline=Deadline(1.0), state=None
        )


def _short_config() -> PretrainConfig:
    from dataclasses import replace

    config, short = PretrainConfig(resolution=SIDE, val_per_class=2), {"steps": 2, "batch": 2}
    parts = {name: replace(getattr(config, name), **short) for name in ("perceptual", "autoencoder", "decoder")}
    return replace(config, denoiser=replace(config.denoiser, **short), **parts)


@pytest.mark.full
def test_pretraining_in_pieces_leaves_the_base_of_one_go(tmp_path: Path) -> None:
    scenes, config = drawn_scenes(tmp_path / "scenes", 5), _short_config()
    pretrain(scenes, tmp_path / "whole", tmp_path / "state", config)
    networks = [("perceptual", step) for step in (1, 3, 5)]  # the end of one of the three and the start of the next
    unfinished = []
    for _ in range(9):
        result = pretrain(scenes, tmp_path / "pieces", tmp_path / "cut", config, max_minutes=0.0)
        if "unfinished" not in result:
            break
        assert not (tmp_path / "pieces").exists()
        unfinished.append((result["unfinished"]["stage"], result["unfinished"]["step"]))
        steps = 2 if unfinished[-1] in networks[1:] else 1
        assert result["timing"][unfinished[-1][0]]["steps"] == steps
    assert unfinished == [*networks, ("autoencoder", 1), ("decoder", 1), ("denoiser", 1)]
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        path = f"{part}.safetensors"
        assert (tmp_path / "whole" / path).read_bytes() == (tmp_path / "pieces" / path).read_bytes(), part


def test_a_light_state_goes_on_from_the_average_with_a_fresh_optimiser(tmp_path: Path) -> None:
    state = tmp_path / "denoiser.safetensors"
    with pytest.raises(TimeUp):
        _denoiser(state, Deadline(0.0))
    full = load_state(state)[0]
    (tmp_path / "back").mkdir()
    report.write_light_states(tmp_path, tmp_path / "back")
    light, meta = load_state(tmp_path / "back" / "denoiser.safetensors")
    assert {name.split(".")[0] for name in light} == {"ema"}
    assert all(value.dtype == torch.float16 for value in light.values() if value.is_floating_point())
    for name, value in light.items():
        torch.testing.assert_close(value.float(), full[name].float(), rtol=1e-3, atol=1e-6)
    state.unlink()
    save_state(state, light, meta)
    with pytest.raises(TimeUp):
        _denoiser(state, Deadline(0.0))
    tensors, meta = load_state(state)
    assert (meta["step"], meta["fresh_since"]) == (2, 1)
    assert without_prefix("optimizer", tensors)
    assert {value.dtype for name, value in tensors.items() if name.startswith("modules")} <= {
        torch.float32,
        torch.int64,
    }


def test_a_finished_vae_travels_in_half_precision_and_an_unfinished_one_whole(tmp_path: Path) -> None:
    for name, deadline in (("autoencoder", NEVER), ("decoder", Deadline(0.0))):
        try:
            _autoencoder(tmp_path / f"{name}.safetensors", deadline)
        except TimeUp:
            assert name == "decoder"
    (tmp_path / "back").mkdir()
    report.write_light_states(tmp_path, tmp_path / "back")
    finished = load_state(tmp_path / "back" / "autoencoder.safetensors")[0]
    unfinished = load_state(tmp_path / "back" / "decoder.safetensors")[0]
    assert {value.dtype for value in finished.values()} == {torch.float16}
    assert {name.split(".")[0] for name in finished} == {"vae"}
    assert {value.dtype for value in unfinished.values()} == {torch.float32}
    assert {name.split(".")[0] for name in unfinished} == {"vae"}
    (tmp_path / "decoder.safetensors").write_bytes((tmp_path / "back" / "decoder.safetensors").read_bytes())
    _autoencoder(tmp_path / "decoder.safetensors", NEVER)  # goes on, with fresh optimisers


def test_second_warm_up_only_where_moments_were_lost() -> None:
    assert rewarmed(1.0, 50, 0, 100) == 1.0
    assert [rewarmed(1.0, step, 500, 100) for step in (500, 549, 599, 700)] == [0.01, 0.5, 1.0, 1.0]


def test_restored_moments_have_the_layout_of_their_parameters() -> None:
    """CUDA's fused AdamW refuses others, and files hold contiguous tensors."""
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(layer.parameters())
    moments = {"0.step": torch.tensor(1.0), "0.exp_avg": torch.rand(4, 3, 3, 3), "0.exp_avg_sq": torch.rand(4, 3, 3, 3)}
    restore_moments(optimizer, moments)
    slots = optimizer.state[layer.weight]
    for name in ("exp_avg", "exp_avg_sq"):
        assert slots[name].stride() == layer.weight.stride() != moments[f"0.{name}"].stride()
        assert torch.equal(slots[name], moments[f"0.{name}"])


def test_one_gather_applies_each_element() -> None:
    images = torch.rand(ORDER, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    turned = d4_each(images, torch.arange(ORDER))
    assert all(torch.equal(turned[k], d4(images[k], k)) for k in range(ORDER))
    assert turned.is_contiguous()


def test_a_device_that_is_not_there_is_an_error_and_auto_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="tpu"):
        use_device("tpu")
    if not torch.backends.mps.is_available():
        with pytest.raises(ProviderError, match="device mps: PyTorch finds none; use cpu"):
            use_device("mps")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ProviderError, match="device cuda"):
        use_device("cuda")
    with caplog.at_level("INFO"):
        assert use_device("auto").type == "cpu"
    assert "CUDA" in caplog.text


def _command(monkeypatch: pytest.MonkeyPatch, arguments: list[str], result: dict[str, object]) -> tuple[str, dict]:
    from dpd_cli.main import app

    seen: dict = {}

    def stub(data: list[str], out: Path, state: Path, config: PretrainConfig, *_: object, **options: object) -> object:
        seen.update(data=data, config=config, **options)
        return dict(result)

    monkeypatch.setattr("dpd_train.pretrain.pretrain", stub)
    done = CliRunner().invoke(app, ["pretrain", "drawn:150", "--out", "base", "--state", "state", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0
    return done.stdout, seen


def test_options_reach_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, number = ["--device", "cpu", "--max-minutes", "7.5"], 10
    for stage in ("perceptual", "autoencoder", "decoder", "denoiser"):
        values = {"steps": str(number), "batch": str(number + 1), "rate": f"{number + 2}e-4"}
        arguments += [word for name, value in values.items() for word in ("--set", f"{stage}_{name}={value}")]
        number += 3
    _, seen = _command(monkeypatch, arguments, {"timing": {}})
    parts = [getattr(seen["config"], name) for name in ("perceptual", "autoencoder", "decoder", "denoiser")]
    assert [part.steps for part in parts] == [10, 13, 16, 19]
    assert [part.batch for part in parts] == [11, 14, 17, 20]
    assert [part.peak_rate for part in parts] == pytest.approx([12e-4, 15e-4, 18e-4, 21e-4])
    assert (seen["device"], seen["max_minutes"]) == (torch.device("cpu"), 7.5)


def test_numbers_for_each_source_reach_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["drawn:30", "drawn:20", "--val-per-class", "100,10,2", "--shares", "6,3.5,.5", "--crops"]
    _, seen = _command(monkeypatch, [*given, "--latent-channels", "8"], {"timing": {}})
    assert seen["data"] == ["drawn:150", "drawn:30", "drawn:20"]
    wanted = {"val_per_class": (100, 10, 2), "shares": (6.0, 3.5, 0.5), "crops": Crops(), "latent_channels": 8}
    assert seen["config"] == PretrainConfig(**wanted)  # type: ignore[arg-type]
    _, seen = _command(monkeypatch, ["--val-per-class", "100"], {"timing": {}})
    assert (seen["data"], seen["config"]) == (["drawn:150"], PretrainConfig(val_per_class=100))
    for wrong in (["--val-per-class", "100;10"], ["--shares", "much"], ["--latent-channels", "5"]):
        with pytest.raises(InputError, match=wrong[1]):
            _command(monkeypatch, wrong, {"timing": {}})


def test_options_that_are_not_given_leave_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seen = _command(monkeypatch, ["--device", "cpu"], {"timing": {}})
    assert seen["config"] == PretrainConfig()
    assert seen["max_minutes"] is None
    for wrong in (
        ["--set", "denoiser_batch=0"],
        ["--set", "decoder_rate=-1"],
        ["--max-minutes", "-1"],
        ["--device", "tpu"],
    ):
        with pytest.raises(InputError, match=wrong[1].partition("=")[0]):
            _command(monkeypatch, wrong, {"timing": {}})


def test_the_command_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = {"stage": "denoiser", "step": 5, "steps": 8}
    said, _ = _command(monkeypatch, ["--device", "cpu"], {"timing": {}, "unfinished": unfinished})
    assert "denoiser is at step 5 of 8" in said
    assert "same command" in said
    said, _ = _command(monkeypatch, ["--device", "cpu", "--json"], {"timing": {}, "unfinished": unfinished})
    assert json.loads(said)["unfinished"] == unfinished


def test_packing_keeps_bytes_names_and_the_split(tmp_path: Path) -> None:
    scenes = drawn_scenes(tmp_path / "scenes", 5)
    (scenes / ".hidden").write_text("not data")
    script = [sys.executable, "recipes/device/unpack.py"]
    count, _ = pack.pack(scenes, tmp_path / "packed")
    subprocess.run([*script, tmp_path / "packed", tmp_path / "again"], check=True, cwd=pack.ROOT)
    files = {path.relative_to(scenes): path.read_bytes() for path in scenes.rglob("*.*") if path.name[0] != "."}
    again = {path.relative_to(tmp_path / "again"): path.read_bytes() for path in (tmp_path / "again").rglob("*.*")}
    assert files == again
    assert len(files) == count
    for part in ("train", "val"):
        before, after = (
            read_scenes(root, part=part, held_out=HeldOut(val_per_class=2)) for root in (scenes, tmp_path / "again")
        )
        assert (before.classes, before.hashes) == (after.classes, after.hashes)
        assert np.array_equal(before.images, after.images)
        assert np.array_equal(before.labels, after.labels)


def test_a_pack_that_was_changed_is_refused(tmp_path: Path) -> None:
    import lzma

    pack.pack(drawn_scenes(tmp_path / "scenes", 2), tmp_path / "packed")
    (tmp_path / "packed" / "images.bin.xz").write_bytes(lzma.compress(b"something else"))
    with pytest.raises(ValueError, match="pack again"):
        unpack(tmp_path / "packed", tmp_path / "out")


def test_what_is_too_large_to_travel_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(f"/{pack.STATE}/\n*.log\n")
    (tmp_path / "large.bin").write_bytes(bytes(2**20))
    (tmp_path / "left.log").write_bytes(bytes(2**20))
    (tmp_path / pack.STATE).mkdir(parents=True)
    (tmp_path / pack.STATE / "denoiser.safetensors").write_bytes(bytes(2**19))
    assert pack.check_size(tmp_path, limit=2 * 2**20)
    assert not pack.check_size(tmp_path, limit=2**20)
    said = capsys.readouterr().out
    assert "together 1.5 of 1 MiB" in said
    assert "1.0 MiB  large.bin" in said
    assert "left.log" not in said


@pytest.mark.full
def test_the_script_trains_in_pieces_and_sends_back_what_goes_on(tmp_path: Path) -> None:
    """train.sh as the device machine runs it, on a CPU: the second machine knows only what travelled."""
    tree = tmp_path / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=pack.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith(("dpd_runtime/", "dpd_train/", "cli/", "recipes/device/")) and "/data/" not in name:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((pack.ROOT / name).read_bytes())
    pack.pack(drawn_scenes(tmp_path / "scenes", 5), tree / pack.PACKED)
    options = ["--resolution", "32", "--val-per-class", "2", "--threads", "1"]
    for stage in ("perceptual", "autoencoder", "decoder", "denoiser"):
        options += [f"--{stage}-steps", "3", f"--{stage}-batch", "2"]
    done: list[dict] = []
    for piece in range(5):
        out = tmp_path / f"out{piece}"
        out.mkdir()
        places = {"OUT": str(out), "WORK": str(tmp_path / f"work{piece}"), "SITE": str(tmp_path / "site")}
        command = ["bash", "recipes/device/train.sh", "perceptual,autoencoder,decoder,denoiser", "0.0"]
        if piece:
            command[3] = "9"
        environment = os.environ | places | {"PYTHON": sys.executable, "DEVICE": "cpu"}
        subprocess.run([*command, *options], cwd=tree, env=environment, check=True, timeout=300)
        done.append(json.loads((out / "report.json").read_text()))
        (tree / pack.STATE).mkdir(exist_ok=True)
        for path in out.glob("*.safetensors"):
            (tree / pack.STATE / path.name).write_bytes(path.read_bytes())
            path.chmod(0o444)
        if "unfinished" not in done[-1]["result"]:
            break
    assert done[0]["result"]["unfinished"]["stage"] == "perceptual"
    assert done[-1]["states"]["denoiser"]["step"] == 3
    assert done[-1]["result"]["metrics"]["data"]["images"] == 6 * 3
    assert len(list(out.iterdir())) <= 8


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", ["avx2", "fma"], torch.float32),  # PyTorch would emulate bfloat16, ten times slower
        ("x86_64", ["avx2", "avx512f", "avx512_vnni"], torch.float32),  # three times slower
        ("x86_64", [], torch.float32),
        ("x86_64", ["avx2", "avx512f", "avx512_bf16"], torch.bfloat16),
        ("AMD64", ["amx_bf16", "amx_tile"], torch.bfloat16),
        ("aarch64", [], torch.bfloat16),
    ],
)
def test_bfloat16_is_used_where_the_processor_has_it(
    machine: str, flags: list[str], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr("dpd_train.compute.cpu_flags", lambda: flags)
    with autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    with autocast("cpu", enabled=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast("cpu", torch.float16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float16
    assert hardware(torch.device("cpu")).endswith("float32 for bfloat16") == (expected == torch.float32)
