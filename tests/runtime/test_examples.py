"""The examples work, with the real networks and one step for each image."""

import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.drawn import files, quick_bundle

pytest.importorskip("onnxruntime")
EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick_bundle(tmp_path_factory.mktemp("bundle") / "quick")


def loader_example() -> Any:
    name = "regenerate_in_a_loader"
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(find_spec("torch") is None, reason="the example is for PyTorch")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_images_of_the_set_once_each(workers: int, bundle: Path) -> None:
    from torch.utils.data import DataLoader

    from dpd_runtime import generate, load_bundle

    names = ("River", "Forest")
    data = loader_example().Regenerated(bundle, seed=5, ipc=1, classes=names, mixed=3)
    found = [(int(label), image) for image, label in DataLoader(data, batch_size=None, num_workers=workers)]
    wanted = {image.label: image.pixels for image in generate(load_bundle(bundle), ipc=1, seed=5, classes=names)}
    assert Counter(label for label, _ in found) == dict.fromkeys(wanted, 1)
    for label, image in found:
        np.testing.assert_array_equal(np.asarray(image * 255).round().transpose(1, 2, 0), wanted[label])


@pytest.mark.skipif(find_spec("torch") is None, reason="the example is for PyTorch")
def test_the_loader_has_no_end_and_stays_balanced(bundle: Path) -> None:
    from dpd_runtime import load_bundle

    classes = load_bundle(bundle).classes
    data = loader_example().Regenerated(bundle, seed=5)
    parts = [data.blocks(classes, number, 3) for number in range(3)]
    taken = [[(b.scene_class.name, b.number) for _, b in zip(range(100), part, strict=False)] for part in parts]
    together = [entry for part in taken for entry in part]
    assert len(set(together)) == 300
    assert Counter(name for name, _ in together) == dict.fromkeys([c.name for c in classes], 30)
    assert [name for name, number in together if number == 0] != [name for name, number in together if number == 1]


def test_the_array_job_makes_one_set(bundle: Path, process_environment: dict[str, str], tmp_path: Path) -> None:
    """Run the tasks as Slurm would, two at a time in real processes."""
    (tmp_path / "bin").mkdir()
    dpd = tmp_path / "bin" / "dpd"
    dpd.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dpd_cli "$@" --classes River,Forest\n')
    dpd.chmod(0o755)
    paths = os.pathsep.join([str(dpd.parent), os.environ["PATH"]])
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
    assert job["spec"]["completionMode"] == "Indexed"
    assert f'--shard "$JOB_COMPLETION_INDEX/{job["spec"]["completions"]}"' in container["args"][0]
