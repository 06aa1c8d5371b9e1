"""Two processes on the CPU against one: the same losses and weights, one run directory, one message, one resumption."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from dpd_train.compute import load_state
from dpd_train.config import TrainConfig
from dpd_train.distributed import joined
from dpd_train.train import train
from tests.tiny import CONFIG, drawn_scenes, tiny_base

SCRIPTS = Path(__file__).parents[0]
UNET = Path("pipeline", "unet", "diffusion_pytorch_model.safetensors")


def _config(folder: Path) -> TrainConfig:
    """Every loss that several processes could get wrong, and a batch that two cannot halve."""
    return replace(
        CONFIG,
        base=str(tiny_base(folder)),
        steps=10,
        batch=5,
        micro_batch=2,
        precision="fp32",
        lambda_cls=0.5,
        judge_on="pixels",
        tune_vae=True,
        vae_steps=2,
        perceptual_steps=2,
        teacher_steps=3,
        latent_classifier_steps=1,
    )


def _launch(
    script: str, folder: Path, environment: Mapping[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    roots = os.pathsep.join((str(SCRIPTS.parents[2]), environment["PYTHONPATH"]))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [sys.executable, *launcher, str(SCRIPTS / script), str(folder), *options],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


class _Runs(NamedTuple):
    """folder: of the runs. said: what each process returned and raised."""

    folder: Path
    said: list[dict[str, Any]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, process_environment: Mapping[str, str]) -> _Runs:
    folder = tmp_path_factory.mktemp("two")
    config, scenes = _config(folder), drawn_scenes(folder / "scenes")
    (folder / "config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two has: other threads add up in another order
    for name, tune in (("one", None), ("one adapters", "lora")):
        train(scenes, folder / name, replace(config, tune=tune), cache=folder / "cache")
    torch.set_num_threads(threads)
    launched = _launch("two_processes.py", folder, process_environment)
    assert launched.returncode == 0, launched.stderr
    return _Runs(folder, [json.loads((folder / f"said{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)])


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / UNET)


def _history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.full
@pytest.mark.parametrize(("one", "two"), [("one", "whole"), ("one adapters", "adapters")])
def test_two_processes_train_as_one_at_the_same_global_batch(runs: _Runs, one: str, two: str) -> None:
    assert [said["share"] for said in runs.said] == [[0, 1], [2, 3, 4]]
    expected, found = _history(runs.folder / one), _history(runs.folder / two)
    assert len(expected) == 5
    assert expected[-1]["ema_length"] == found[-1]["ema_length"]  # of the weights that are kept
    for a, b in zip(expected, found, strict=True):
        # at first the two averages are as good as each other up to rounding
        assert a | {"ema_length": None} == pytest.approx(b | {"ema_length": None}, abs=1e-4)
    weights, others = _weights(runs.folder / one), _weights(runs.folder / two)
    assert max(float((value - others[name]).abs().max()) for name, value in weights.items()) < 1e-5
    untrained = load_file(runs.folder / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    moved = max(float((value - untrained[name]).abs().max()) for name, value in weights.items())
    assert moved > 1e-4  # what a tolerance of 1e-5 tells from nothing


@pytest.mark.full
def test_compressed_gradients_are_fewer_and_train_the_same_way(runs: _Runs) -> None:
    last = _history(runs.folder / "squeezed")[-1]
    assert last["dense_mb"] / last["sent_mb"] == pytest.approx(20, rel=0.02)
    untrained = load_file(runs.folder / "base" / "unet" / "diffusion_pytorch_model.safetensors")

    def moved(run: str) -> torch.Tensor:
        weights = _weights(runs.folder / run)
        return torch.cat([(weights[name] - value).flatten() for name, value in untrained.items()])

    whole, squeezed = moved("whole"), moved("squeezed")
    assert float(torch.cosine_similarity(whole, squeezed, dim=0)) > 0.3
    assert float((whole - squeezed).norm()) > 0.1 * float(whole.norm())  # and not the very same


@pytest.mark.full
def test_the_ddp_hook_sends_in_the_end_what_ddp_sends(runs: _Runs) -> None:
    for said in runs.said:
        assert said["hook"]["away"] < 1e-5
        assert said["hook"]["without"] > 1e-3
        assert said["hook"]["times_fewer"] == pytest.approx(20, rel=0.02)


@pytest.mark.full
def test_the_run_is_written_once_by_the_first_process(runs: _Runs) -> None:
    def files(run: Path) -> list[str]:
        return sorted(str(path.relative_to(run)) for path in run.rglob("*"))

    assert files(runs.folder / "whole") == files(runs.folder / "one")
    assert [(said["whole"], said["adapters"]) for said in runs.said] == [(True, True), (False, False)]
    one, two = (json.loads((runs.folder / name / "run.json").read_text(encoding="utf-8")) for name in ("one", "whole"))
    assert (one.get("processes"), two["processes"]) == (None, 2)
    assert one["config"] == two["config"]
    assert (runs.folder / "one" / "prototypes.safetensors").read_bytes() == (
        runs.folder / "whole" / "prototypes.safetensors"
    ).read_bytes()


@pytest.mark.full
def test_what_is_wrong_is_said_by_the_first_process_alone(runs: _Runs) -> None:
    first, second = runs.said
    assert "no such folder" in first["missing"]
    assert first["few"] == "--batch 1 for 2 processes: give each at least one image"
    assert (second["missing"], second["few"]) == (None, None)
    assert not (runs.folder / "refused").exists()


@pytest.mark.full
def test_the_time_is_up_for_both_at_the_same_step(runs: _Runs) -> None:
    assert runs.said[0]["stops"] == [["VAE decoder", 1], ["fine-tuning", 1]]
    assert (runs.folder / "sessions" / "run.json").exists()
    assert not list(runs.folder.rglob("handover*"))


@pytest.mark.full  # two launches
def test_a_killed_process_ends_both_and_the_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, process_environment: Mapping[str, str]
) -> None:
    config = _config(tmp_path)
    drawn_scenes(tmp_path / "scenes")
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
    killed = _launch("killed_process.py", tmp_path, process_environment)
    assert killed.returncode != 0
    assert "another process of this training has ended" in (tmp_path / "lost").read_text(encoding="utf-8")
    assert load_state(tmp_path / "cut" / "checkpoints" / "denoiser.safetensors")[1]["step"] == 4
    launched = _launch("killed_process.py", tmp_path, process_environment, "--resume")
    assert launched.returncode == 0, launched.stderr
    whole, resumed = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert _history(tmp_path / "whole") == _history(tmp_path / "cut")


@pytest.mark.full
def test_accelerate_launches_the_command_and_its_errors_are_said_once(
    tmp_path: Path, process_environment: Mapping[str, str]
) -> None:
    base, scenes = tiny_base(tmp_path), drawn_scenes(tmp_path / "scenes")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    options = [
        "--base",
        str(base),
        "--cache-dir",
        str(tmp_path / "cache"),
        "--steps",
        "3",
        "--batch",
        "4",
        "--ipc",
        "3",
    ]
    options += [
        "--set",
        "teacher_steps=2",
        "--set",
        "latent_classifier_steps=2",
        "--k-min",
        "2",
        "--val-per-class",
        "2",
    ]
    options += ["--resolution", "32", "--device", "cpu", "--threads", "1", "--json"]

    def launch(data: Path, out: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*launcher, "-m", "dpd_cli", "train", str(data), "--out", str(tmp_path / out), *options, *more],
            env={**process_environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    done = launch(scenes, "run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processes"] == 2
    for data, more, words in (
        (tmp_path / "none", (), "no such folder"),
        (scenes, ("--tune", "half"), "'half' is unknown"),
    ):
        refused = launch(data, "refused", *more)
        assert refused.returncode != 0
        assert refused.stdout == ""
        assert refused.stderr.count(words) == 1
        assert refused.stderr.count("dpd: ") == 1
    assert not (tmp_path / "refused").exists()


def test_a_process_of_its_own_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as team:
        assert (team.rank, team.size, team.leads) == (0, 1, True)
        values = [torch.ones(2), torch.zeros(3, 2)]
        team.add_up(values)
        assert values[0].tolist() == [1, 1]
        assert (team.agree(True), team.agree(False)) == (True, False)
    assert not torch.distributed.is_initialized()
