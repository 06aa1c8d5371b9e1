"""A graph is compiled once on a machine. ONNX Runtime's own compiler runs here, for the CPU in place of a GPU's plugin:
it then returns a model with the graph's nodes, where the plugin returns one around an engine.
"""

import hashlib
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dpd_cli.main import app
from dpd_runtime import Bundle, dataset, embedded_bundle, generate, load_bundle, sessions, write_set
from dpd_runtime import bundle as bundle_module
from dpd_runtime import sessions as engine_module
from dpd_runtime.engine_files import keep_model, kept_models, working_folder
from dpd_runtime.engines import NAMES, Compilation, Provider
from dpd_runtime.errors import OutputFolderError, ProviderError
from dpd_runtime.golden import compile_here
from dpd_runtime.machine import Driver
from dpd_runtime.networks import DECODER, GRAPHS
from dpd_runtime.tensorrt import Site, this_os

onnxruntime = pytest.importorskip("onnxruntime")
if not hasattr(onnxruntime, "ModelCompiler"):
    pytest.skip("this onnxruntime does not compile models", allow_module_level=True)
ROOT = Path(__file__).parents[3]
RTX, TENSORRT = Provider("tensorrt-rtx", "a test"), Provider("tensorrt", "a test")
CPU = "CPUExecutionProvider"


@dataclass
class Machine:
    """A machine with a GPU that the CPU stands for.

    Args:
        compiled: how many graphs were compiled. broken: whether the compiler fails.
    """

    driver: str = "580.95"
    compiled: int = 0
    broken: bool = False

    def site(self, flavour: str, version: str, device: int = 0) -> Site:
        return Site(flavour, version, "A GPU", 89, this_os(), self.driver, 13000)

    def start_again(self) -> None:
        """Forget what only this process knows."""
        working_folder.cache_clear()
        self.compiled = 0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    here, compiler = Machine(), onnxruntime.ModelCompiler

    def join(options: Any, provider: Provider, compilation: Compilation) -> list[tuple[str, dict[str, str]]]:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return [(CPU, {})]

    def compile_graph(*arguments: Any, **settings: Any) -> Any:
        here.compiled += 1
        if here.broken:
            raise RuntimeError("the engine is too large")
        return compiler(*arguments, **settings)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bundle_module, "this_site", here.site)
    monkeypatch.setattr(sessions, "flavour_version", lambda flavour: "1.7.1.116")
    monkeypatch.setattr(engine_module, "join_session", join)
    monkeypatch.setattr(dataset, "gpu_name", lambda number: "A GPU")
    monkeypatch.setattr(dataset, "nvidia_driver", lambda: Driver(here.driver, 13000, (), None))
    monkeypatch.setattr(onnxruntime, "ModelCompiler", compile_graph)
    for name in ("tensorrt-rtx", "tensorrt"):
        monkeypatch.setitem(NAMES, name, CPU)
    working_folder.cache_clear()
    yield here
    working_folder.cache_clear()


@pytest.mark.full
def test_the_second_start_compiles_nothing(machine: Machine) -> None:
    bundle = load_bundle()
    file, verdict = compile_here(bundle, RTX, 1)
    assert machine.compiled == len(GRAPHS)  # although each was loaded twice, once for the golden images
    assert verdict is not None
    assert verdict.good
    assert len(kept_models(working_folder(file))) == len(GRAPHS)
    machine.start_again()
    assert compile_here(bundle, RTX, 1)[0] == file
    assert machine.compiled == 0


def test_another_driver_compiles_anew(machine: Machine) -> None:
    bundle = load_bundle()
    for driver, compiled in (("580.95", 1), ("580.95", 1), ("590.10", 2)):
        machine.driver = driver
        bundle.engine(DECODER, RTX, 1)
        assert machine.compiled == compiled


def test_what_cannot_be_compiled_ahead_is_compiled_by_the_session(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, machine.broken = load_bundle(), True
    with caplog.at_level(logging.WARNING):
        bundle.engine(DECODER, RTX, 1)
    assert f"{DECODER} is compiled again at each start (the engine is too large)" in caplog.text
    assert kept_models(working_folder(bundle.engine_cache(bundle.site(RTX)))) == []


def test_a_set_is_continued_on_the_same_gpu_driver_and_engines_only(machine: Machine, tmp_path: Path) -> None:
    bundle, out = load_bundle(), tmp_path / "set"

    def write(ipc: int) -> None:
        write_set(generate(bundle, ipc=ipc, classes=("River",), provider="tensorrt-rtx"), out)

    write(1)
    made = json.loads((out / "dataset.json").read_text())["made_with"]["machine"]
    model = (working_folder(bundle.engine_cache(bundle.site(RTX)))).glob("*.onnx")
    assert (made["gpu"], made["driver"]) == ("A GPU", "580.95")
    assert made["engines"] == {DECODER: hashlib.sha256(next(model).read_bytes()).hexdigest()}
    machine.start_again()
    write(2)
    machine.driver = "590.10"
    machine.start_again()
    with pytest.raises(OutputFolderError, match="made with another machine"):
        write(3)


def test_the_command_says_what_it_kept(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    app(["engines", str(embedded_bundle())], standalone_mode=False)
    kept, cache, golden = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"engines     3 kept, \d+\.\d MB; compiled and tried in \d+ s", kept)
    assert "tensorrt-rtx-1.7.1.116-A-GPU-89-580.95.cache" in cache
    assert re.fullmatch(r"golden      \d+\.\d dB", golden)


def in_half(bundle: Bundle) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, precision="fp16"))


def test_onnxruntime_does_not_compile_half_precision_for_tensorrt(machine: Machine) -> None:
    """It may compute in float16 what the graph computes in float32; a strongly typed engine does not."""
    bundle = in_half(load_bundle())
    with pytest.raises(ProviderError, match=r"would lose the float32 parts .* run dpd engines .* --flavour tensorrt"):
        bundle.engine(DECODER, TENSORRT, 1)
    keep_model(working_folder(bundle.engine_cache(bundle.site(TENSORRT))), bundle.files[DECODER], bundle.files[DECODER])
    bundle.engine(DECODER, TENSORRT, 1)
    load_bundle().engine(DECODER, TENSORRT, 1)
    assert machine.compiled == 0


WITHOUT_TF32 = """
import ctypes, os, sys
from dpd_runtime import engines as providers
os.environ["NVIDIA_TF32_OVERRIDE"] = "1"
seen = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == providers.RTX_PLUGIN:
            seen.append((name, os.environ["NVIDIA_TF32_OVERRIDE"]))
sys.meta_path.insert(0, Finder())
class Library:
    def __init__(self, name, mode=0):
        seen.append((str(name), os.environ["NVIDIA_TF32_OVERRIDE"]))
    def __getattr__(self, name):
        return lambda: 10
providers.ctypes.CDLL = Library
try:
    providers._rtx_plugin()
except providers.MissingExtraError:
    pass
assert seen and {value for _, value in seen} == {"0"}, seen
os.environ["NVIDIA_TF32_OVERRIDE"] = "1"
assert providers.preload_tensorrt() == "10.10.10.10"
found = [value for name, value in seen if "nvinfer" in name or "nvonnxparser" in name]
assert found == ["0"] * len(providers.TENSORRT_LIBRARIES), seen
"""


def test_tf32_is_off_before_a_library_of_tensorrt_is_loaded() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TF32], cwd=ROOT, check=True)
