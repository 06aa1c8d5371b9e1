"""What a command prints when all went well: facts about the result and the next step, nothing about its machinery."""

import json
import shlex
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from dpd_cli.commands.bundles import _repeats
from dpd_cli.main import app
from dpd_runtime import embedded_bundle, load_bundle
from dpd_runtime.classes import SceneClass

pytest.importorskip("onnxruntime")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    app(list(arguments), standalone_mode=False)
    return capsys.readouterr().out.splitlines()


def found(lines: list[str], name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


@pytest.mark.parametrize(
    ("options", "images"),
    [
        (["--ipc", "1"], "all are decoded"),
        (["--ipc", "52"], "0 to 49 decoded, 50 to 51 re-noised of each class"),
        (["--ipc", "1", "--steps", "2", "--candidates", "1"], "all are sampled"),
    ],
)
def test_generate_says_what_the_set_holds_and_what_comes_next(
    options: list[str], images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my set"
    lines = printed(capsys, "generate", "--classes", "River", "--out", str(out), *options)
    assert found(lines, "images") == [images]
    (provider,) = found(lines, "provider")
    if find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None:
        assert provider == "cpu (no GPU provider is installed); dpd doctor says which others work here"
    else:  # it says why this one does not work
        assert provider.startswith("cpu (provider tensorrt-rtx: ")
        assert "no GPU provider is installed" not in provider
    assert not any(word in "\n".join(lines) for word in ("CUDA", "onnxruntime", "Provider"))
    (step,) = found(lines, "next")
    if find_spec("torch") is None:
        assert step.startswith("train on it as an ImageFolder")
        assert shlex.split(step)[-5:] == ["dpd", "fit", str(out), "--out", "model"]
    else:
        assert shlex.split(step)[-7:-4] == ["dpd", "evaluate", str(out)]


def test_info_says_where_codes_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(embedded_bundle()) as archive:
        tensors = load(archive.read("prototypes.safetensors"))
        names = [entry["name"] for entry in json.loads(archive.read("classes.json"))["classes"]]
    codes = {name: len(np.unique(tensors[f"class.{label}"], axis=0)) for label, name in enumerate(names)}
    few = {name: count for name, count in codes.items() if count < 50}
    assert few == {"HerbaceousVegetation": 48}
    lines = printed(capsys, "info")
    wanted = [f"{name}: {count} of its 50 decoded images show distinct codes" for name, count in few.items()]
    assert found(lines, "repeats") == wanted
    assert lines[-1].split(maxsplit=1) == ["next", "dpd generate --ipc 10 --out distilled"]
    facts = json.loads(printed(capsys, "info", "--json")[0])
    assert {entry["name"]: entry["distinct"] for entry in facts["classes"]} == codes


def test_equal_codes_are_counted_once() -> None:
    latents = np.arange(3 * 4, dtype=np.float32).reshape(3, 1, 2, 2)
    scene = SceneClass("River", 0, (0,) * 5, latents[[0, 1, 1, 2, 0]], "matched")
    assert scene.distinct_prototypes == 3


def test_nothing_repeats_where_all_images_are_sampled() -> None:
    bundle = load_bundle()
    assert len(_repeats(bundle)) == 1
    manifest = replace(bundle.manifest, sampler=bundle.manifest.sampler.sampled())
    assert _repeats(replace(bundle, manifest=manifest)) == []
