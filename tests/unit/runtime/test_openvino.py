"""OpenVINO against ONNX Runtime on the shipped networks, its errors, and that it tells nobody that it is used."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime import generate, golden, load_bundle, write_set
from dpd_runtime import sessions as engines
from dpd_runtime.annotations import Array
from dpd_runtime.calls import stop_calls
from dpd_runtime.engines import Provider
from dpd_runtime.errors import InputError, MissingExtraError, ProviderError
from dpd_runtime.golden import replay
from dpd_runtime.graph_check import WEIGHTS_NAME
from dpd_runtime.networks import choose_provider
from dpd_runtime.sessions import OpenVinoEngine, openvino_device
from dpd_runtime.telemetry import import_openvino
from dpd_runtime.trust import Signature
from tests.commands import Done, dpd
from tests.drawn import opened

pytest.importorskip("onnxruntime")
needed = pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")
CPU, OPENVINO, BF16 = Provider("cpu", ""), Provider("openvino", ""), Provider("openvino", "", precision="bf16")
LATENT_CLASSIFIER = "latent_classifier/model.onnx"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def calls(rows: int) -> dict[str, dict[str, Array]]:
    """Inputs of each network of the shipped bundle."""
    bundle, rng = opened(), np.random.default_rng(0)
    latents = rng.normal(size=(rows, *bundle.manifest.latent_shape)).astype(np.float32)
    prompts = bundle.prompt_embeddings[rng.permutation(len(bundle.prompts))[:rows]]
    return {
        "unet": {"sample": latents, "timestep": np.array(500, np.int64), "encoder_hidden_states": prompts},
        "vae_decoder": {"latent_sample": latents},
        "latent_classifier": {"latents": latents},
        "classifier": {"images": rng.uniform(-1, 1, (8, 3, 64, 64)).astype(np.float32)},
    }


def has_bf16() -> bool:
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@needed
@pytest.mark.parametrize("network", ["unet", "vae_decoder", "latent_classifier", "classifier"])
def test_it_computes_what_onnxruntime_computes(network: str) -> None:
    bundle, inputs = opened(), calls(10)[network]
    graph = f"{network}/model.onnx"
    expected = bundle.engine(graph, CPU, 1).run(**inputs)
    found = bundle.engine(graph, OPENVINO, 1).run(**inputs)
    assert found.dtype == np.float32
    scale = np.abs(expected).max()
    half = 2.0**-11  # float16's relative rounding error: ONNX Runtime rounds between nodes, OpenVINO does not
    assert np.abs(found - expected).max() / scale < half


@needed
@pytest.mark.parametrize("network", ["unet", "vae_decoder", "latent_classifier", "classifier"])
def test_bfloat16_is_used_and_near_enough(network: str) -> None:
    if not has_bf16():
        pytest.skip("this processor has no bfloat16")
    bundle, inputs = opened(), calls(10)[network]
    graph = f"{network}/model.onnx"
    expected = bundle.engine(graph, CPU, 1).run(**inputs)
    rounded = bundle.engine(graph, BF16, 1).run(**inputs)
    error = np.abs(rounded - expected).max() / np.abs(expected).max()
    assert 2.0**-11 < error < 2e-2  # bfloat16 has 8 bits, float16 has 11


@needed
def test_two_threads_may_call_it_at_once_and_results_stay() -> None:
    """An output that were a view of the engine's own memory would be changed by the next call."""
    inputs = calls(10)["latent_classifier"]["latents"]
    engine = opened().engine(LATENT_CLASSIFIER, OPENVINO, 1)
    together = threading.Barrier(2)

    def ask(row: int) -> list[Array]:
        together.wait(10)
        return [engine.run(latents=inputs[row : row + 2]) for _ in range(20)]

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(ask, (0, 5)))
    for row, answer in zip((0, 5), answers, strict=True):
        expected = opened().engine(LATENT_CLASSIFIER, CPU, 1).run(latents=inputs[row : row + 2])
        for found in answer:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@needed
def test_the_number_of_threads_changes_nothing() -> None:
    for network, inputs in calls(10).items():
        one, two = (opened().engine(f"{network}/model.onnx", OPENVINO, threads).run(**inputs) for threads in (1, 2))
        np.testing.assert_array_equal(one, two)


@needed
def test_what_it_cannot_do_is_one_line() -> None:
    bundle = opened()
    with pytest.raises(ProviderError, match=r"^latent_classifier/model\.onnx does not run on openvino \(.*Port for"):
        bundle.engine(LATENT_CLASSIFIER, OPENVINO, 1).run(pixels=np.zeros(1, np.float32))
    with pytest.raises(ProviderError, match=r"GPU\.7 is not there; OpenVINO lists CPU.*; use another --device"):
        bundle.engine(LATENT_CLASSIFIER, replace(OPENVINO, gpu=7), 1)
    beside = replace(bundle, files={**bundle.files, f"latent_classifier/{WEIGHTS_NAME}": b"weights"})
    with pytest.raises(ProviderError, match=r"has weights in a file beside it; use --provider cpu"):
        beside.engine(LATENT_CLASSIFIER, OPENVINO, 1)
    with pytest.raises(ProviderError) as raised:
        OpenVinoEngine(b'<?xml version="1.0"?><net name="x" version="11"><layers/></net>', OPENVINO, 1)
    assert "\n" not in str(raised.value)


@needed
def test_a_processor_without_bfloat16_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        available_devices = ("CPU", "GPU")

        def get_property(self, device: str, name: str) -> object:
            return {"FULL_DEVICE_NAME": f"An old {device}", "OPTIMIZATION_CAPABILITIES": ["FP32", "FP16"]}[name]

    monkeypatch.setattr(engines, "_core", Old)
    with pytest.raises(ProviderError, match="An old CPU has no bfloat16; leave out --precision"):
        openvino_device(BF16)
    with pytest.raises(ProviderError, match=r"An old GPU\.0 has no bfloat16; leave out --precision"):
        openvino_device(replace(BF16, gpu=0))
    assert [openvino_device(replace(OPENVINO, gpu=gpu)) for gpu in (None, 0)] == ["CPU", "GPU.0"]
    with pytest.raises(ProviderError, match=r"GPU\.1 is not there; OpenVINO lists CPU, GPU\.0; use"):
        openvino_device(replace(OPENVINO, gpu=1))


@needed
def test_a_call_can_be_stopped(tmp_path: Path) -> None:
    from tests.unit.runtime.test_interrupt import GRAPH, slow_bundle  # skips where onnx is not installed

    bundle = replace(load_bundle(slow_bundle(tmp_path, 1024, 2_000)), signature=Signature("0" * 32, "lab"))
    engine = bundle.engine(GRAPH, OPENVINO, 1)
    latents = np.zeros((2, *opened().manifest.latent_shape), np.float32)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(engine.run, latent_sample=latents)
        begun = time.monotonic()
        while not call.done() and time.monotonic() < begun + 60:
            stop_calls()
            time.sleep(0.2)
        assert time.monotonic() < begun + 10, "without a stop it takes a minute"
        with pytest.raises(ProviderError, match="canceled"):
            call.result()


LARGE = """
import resource, sys
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from dpd_runtime.engines import Provider
from dpd_runtime.sessions import OpenVinoEngine
from dpd_runtime.errors import DpdError
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", ["n", 1]), ("y", None)))
nodes = [helper.make_node("Expand", ["x", "large"], ["z"]), helper.make_node("ReduceMean", ["z"], ["y"], keepdims=0)]
graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.array([10**5, 10**5]), "large")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30,) * 2)
try:
    OpenVinoEngine(model, Provider("openvino", ""), 1, name="a graph").run(x=np.ones((1, 1), np.float32))
except DpdError as error:
    print(type(error).__name__, error)
"""


@needed
def test_a_graph_beyond_the_limit_of_memory_is_one_line(process_environment: dict[str, str]) -> None:
    pytest.importorskip("onnx")
    done = subprocess.run(
        [sys.executable, "-c", LARGE], env=process_environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("MemoryShortError a graph needs more memory than is available ("), done.stderr
    assert "40000000000 bytes" in done.stdout


STAND_IN = """
from pathlib import Path
Path("told").touch()
class Telemetry:
    def __init__(self, *_, **__): self.backend = self; self.app_name = ""
    def __getattr__(self, name): return lambda *_, **__: None
"""
QUIET = """
import sys
seen = []
sys.addaudithook(lambda event, values: seen.append(event) if event.startswith(("socket.", "subprocess.", "os.fork",
    "os.posix_spawn", "os.exec", "os.system")) else None)
from dpd_runtime import load_bundle
from dpd_runtime.engines import Provider
import numpy as np
bundle = load_bundle()
engine = bundle.engine("latent_classifier/model.onnx", Provider("openvino", ""), 1)
print(engine.run(latents=np.zeros((2, *bundle.manifest.latent_shape), np.float32)).shape)
print(seen, [name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


@needed
def test_it_tells_nobody_that_it_is_used(process_environment: dict[str, str], tmp_path: Path) -> None:
    """`import openvino` alone reports itself to Google Analytics. The stand-in shows that without any network."""
    stand_in = tmp_path / "packages" / "openvino_telemetry" / "backend"
    stand_in.mkdir(parents=True)
    (stand_in.parent / "__init__.py").write_text(STAND_IN)
    (stand_in / "__init__.py").touch()
    (stand_in / "backend_ga4.py").touch()
    paths = f"{tmp_path / 'packages'}:{process_environment['PYTHONPATH']}"
    environment = process_environment | {"HOME": str(tmp_path / "home"), "PYTHONPATH": paths}

    def run(code: str) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(QUIET).splitlines() == [f"(2, {len(opened().classes)})", "[] []"]
    assert not (tmp_path / "told").exists()
    assert not (tmp_path / "home").exists()
    run("import openvino")
    assert (tmp_path / "told").exists(), "the stand-in is what openvino imports"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r'openvino is not installed: pip install .*\[openvino\]"'):
        import_openvino.__wrapped__()
    assert "openvino_telemetry" not in sys.modules


@pytest.mark.parametrize(("provider", "precision"), [("cpu", "bf16"), ("auto", "bf16"), ("openvino", "fp8")])
def test_a_precision_that_has_no_meaning_is_refused(provider: str, precision: str) -> None:
    with pytest.raises(InputError, match=rf"--precision {precision}: give fp32, or bf16 with --provider openvino"):
        generate(opened(), ipc=1, provider=provider, precision=precision)


def test_auto_never_takes_it() -> None:
    tried: list[str] = []
    choose_provider("auto", lambda provider: tried.append(provider.name))
    assert tried
    assert "openvino" not in tried


@needed
@pytest.mark.parametrize(("provider", "least", "limit"), [(OPENVINO, 60, 30), (BF16, 35, 30)], ids=["fp32", "bf16"])
def test_its_images_are_those_of_pytorch(provider: Provider, least: float, limit: float) -> None:
    if provider is BF16 and not has_bf16():
        pytest.skip("this processor has no bfloat16")
    done = replay(opened(), provider, 1)
    assert done is not None
    assert done.noise_matches
    assert done.psnr_db > least
    assert done.limit_db == limit


@needed
def test_each_precision_has_its_own_answer_and_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bundle of float32, bf16 needs 30 dB and fp32 still needs 40."""
    if not has_bf16():
        pytest.skip("this processor has no bfloat16")
    bundle = replace(opened(), manifest=replace(opened().manifest, precision="fp32"))
    whole, rounded = (
        golden.pass_gate(bundle, provider, ("vae_decoder/model.onnx",), 1) for provider in (OPENVINO, BF16)
    )
    assert whole is not None
    assert rounded is not None
    assert (whole.limit_db, rounded.limit_db) == (40, 30)
    assert whole.psnr_db > rounded.psnr_db > 35
    monkeypatch.setattr(golden, "_measure", None)  # both are remembered
    assert golden.pass_gate(bundle, BF16, ("vae_decoder/model.onnx",), 1) == rounded
    assert golden._key(bundle, BF16, False)["versions"]["openvino"]


@needed
def test_a_set_says_what_made_it(tmp_path: Path) -> None:
    made = {}
    for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
        options = {"ipc": 1, "classes": ("Forest",), "threads": 1, "provider": "openvino", "precision": precision}
        write_set(generate(opened(), **options), tmp_path / precision)  # type: ignore[arg-type]
        made[precision] = json.loads((tmp_path / precision / "dataset.json").read_text())
    found = made["fp32"]
    assert found["provider"] == "openvino"
    assert found["provider_version"].startswith("openvino 20")
    assert found["versions"]["openvino"] in found["provider_version"]
    assert found["precision"] == opened().manifest.precision
    assert "GPU" not in found["device"]
    if "bf16" in made:
        assert made["bf16"]["precision"] == "bf16"
        assert "--precision bf16" in (tmp_path / "bf16" / "README.md").read_text()
        with pytest.raises(InputError, match="precision"):  # a set has one precision
            write_set(generate(opened(), ipc=1, classes=("Forest",), provider="openvino"), tmp_path / "bf16")


def verified(provider: str, environment: dict[str, str], folder: Path) -> Done:
    return dpd(["verify", "--provider", provider, "--precision", "bf16", "--json"], environment, folder)


def test_the_command_refuses_a_precision_without_meaning(process_environment: dict[str, str], tmp_path: Path) -> None:
    done = verified("cpu", process_environment, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "dpd: --precision bf16: give fp32, or bf16 with --provider openvino\n"


@needed
def test_the_command_takes_bf16(process_environment: dict[str, str], tmp_path: Path) -> None:
    if not has_bf16():
        pytest.skip("this processor has no bfloat16")
    done = verified("openvino", process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["provider"], found["precision"], found["golden"]["limit_db"]) == ("openvino", "bf16", 30.0)
