"""Options of TensorRT's providers, against the real packages where they are installed, and the plugin with a driver
that has no GPU: a stub of libcuda that answers each call with an error.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_runtime.engines import CUDA_OPTIONS, RTX_PLUGIN, Compilation, rtx_options, tensorrt_options
from dpd_runtime.tensorrt import shape_ranges
from tests.drawn import opened

ROOT = Path(__file__).parents[3]
COMPILATION = Compilation(
    {"sample": ((1, 4, 8, 8), (20, 4, 8, 8), (40, 4, 8, 8)), "prompts": ((1, 3, 5), (20, 3, 5), (40, 3, 5))},
    Path("/tmp/x"),
)
needs_plugin = pytest.mark.skipif(find_spec(RTX_PLUGIN) is None, reason='no plugin: pip install "dpd-distill[rtx]"')


def package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def test_shapes_are_written_as_both_providers_read_them() -> None:
    shapes = {
        "min": "sample:1x4x8x8,prompts:1x3x5",
        "opt": "sample:20x4x8x8,prompts:20x3x5",
        "max": "sample:40x4x8x8,prompts:40x3x5",
    }
    for found, prefix in ((rtx_options(COMPILATION), "nv"), (tensorrt_options(COMPILATION), "trt")):
        assert {name: found[f"{prefix}_profile_{name}_shapes"] for name in shapes} == shapes
    assert tensorrt_options(Compilation()) == rtx_options(Compilation()) == {}


def test_the_shapes_of_a_bundle_are_those_of_its_graphs() -> None:
    """The graphs themselves say their inputs; onnx reads them."""
    onnx = pytest.importorskip("onnx")
    bundle = opened()
    for graph in ("unet/model.onnx", "vae_decoder/model.onnx", "latent_classifier/model.onnx", "classifier/model.onnx"):
        inputs = {
            entry.name: [axis.dim_value for axis in entry.type.tensor_type.shape.dim]
            for entry in onnx.load_from_string(bundle.files[graph]).graph.input
            if entry.type.tensor_type.shape.dim
        }
        ranges = shape_ranges(graph, bundle.manifest, bundle.empty_embedding.shape)
        assert set(ranges) == set(inputs)
        for name, declared in inputs.items():
            for shape in ranges[name]:
                assert len(shape) == len(declared)
                assert all(size in (0, found) for size, found in zip(declared[1:], shape[1:], strict=True)), name


@needs_plugin
def test_the_plugin_knows_the_options() -> None:
    """Its package brings the header with the names of all options."""
    header = (package(RTX_PLUGIN) / "tensorrt_rtx_provider_options.h").read_text()
    known = set(re.findall(r'= "(\w+)";', header))
    assert set(rtx_options(COMPILATION)) <= known
    assert "nv_no_such_option" not in known


@pytest.mark.skipif(
    find_spec("onnxruntime") is None
    or not (package("onnxruntime") / "capi" / "libonnxruntime_providers_tensorrt.so").is_file(),
    reason='no onnxruntime-gpu: pip install "dpd-distill[gpu]"',
)
def test_onnxruntime_gpu_knows_the_options() -> None:
    """Names of options are read from the libraries, whose parsers compare with them."""
    folder = package("onnxruntime") / "capi"
    for library, names in (("tensorrt", tensorrt_options(COMPILATION)), ("cuda", CUDA_OPTIONS)):
        content = (folder / f"libonnxruntime_providers_{library}.so").read_bytes()
        assert [name for name in names if name.encode() + b"\0" not in content] == []


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libcuda that finds no GPU and an uninitialised libnvidia-ml, with all that the plugin asks of them."""
    compiler, lister = shutil.which("cc") or shutil.which("gcc"), shutil.which("nm")
    if compiler is None or lister is None:
        pytest.skip("no C compiler, or no nm")
    libraries = sorted(package(RTX_PLUGIN).glob("*.so*"))
    listed = subprocess.run([lister, "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=False)
    names = set(re.findall(r" U (cu[A-Z]\w+|nvml\w+)", listed.stdout)) | {"cuDriverGetVersion"}
    folder = tmp_path_factory.mktemp("stubs")
    for start, library, code in (("cu", "libcuda.so.1", 100), ("nvml", "libnvidia-ml.so.1", 9)):
        lines = [
            f'const char* {name}(int code) {{ return "stub"; }}'
            if name == "nvmlErrorString"
            else f"int {name}(void) {{ return {code}; }}"
            for name in sorted(names)
            if name.startswith(start)
        ]
        (folder / f"{start}.c").write_text("\n".join(lines))
        command = [
            compiler,
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{library}",
            "-o",
            folder / library,
            folder / f"{start}.c",
        ]
        subprocess.run(command, check=True)
    return folder


def ask(statement: str, libraries: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": libraries}
    code = f"from dpd_runtime.engines import *\n{statement}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


@needs_plugin
def test_with_a_driver_the_plugin_registers_once_and_lists_no_gpu(stubs: Path) -> None:
    said = ask("print(rtx_devices(), rtx_devices() is rtx_devices(), flavour_version('tensorrt-rtx'))", str(stubs))
    assert re.match(r"\[\] True \d+\.\d+\.\d+\.\d+\n", said), said


@needs_plugin
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="a driver is here")
def test_without_a_driver_the_plugin_says_so() -> None:
    said = ask("rtx_devices()", "")
    assert "provider tensorrt-rtx: its plugin cannot be loaded (no NVIDIA driver: libcuda.so.1 is not found)" in said
