"""NaN, infinite and constant images are never written: the block is computed again in float32, else the run stops with
one line that names class, seed and index.
"""

import hashlib
import json
import logging
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime import Generation, write_set
from dpd_runtime.annotations import Array
from dpd_runtime.engines import Engine, Provider
from dpd_runtime.errors import DegenerateImageError
from dpd_runtime.generation import BlockComputer, resolve_sampler
from dpd_runtime.golden import GOLDEN_NAME
from dpd_runtime.networks import Networks, load_networks
from dpd_runtime.sampler import BLOCK
from dpd_runtime.sessions import OnnxRuntimeEngine, OpenVinoEngine
from tests.commands import dpd
from tests.drawn import opened, quick_bundle
from tests.hostile.fuzz.material import without_metadata

pytest.importorskip("onnxruntime")
CPU = Provider("cpu", "")
SAMPLER = resolve_sampler(opened().manifest.sampler, steps=2, candidates=2, guidance_scale=1.5)


class Spoilt:
    """A network whose call number `call` gives `value` in one row, as an overflow in half precision does."""

    def __init__(self, engine: Engine, row: int, value: float = math.nan, call: int = 0) -> None:
        self._engine, self._row, self._value, self._call = engine, row, value, call
        self.calls = 0

    def run(self, **inputs: Array) -> Array:
        found = self._engine.run(**inputs)
        if self.calls == self._call:
            found[self._row] = self._value
        self.calls += 1
        return found


class Spoiling(Generation):
    """A generation of one class whose networks `spoil` changes once they are loaded."""

    def __init__(self, part: str, ipc: int = 10, again: bool = False, **spoiling: float) -> None:
        super().__init__(opened(), ipc=ipc, seed=3, classes=("Forest",), sampler=SAMPLER, provider="cpu", threads=1)
        self.part, self.again, self.spoiling = part, again, spoiling

    def load(self) -> BlockComputer:
        if self._computer is None:
            good = load_networks(self.bundle, CPU, 1)
            bad = replace(good, **{self.part: Spoilt(getattr(good, self.part), **self.spoiling)})  # type: ignore[arg-type]
            spare = (lambda: good) if self.again else None
            self._computer = BlockComputer(self.bundle, self.sampler, bad, self.seed, spare)
        return self._computer


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize(
    ("part", "graph", "row", "call", "index"),
    [
        ("unet", "unet/model.onnx", 4, 0, 4),
        ("unet", "unet/model.onnx", 17, 1, 7),  # the half of a guided call that has no prompt
        ("unet", "unet/model.onnx", 9, 3, 9),  # the second candidate
        ("latent_classifier", "latent_classifier/model.onnx", 2, 1, 2),
        ("decoder", "vae_decoder/model.onnx", 8, 0, 8),
    ],
)
def test_the_call_that_breaks_is_named(
    part: str, graph: str, row: int, call: int, index: int, value: float, tmp_path: Path
) -> None:
    generation = Spoiling(part, row=row, value=value, call=call)
    with pytest.raises(DegenerateImageError) as caught:
        write_set(generation, tmp_path / "set")
    said = str(caught.value)
    assert said.startswith(f"class Forest, seed 3, index {index}: {graph} gave NaN or infinite numbers; try another")
    assert "\n" not in said
    assert not list(tmp_path.rglob("*.png"))
    spoilt = generation.load().networks
    assert getattr(spoilt, part).calls == call + 1, "it went on after the broken call"


def test_a_constant_image_is_named_and_earlier_blocks_stay(tmp_path: Path) -> None:
    with pytest.raises(DegenerateImageError, match=r"^class Forest, seed 3, index 15: the image is constant; try"):
        write_set(Spoiling("decoder", ipc=20, row=5, value=0.25, call=1), tmp_path / "set")
    assert len(list(tmp_path.rglob("*.png"))) == BLOCK


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The set hash of two blocks."""
    good = Generation(opened(), ipc=20, seed=3, classes=("Forest",), sampler=SAMPLER, provider="cpu", threads=1)
    return write_set(good, tmp_path_factory.mktemp("good") / "set").set_hash


@pytest.mark.parametrize(("part", "value"), [("unet", math.nan), ("decoder", 2.0), ("latent_classifier", -math.inf)])
def test_a_broken_block_is_computed_again_in_float32(
    part: str, value: float, unspoilt: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        mended = write_set(Spoiling(part, ipc=20, again=True, row=1, value=value), tmp_path / "mended")
    assert mended.set_hash == unspoilt
    (record,) = caplog.records
    assert record.getMessage().startswith("class Forest, seed 3, index 1: ")
    assert record.getMessage().endswith("; the block is computed again in float32")


def test_what_float32_does_not_mend_ends_the_run() -> None:
    networks = load_networks(opened(), CPU, 1)
    broken = replace(networks, unet=Spoilt(networks.unet, row=0))
    again = Spoilt(networks.unet, row=6)
    computer = BlockComputer(
        opened(), SAMPLER, broken, 3, lambda: Networks(again, networks.decoder, networks.latent_classifier)
    )
    block = Generation(opened(), ipc=1, classes=("Forest",), provider="cpu").blocks()[0]
    with pytest.raises(DegenerateImageError, match=r"^class Forest, seed 3, index 6: unet"):
        computer.compute(block)


@pytest.mark.parametrize(
    ("provider", "precision", "mendable"),
    [
        (Provider("cuda", ""), "fp16", True),
        (Provider("cuda", ""), "fp16-weights", False),
        (Provider("cuda", ""), "fp32", False),
        (CPU, "fp16", False),
        (Provider("openvino", ""), "fp16", False),
        (Provider("openvino", "", precision="bf16"), "fp32", True),
    ],
)
def test_only_half_precision_can_be_mended(provider: Provider, precision: str, mendable: bool) -> None:
    generation = Generation(opened(), ipc=1, provider="cpu")
    generation.bundle = replace(opened(), manifest=replace(opened().manifest, precision=precision))
    generation.provider = provider
    found = generation._in_float32()
    assert (found is not None) == mendable
    if found is not None:
        latents = np.ones((1, *opened().manifest.latent_shape), np.float32)
        assert found().latent_classifier.run(latents=latents).dtype == np.float32  # loads where there is no CUDA


@pytest.mark.parametrize("provider", ["onnxruntime", "openvino"])
def test_half_precision_is_float32_on_a_cpu(provider: str) -> None:
    """Why a CPU helps: 4000 · 1000 overflows in half precision, and so does the way back from the float32 island."""
    onnx = pytest.importorskip("onnx")
    helper, half, single = onnx.helper, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    values = {"thousand": np.array(1000, np.float16), "identity": np.eye(4, dtype=np.float16) * np.float16(1000)}
    values["millionth"] = np.array(1e-6, np.float16)
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=half),
        helper.make_node("Mul", ["a", "thousand"], ["b"]),
        helper.make_node("MatMul", ["b", "identity"], ["c"]),
        helper.make_node("Cast", ["c"], ["island"], to=single),
        helper.make_node("Cast", ["island"], ["back"], to=half),
        helper.make_node("Mul", ["back", "millionth"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=single),
    ]
    ends = [helper.make_tensor_value_info(name, single, ["n", 4]) for name in "xy"]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    if find_spec(provider) is None:
        pytest.skip(f"{provider} is not installed")
    engine = OnnxRuntimeEngine if provider == "onnxruntime" else OpenVinoEngine
    chosen = CPU if provider == "onnxruntime" else Provider(provider, "")
    found = engine(model.SerializeToString(), chosen, 1).run(x=np.array([[1, 2, 3, 4]], np.float32))
    np.testing.assert_allclose(found, [[1, 2, 3, 4]], rtol=0.05)  # 1e-6 in half precision is 1.01e-6


def test_the_command_says_it_in_one_line(tmp_path: Path, process_environment: dict[str, str]) -> None:
    bundle = quick_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["scaling_factor"] = 1e-37  # the decoder overflows
    del manifest["files"][GOLDEN_NAME]  # whose images nobody could make so
    (bundle / GOLDEN_NAME).unlink()
    for path in bundle.rglob("*.onnx"):  # else refused, as it says the other factor
        path.write_bytes(graph := without_metadata(path.read_bytes()))
        listed = {"sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}
        manifest["files"][path.relative_to(bundle).as_posix()] = listed
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    command = ["generate", str(bundle), "--ipc", "1", "--classes", "River", "--out", "out"]
    done = dpd(command, process_environment, tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dpd: class River, seed 0, index 0: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.png"))
