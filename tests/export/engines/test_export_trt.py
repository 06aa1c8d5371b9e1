"""`dpd export --trt`: impossible engines are refused before the export; a later failure leaves the bundle."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import dpd_export
from dpd_cli.main import main
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.engines.record import engine_records
from dpd_runtime.errors import InputError

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
@pytest.mark.slow
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
@pytest.mark.slow
def test_a_build_that_fails_leaves_the_bundle(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine build fails after a real export."""

    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("unet/model.onnx: TensorRT's parser refuses it")

    monkeypatch.setattr("dpd_export.engines.build_engines", refuse)
    out = tmp_path / "site.dpd"
    options = ["--trt", "--compute-capability", "89", "--precision", "fp32"]
    assert dpd([str(run), "--out", str(out), *options], monkeypatch) == 2
    assert f"parser refuses it; the bundle {out} is complete without engines\n" in capsys.readouterr().err
    assert load_bundle(out).manifest.precision == "fp32"


def test_engines_are_built_without_pytorch() -> None:
    """With a control that imports it."""
    for statement, wanted in (("import dpd_export.engines", "False"), ("import dpd_export.engines, torch", "True")):
        command = [sys.executable, "-c", f"import sys; {statement}; print('torch' in sys.modules)"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.strip() == wanted
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dpd_export.nothing  # noqa: B018


REFUSED = [
    pytest.param(["--trt"], 2, "say for which GPUs, --compute-capability 75", marks=needs_rtx),
    pytest.param(["--trt", "--compute-capability", "90"], 2, "not for 90", marks=needs_rtx),
    pytest.param(["--trt", "--compute-capability", "89", "--precision", "int8"], 2, "int8 graphs are", marks=needs_rtx),
    pytest.param(["--compute-capability", "89"], 2, "--compute-capability without --trt"),
    pytest.param(["--flavour", "tensorrt"], 2, "--flavour without --trt"),
    pytest.param(["--trt", "--flavour", "cuda"], 2, "use tensorrt-rtx or tensorrt"),
    pytest.param(["--trt", "--flavour", "tensorrt"], 5, '[trt]"', marks=without_tensorrt),
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
