"""The findings of `dpd doctor` with and without a driver. The driver here is a small library of the test's."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_runtime.doctor import ON_CPU, examine_providers, this_machine
from dpd_runtime.installation import install_command
from dpd_runtime.machine import Driver, Gpu, nvidia_driver
from dpd_runtime.networks import PROVIDERS
from tests.drawn import of_fewer_classes, opened

H200 = Gpu("NVIDIA H200", 90, 150 * 10**9)
GOOD = Driver("580.95.05", 13000, (H200,), None)
DRIVER = """
#include <string.h>
#include <stddef.h>
int cuDriverGetVersion(int* v) { *v = 12080; return 0; }
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int* n) { *n = COUNT; return 0; }
int cuDeviceGet(int* d, int i) { *d = i; return 0; }
int cuDeviceGetName(char* s, int n, int d) { strncpy(s, "Drawn GPU", n); return 0; }
int cuDeviceTotalMem_v2(size_t* m, int d) { *m = 8589934592u; return 0; }
int cuDeviceGetPCIBusId(char* s, int n, int d) { strncpy(s, d ? "0000:1A:00.0" : "0000:65:00.0", n); return 0; }
int cuDeviceGetAttribute(int* v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 6 : -1; return 0; }
"""


def library(folder: Path, init: int = 0, count: int = 2) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "driver.c").write_text(DRIVER)
    out = str(folder / "libcuda.so.1")
    options = [f"-DINIT={init}", f"-DCOUNT={count}"]
    subprocess.run([compiler, "-shared", "-fPIC", *options, "-o", out, str(folder / "driver.c")], check=True)
    return out


def module(folder: Path) -> Path:
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Sun Mar 30 2025\nGCC version:  gcc 12.3.0\n"
    (folder / "version").write_text(text)
    return folder / "version"


def test_no_driver(tmp_path: Path) -> None:
    found = nvidia_driver(["libnothing-of-the-kind.so.1"], tmp_path / "absent")
    assert (found.version, found.cuda, found.gpus) == (None, 0, ())
    assert found.problem == "no NVIDIA driver: libnothing-of-the-kind.so.1 is not found"
    assert found.too_old_for(12) == found.problem
    hidden = nvidia_driver(["libnothing-of-the-kind.so.1"], module(tmp_path))
    assert hidden.version == "570.133.20"
    assert "--gpus" in (hidden.problem or "")


def test_a_driver_with_gpus(tmp_path: Path) -> None:
    found = nvidia_driver([library(tmp_path)], module(tmp_path))
    gpus = tuple(Gpu("Drawn GPU", 86, 2**33, place) for place in ("0000:65:00.0", "0000:1A:00.0"))
    assert found == Driver("570.133.20", 12080, gpus, None)
    assert found.too_old_for(12) is None
    said = "the driver (570.133.20) supports CUDA 12.8; CUDA 13 needs driver 580.65.06 or newer"
    assert found.too_old_for(13) == said


@pytest.mark.parametrize(("init", "count", "words"), [(100, 0, "CUDA error 100"), (0, 0, "finds no GPU")])
def test_a_driver_without_gpus(init: int, count: int, words: str, tmp_path: Path) -> None:
    found = nvidia_driver([library(tmp_path, init, count)], module(tmp_path))
    assert words in (found.problem or "")
    assert found.cuda == 12080


def test_a_library_that_is_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"not ELF")
    assert "is not found" in (nvidia_driver([str(tmp_path / "libcuda.so.1")], tmp_path / "absent").problem or "")
    assert "not a working driver" in (nvidia_driver(["libc.so.6"], tmp_path / "absent").problem or "")


def test_every_provider_is_judged_and_the_cpu_really_ran() -> None:
    pytest.importorskip("onnxruntime")
    findings = {f.name: f for f in examine_providers(opened(), nvidia_driver(["libnothing.so"], Path("/absent")))}
    assert set(findings) == set(PROVIDERS) - {"auto"}
    assert findings["cpu"].usable
    assert findings["cpu"].reason == "ran latent_classifier/model.onnx of eurosat64"
    assert findings["openvino"].usable == (find_spec("openvino") is not None)
    assert findings["openvino"].usable or findings["openvino"].reason.endswith(install_command("openvino"))
    assert not any(f.usable for name, f in findings.items() if name not in ON_CPU)
    for finding in findings.values():
        assert "\n" not in finding.reason
        assert len(finding.reason) > 10


def test_tensorrt_is_never_called_usable_by_its_package_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With package and driver, the bundle's engine still has to load."""
    monkeypatch.setattr("dpd_runtime.doctor.find_spec", lambda name: object())
    findings = {f.name: f for f in examine_providers(opened(), GOOD)}
    assert not findings["tensorrt"].usable
    assert not findings["tensorrt-rtx"].usable
    assert findings["tensorrt"].reason == f"onnxruntime-gpu is not installed: {install_command('trt')}"


def test_whatever_goes_wrong_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("libcudnn.so.9: cannot open\nshared object file")

    monkeypatch.setattr("dpd_runtime.doctor.find_spec", broken)
    findings = examine_providers(opened(), GOOD)
    assert {f.reason for f in findings} == {"RuntimeError: libcudnn.so.9: cannot open shared object file"}
    assert not any(f.usable for f in findings)
    monkeypatch.undo()
    assert [f.reason for f in examine_providers(None, GOOD) if f.name == "cpu"] == [
        "no bundle could be opened to try it"
    ]


def test_an_answer_of_another_shape_is_no_working_provider() -> None:
    (cpu,) = [f for f in examine_providers(of_fewer_classes(9), GOOD) if f.name == "cpu"]
    assert not cpu.usable
    assert "instead of floats [10, 9]" in cpu.reason


def test_the_machine_as_it_is() -> None:
    machine = this_machine()
    assert 1 <= machine.usable_cores <= machine.cores
    assert machine.versions["python"].count(".") == 2
    assert machine.processor
