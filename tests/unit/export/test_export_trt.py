"""`dpd export --trt`: what is built for which cards, and all that is in the way; the bundle is written in any case."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dpd_export
from dpd_cli.main import main
from dpd_export.engines import wanted_engines
from dpd_runtime.bundle import load_bundle
from dpd_runtime.engine_files import engine_records
from dpd_runtime.errors import InputError
from dpd_runtime.machine import Driver, Gpu, nvidia_driver

ROOT = Path(__file__).parents[3]
needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason='tensorrt-rtx is not installed: pip install "dpd-distill[rtx]"'
)
without_tensorrt = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="tensorrt is installed here")


def dpd(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dpd", "export", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@needs_rtx
@pytest.mark.full
def test_the_bundle_gets_engines_of_its_own_graphs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site.dpd"
    options = ["--trt", "--compute-capability", "89", "--precision", "fp32", "--json"]
    assert dpd([str(run), "--out", str(out), *options], monkeypatch) == 0
    said = json.loads(capsys.readouterr().out)
    opened = load_bundle(out)
    assert (said["bundle_hash"], said["bytes"]) == (opened.hash, out.stat().st_size)
    assert opened.manifest.parity == said["parity"]
    records = engine_records(opened.files, opened.manifest.files)
    assert {record.graph for record in records.values()} == {
        f"{part}/model.onnx" for part in ("unet", "vae_decoder", "latent_classifier")
    }
    assert [path.name for path in tmp_path.iterdir()] == ["site.dpd"]


@needs_rtx
@pytest.mark.full
def test_a_build_that_fails_leaves_the_bundle(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine build fails after a real export."""

    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("unet/model.onnx: TensorRT's parser refuses it")

    monkeypatch.setattr("dpd_export.engines.build_engines", refuse)
    out = tmp_path / "site.dpd"
    options = ["--trt", "--compute-capability", "89", "--precision", "fp32"]
    assert dpd([str(run), "--out", str(out), *options], monkeypatch) == 5
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"parser refuses it; the bundle {out} is complete without them; later: dpd engines {out} " in said
    assert load_bundle(out).manifest.precision == "fp32"


@pytest.mark.skipif(find_spec("tensorrt_rtx") is not None, reason="tensorrt-rtx is installed here")
@pytest.mark.full
def test_a_bundle_is_written_where_no_engine_can_be_built(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three faults at once: a missing package, a Jetson, and Turing without half precision."""
    out = tmp_path / "site.dpd"
    options = ["--trt", "--compute-capability", "75,87,89", "--precision", "fp32", "--json"]
    assert dpd([str(run), "--out", str(out), *options], monkeypatch) == 5
    told = capsys.readouterr()
    last = told.err.splitlines()[-1]
    for words in (
        "no engines for RTX 40 (89): tensorrt-rtx is not installed: pip install ",
        "87 is Jetson Orin: dpd runs on its CPU",
        "RTX 20 (75) has no float32 matrix products: leave it out, or --precision fp16",
        f"the bundle {out} is complete without them",
        f"later: dpd engines {out} --compute-capability 89 --out {tmp_path / 'site-trt.dpd'}",
    ):
        assert words in last
    assert json.loads(told.out)["bundle_hash"] == load_bundle(out).hash
    assert "engines     tensorrt-rtx for RTX 40 (89); a Jetson uses the CPU" in told.err.splitlines()


def driver(*capabilities: int) -> Driver:
    gpus = tuple(Gpu(f"GPU {one}", one, 8 * 10**9) for one in capabilities)
    return Driver("580.95.05", 13000, gpus, None if gpus else "no NVIDIA driver: libcuda.so.1 is not found")


def pretend(monkeypatch: pytest.MonkeyPatch, members: tuple[int, ...], *here: int) -> None:
    """A builder for these cards on a machine with these GPUs."""
    names = [f"SM{one}" for one in members]
    fake = SimpleNamespace(__version__="1.7.1", ComputeCapability=SimpleNamespace(__members__=["NONE", *names]))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)  # type: ignore[arg-type]
    monkeypatch.setattr("dpd_export.engines.nvidia_driver", lambda: driver(*here))


CARDS_OF_ALL = (75, 80, 86, 89, 120, 121)


def test_without_a_choice_engines_are_for_the_gpu_that_is_here_or_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that the builder does not know, such as an H100, is as none: others get the engine then."""
    for here, capabilities, portable in (
        ((89, 120), (89,), False),
        ((), (80, 86, 89, 120, 121), True),
        ((90,), (80, 86, 89, 120, 121), True),
    ):
        pretend(monkeypatch, CARDS_OF_ALL, *here)
        found = wanted_engines("tensorrt-rtx", (), "fp32")
        assert (found.capabilities, found.portable, found.faults) == (capabilities, portable, ())
    pretend(monkeypatch, CARDS_OF_ALL, 89)
    named = wanted_engines("tensorrt-rtx", (86, 120), "fp16")
    assert (named.capabilities, named.portable, named.faults) == ((86, 120), False, ())
    assert named.describe() == "tensorrt-rtx for RTX 30 (86), RTX 50 (120)"
    assert wanted_engines("tensorrt-rtx", (75,), "fp16").faults == ()


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ((87,), "87 is Jetson Orin: dpd runs on its CPU"),
        ((86, 90), "90 is H100: --flavour tensorrt builds for it, on that GPU"),
        ((70,), "70 is no card that tensorrt-rtx builds for, which are RTX 20 (75), A100 (80), RTX 30 (86)"),
        ((120,), "120 is no card"),
    ],
)
def test_a_card_that_the_builder_does_not_know_is_a_fault(
    named: tuple[int, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the builder that is asked: this one does not know RTX 50."""
    pretend(monkeypatch, (75, 80, 86, 89))
    (fault,) = wanted_engines("tensorrt-rtx", named, "fp16").faults
    assert words in fault


@without_tensorrt
def test_the_data_centre_flavour_names_package_and_gpu_together() -> None:
    found = wanted_engines("tensorrt", (), "fp16")
    assert "tensorrt is not installed: pip install " in found.faults[0]
    if nvidia_driver().problem is not None:
        assert "no NVIDIA GPU can be used here" in found.faults[1]
        assert "--flavour tensorrt-rtx builds without one" in found.faults[1]
    assert found.options == ["--flavour", "tensorrt"]


def test_engines_are_built_without_pytorch() -> None:
    """With a control that imports it."""
    for statement, wanted in (("import dpd_export.engines", "False"), ("import dpd_export.engines, torch", "True")):
        command = [sys.executable, "-c", f"import sys; {statement}; print('torch' in sys.modules)"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.strip() == wanted
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dpd_export.nothing  # noqa: B018


REFUSED = [
    pytest.param(["--trt", "--compute-capability", "89", "--precision", "int8"], 2, "int8 graphs are"),
    pytest.param(["--trt", "--compute-capability", "ada"], 2, "compute capability 'ada' is not of the form 89"),
    pytest.param(["--compute-capability", "89"], 2, "--compute-capability without --trt"),
    pytest.param(["--flavour", "tensorrt"], 2, "--flavour without --trt"),
    pytest.param(["--trt", "--flavour", "cuda"], 2, "use tensorrt-rtx or tensorrt"),
    pytest.param(["--allow-worse"], 2, "--allow-worse has no effect with --precision fp16"),
]


@pytest.mark.parametrize(("options", "code", "words"), REFUSED)
def test_what_cannot_be_built_is_said_before_anything_is_computed(
    options: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert dpd(["no-run", "--out", str(tmp_path / "site.dpd"), *options], monkeypatch) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == []
