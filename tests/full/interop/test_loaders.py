"""Loaders that users bring read a set: Croissant's reference implementation, and TorchGeo by the example's class.

`.ci/full` runs this in an environment of its own; elsewhere it is skipped.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
from dpd_runtime import Output
from tests.drawn import write

EXAMPLES = Path(__file__).parents[3] / "examples"
# The torchvision of the package index is built for CUDA. Beside a PyTorch for CPUs it lacks two operators that TorchGeo
# does not call, and cannot be imported.
RUN = """
import runpy, sys, torch
try:
    import torchvision
except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
sys.path.insert(0, sys.argv[1])
sys.argv[:] = [sys.argv[1] + "/set_in_torchgeo.py", sys.argv[2]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.filterwarnings("ignore")  # of its own dependencies
def test_croissant_gives_each_image_with_its_class(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    write(tmp_path / "set", Output("imagefolder"), ipc=2)
    data = mlcroissant.Dataset(jsonld=str(tmp_path / "set" / "croissant.json"))
    labels = {row["classes/name"]: row["classes/label"] for row in data.records(record_set="classes")}
    assert labels["Forest"] == 1
    assert labels["SeaLake"] == 9
    rows = list(data.records(record_set="images"))
    assert sorted(row["images/class"] for row in rows) == [b"Forest"] * 2 + [b"SeaLake"] * 2
    of_files = {
        (path.parent.name.encode(), np.asarray(Image.open(path)).tobytes())
        for path in (tmp_path / "set").glob("*/*.png")
    }
    assert {(row["images/class"], np.asarray(row["images/image"]).tobytes()) for row in rows} == of_files


@pytest.mark.skipif(find_spec("torchgeo") is None, reason="TorchGeo is not installed")
def test_torchgeo_reads_it_by_the_examples_class(tmp_path: Path) -> None:
    write(tmp_path / "set", Output("imagefolder"), ipc=2)
    command = [sys.executable, "-c", RUN, str(EXAMPLES), str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 samples of 10 classes; a batch: [4, 3, 64, 64]\n"
