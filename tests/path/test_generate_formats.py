"""`dpd generate --format`: what a user sees, in fresh processes and with the true networks."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_runtime import Output
from dpd_runtime.installation import install_command
from tests.commands import dpd
from tests.drawn import write

pytest.importorskip("onnxruntime")
FEW = ["--ipc", "1", "--steps", "1", "--candidates", "1", "--classes", "River,Forest"]


def test_the_set_hash_is_that_of_the_image_folder(process_environment: dict[str, str], tmp_path: Path) -> None:
    hashes = []
    for name, more in (("imagefolder", ["--image-format", "webp"]), ("npz", ["--soft-labels"])):
        done = dpd(["generate", *FEW, "--format", name, *more, "--out", name, "--json"], process_environment, tmp_path)
        assert done.returncode == 0, done.stderr
        hashes.append(json.loads(done.stdout)["set_hash"])
    assert hashes[0] == hashes[1]
    assert sorted(p.name for p in (tmp_path / "npz").iterdir()) == [
        "README.md",
        "classes.txt",
        "contact_sheet.png",
        "dataset.json",
        "metadata.jsonl",
        "set.npz",
        "soft_labels.safetensors",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "zip"], ["'zip'", "imagefolder, webdataset, parquet, npz"]),
        (["--image-format", "gif"], ["'gif'", "png, jpeg, webp, tiff"]),
        (["--format", "npz", "--image-format", "jpeg"], ["--image-format jpeg", "no effect with --format npz"]),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[str], words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    done = dpd(["generate", *FEW, *arguments, "--out", "set"], process_environment, tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert [word for word in words if word not in done.stderr] == []
    assert list(tmp_path.iterdir()) == []


def test_missing_pyarrow_is_said_before_the_old_set_is_deleted(
    process_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "absent" / "pyarrow").mkdir(parents=True)
    (tmp_path / "absent" / "pyarrow" / "__init__.py").write_text("raise ImportError('as if not installed')")
    paths = os.pathsep.join([str(tmp_path / "absent"), process_environment["PYTHONPATH"]])
    environment = process_environment | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    assert dpd(["generate", *FEW, "--out", "set"], environment, tmp_path).returncode == 0
    before = sorted(tmp_path.rglob("*"))
    done = dpd(["generate", *FEW, "--format", "parquet", "--overwrite", "--out", "set"], environment, tmp_path)
    assert done.returncode == 5
    assert done.stderr == f"dpd: pyarrow is not installed: {install_command('parquet')}\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(find_spec("torch") is None, reason="a site has no PyTorch and no students")
@pytest.mark.parametrize("name", ["npz", "webdataset"])
def test_evaluate_says_that_it_reads_no_packed_set(name: str, tmp_path: Path) -> None:
    from dpd_eval.inputs import open_compared, read_inputs
    from dpd_runtime.errors import DataError
    from dpd_train.reading import ImageOptions

    write(tmp_path / "set", Output(name))
    with pytest.raises(DataError, match=f"set: is a distilled set of format {name}, .* dpd generate --format imagefo"):
        read_inputs(open_compared([tmp_path / "set"], tmp_path, "val", ImageOptions()))
