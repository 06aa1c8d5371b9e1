"""The examples work, with the real networks and one step for each image."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpd_runtime import Output
from dpd_runtime.sealing import sign_bundle
from dpd_runtime.trust import read_signing_key, write_signing_pair
from tests.drawn import files, quick_bundle, write

pytest.importorskip("onnxruntime")
EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick_bundle(tmp_path_factory.mktemp("bundle") / "quick")


@pytest.mark.full
@pytest.mark.skipif(find_spec("torch") is None, reason="the example is for PyTorch")
def test_the_loader_example_trains(bundle: Path, process_environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "regenerate_in_a_loader.py"), str(bundle), "--epochs", "1", "--ipc", "1"]
    done = subprocess.run(
        command, env=process_environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^epoch \d: \d+\.\d% right", done.stdout, re.MULTILINE)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("torch") is None, reason="the example is for PyTorch")
def test_a_set_is_a_dataset_of_pytorch(tmp_path: Path) -> None:
    import torch

    write(tmp_path, Output("imagefolder", soft_labels=True), ipc=2)
    example = runpy.run_path(str(EXAMPLES / "set_as_dataset.py"))["DistilledSet"]
    for number, record in enumerate(map(json.loads, (tmp_path / "metadata.jsonl").read_text().splitlines())):
        image, label = example(str(tmp_path))[number]
        pixels = np.array(Image.open(tmp_path / record["file_name"]))
        assert torch.equal((255 * image).round().byte().permute(1, 2, 0), torch.from_numpy(pixels))
        assert example(str(tmp_path)).classes[label] == record["class"]
    assert float(example(str(tmp_path), soft=True)[0][1].sum()) == pytest.approx(1, abs=1e-5)


def code_cells(name: str) -> list[str]:
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[] for _ in cells], "commit the notebook without outputs"
    return ["".join(cell["source"]) for cell in cells]


@pytest.mark.parametrize("name", ["first_hour.ipynb", "distill_your_scenes.ipynb"])
def test_a_notebook_is_committed_without_outputs(name: str) -> None:
    assert len(code_cells(name)) >= 5


@pytest.mark.full
@pytest.mark.skipif(find_spec("torch") is None, reason="the notebook is for PyTorch")
def test_the_notebook_trains_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the code cells in one namespace. `.ci/full` runs the notebook in Jupyter."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for cell in code_cells("first_hour.ipynb"):
        exec(compile(cell, "first_hour.ipynb", "exec"), namespace)
    assert (tmp_path / "distilled" / "contact_sheet.png").is_file()
    assert isinstance(namespace["right"], float)
    assert namespace["right"] > 0.4, "of ten classes"


@pytest.mark.full
def test_the_array_job_makes_one_set(bundle: Path, process_environment: dict[str, str], tmp_path: Path) -> None:
    """Run the tasks as Slurm would, two at a time in real processes."""
    (tmp_path / "bin").mkdir()
    dpd = tmp_path / "bin" / "dpd"
    dpd.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dpd_cli "$@" --classes River,Forest\n')
    dpd.chmod(0o755)
    paths = os.pathsep.join([str(dpd.parent), os.environ["PATH"]])
    copy, config = tmp_path / "site", tmp_path / "config"
    shutil.copytree(bundle, copy)
    private, _ = write_signing_pair(config / "dpd" / "trusted" / "lab")
    sign_bundle(copy, read_signing_key(private), "lab")
    bundle = copy
    process_environment = process_environment | {"XDG_CONFIG_HOME": str(config)}
    environment = process_environment | {"PATH": paths, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0"}
    script = [str(EXAMPLES / "slurm_array.sh"), str(bundle), str(tmp_path / "shards"), "2"]
    tasks = [
        subprocess.Popen(script, env=environment | {"SLURM_ARRAY_TASK_ID": str(number)}, stdout=subprocess.PIPE)
        for number in range(2)
    ]
    said = [task.communicate(timeout=120)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    whole = [str(dpd), "generate", str(bundle), "--ipc", "2", "--out", str(tmp_path / "whole")]
    subprocess.run(whole, env=environment, check=True, capture_output=True, timeout=120)
    assert files(tmp_path / "shards") == files(tmp_path / "whole")


def test_the_job_file_is_one_job_with_as_many_shards_as_pods() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((EXAMPLES / "kubernetes_indexed_job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "--trusted-key /keys/lab.pub --require signature" in container["args"][0]
    assert job["spec"]["completionMode"] == "Indexed"
    assert f'--shard "$JOB_COMPLETION_INDEX/{job["spec"]["completions"]}"' in container["args"][0]
