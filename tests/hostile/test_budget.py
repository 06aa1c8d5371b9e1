"""What dpd itself holds for a bundle is known before a graph is loaded, and small files cannot make it much."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from dpd_runtime import budget, load_bundle
from dpd_runtime.budget import SHARE, check_budget, held_bytes
from dpd_runtime.bundle import Bundle
from dpd_runtime.classes import MAX_HEADER_BYTES, read_tensors
from dpd_runtime.errors import BundleError
from dpd_runtime.golden import GOLDEN_NAME
from dpd_runtime.networks import DECODER, TEACHER
from dpd_runtime.sampler import Sampler
from tests.drawn import opened
from tests.hostile.fuzz.material import Material, as_folder, as_zip, read_material

pytest.importorskip("onnxruntime")
FROZEN = Path(__file__).parents[1] / "frozen"
GIGABYTE = 10**9
linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
MEASURED = """
import contextlib, glob, json, os, resource, signal, sys, time
limit, told = int(sys.argv.pop(1)), sys.argv.pop(1)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
import dpd_cli.main
try:
    dpd_cli.main.main()
finally:
    for task in glob.glob("/proc/self/task/*/children"):  # the process of its graphs counts only when it has ended
        with contextlib.suppress(OSError):  # a thread or a child may end meanwhile
            for child in open(task).read().split():
                os.kill(int(child), signal.SIGKILL)
    until = time.monotonic() + 10
    try:
        while time.monotonic() < until:
            os.waitpid(-1, os.WNOHANG)
            time.sleep(0.05)
    except ChildProcessError:
        pass
    own = int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) / 1024
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(one.ru_utime + one.ru_stime for one in used)
    open(told, "w").write(json.dumps([own, used[1].ru_maxrss / 1024, seconds]))
"""


@dataclass(frozen=True)
class Measured:
    """How a command ended. own, theirs: the most MB that it and its process for graphs had; seconds: of CPU time."""

    code: int
    said: str
    own: float
    theirs: float
    seconds: float


def measured(
    folder: Path, environment: Mapping[str, str], *arguments: str, memory: int = 8 * GIGABYTE, ends: bool = True
) -> Measured:
    """`dpd ARGUMENTS` in a process that may use so much memory."""
    command = [sys.executable, "-c", MEASURED, str(memory), str(folder / "measured.json"), *arguments]
    done = subprocess.run(
        command,
        env={**environment, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    own, theirs, seconds = json.loads((folder / "measured.json").read_text())
    return Measured(done.returncode, done.stderr, own, theirs, seconds)


def refused(found: Measured, said: str) -> None:
    """Assert that a hostile bundle ended as every one must: in one line, soon, with little memory."""
    assert (found.code, len(found.said.splitlines())) == (3, 1), found
    assert said in found.said
    assert found.seconds < 3, found
    assert found.own < 400, found
    assert found.theirs < 400, found


def generated(path: Path, environment: Mapping[str, str], *more: str, memory: int = 8 * GIGABYTE) -> Measured:
    arguments = ["generate", str(path), "--out", str(path.parent / "out"), "--provider", "cpu", *more]
    return measured(path.parent, environment, *arguments, memory=memory)


def of_bands(bands: int, side: int, batch: int) -> Material:
    """A codes-only bundle with a decoder of a few nodes, which makes images of any size from the mean of a code."""
    onnx = pytest.importorskip("onnx")
    material = read_material(FROZEN / "format4.dpd")
    ramp = np.linspace(-1, 1, side, dtype=np.float32).reshape(1, 1, side, 1)
    constants = {"sizes": np.array([1, bands, side, side]), "ramp": ramp}
    nodes = [
        onnx.helper.make_node("ReduceMean", ["latent_sample"], ["mean"], axes=[1, 2, 3], keepdims=1),
        onnx.helper.make_node("Expand", ["mean", "sizes"], ["flat"]),
        onnx.helper.make_node("Add", ["flat", "ramp"], ["sample"]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("latent_sample", ["n", *material.manifest["latent_shape"]]), ("sample", None))
    ]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    files = material.files | {DECODER: model.SerializeToString()}
    del files[GOLDEN_NAME]
    listed = [{"name": f"B{number}", "low": 0.0, "high": 1.0} for number in range(bands)]
    sampler = material.manifest["sampler"] | {"compute_batch": batch}
    changed = {"image_shape": [side, side, bands], "bands": listed, "sampler": sampler}
    return Material(files, material.manifest | changed)


@linux
@pytest.mark.parametrize(
    ("bands", "side", "batch"), [(64, 512, 8), (64, 1024, 1), (3, 4096, 10), (64, 64, 1024), (1, 4096, 32)], ids=str
)
def test_many_bands_of_large_images(
    bands: int, side: int, batch: int, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """Ten kilobytes that took gigabytes of dpd itself; with 8 GB, a bundle may have 500 MB of it."""
    path = as_zip(tmp_path, of_bands(bands, side, batch).sealed())
    assert path.stat().st_size < 100_000
    refused(generated(path, process_environment, "--ipc", "1"), "more than the 500 MB that a bundle may have here")
    assert not (tmp_path / "out").exists()


@linux
def test_verify_computes_it_too_and_info_does_not(tmp_path: Path, process_environment: dict[str, str]) -> None:
    material = of_bands(64, 1024, 1)
    golden = save({"images": np.zeros((1, 128, 128, 64), np.uint8), "labels": np.zeros(1, np.int64)})
    path = as_zip(tmp_path, material.with_file(GOLDEN_NAME, golden).sealed())
    refused(measured(tmp_path, process_environment, "verify", str(path)), "more than the 500 MB")
    assert measured(tmp_path, process_environment, "info", str(path)).code == 0  # which computes nothing


@linux
@pytest.mark.parametrize(("bands", "side", "batch"), [(64, 160, 2), (13, 256, 20)], ids=str)
def test_what_is_computed_is_what_is_held(
    bands: int, side: int, batch: int, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """The peak of the process, beyond that for small images of the same bands, is no more than was computed."""
    pytest.importorskip("tifffile", reason="the extra bands is not installed")
    peaks = []
    for name, length in (("small", 16), ("large", side)):
        folder = tmp_path / name
        folder.mkdir()
        path = as_zip(folder, of_bands(bands, length, batch).sealed())
        found = generated(path, process_environment, "--ipc", "3")
        assert found.code == 0, found.said
        peaks.append(found.own)
    bundle = load_bundle(path)
    held = held_bytes(bundle, bundle.manifest.sampler) / 2**20
    assert 0.3 * held < peaks[1] - peaks[0] < held, (peaks, held)


def sized(
    image: tuple[int, int, int], latents: tuple[int, int, int], batch: int, **more: Any
) -> tuple[Bundle, Sampler]:
    sampler = replace(opened().manifest.sampler, compute_batch=batch, **more)
    manifest = replace(opened().manifest, image_shape=image, latent_shape=latents, sampler=sampler)
    return replace(opened(), manifest=manifest), sampler


@pytest.mark.parametrize("name", ["format2.dpd", "format3.dpd", "format4.dpd", None])
def test_ordinary_bundles_need_little(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(None if name is None else FROZEN / name)
    assert held_bytes(bundle, bundle.manifest.sampler) < 6e6
    monkeypatch.setattr(budget, "usable_memory", lambda: GIGABYTE // 4)
    check_budget(bundle, bundle.manifest.sampler)


def test_usual_sizes_are_accepted_with_8_gb_and_hostile_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "usable_memory", lambda: 8 * GIGABYTE)
    context = np.zeros((77, 768), np.float32)
    bundle, sampler = sized((512, 512, 3), (4, 64, 64), 2)  # Stable Diffusion
    check_budget(replace(bundle, empty_embedding=context), sampler)
    check_budget(replace(bundle, empty_embedding=context), replace(sampler, compute_batch=16, candidates=16))
    bundle, sampler = sized((1024, 1024, 3), (4, 128, 128), 1)
    check_budget(replace(bundle, empty_embedding=np.zeros((77, 1024), np.float32)), sampler)
    bundle, sampler = sized((512, 512, 13), (16, 64, 64), 2)
    codes = replace(bundle, manifest=replace(bundle.manifest, codes_only=True))
    check_budget(codes, sampler)
    hostile = [
        sized((64, 64, 3), (4, 512, 512), 10, candidates=64),  # noise
        sized((64, 64, 3), (4, 1024, 1024), 100),  # latents of a call
        sized((64, 64, 3), (4, 128, 128), 10, solver="lcm", steps=50),  # noise that is drawn in each step
        sized((4096, 4096, 3), (4, 128, 128), 1),
    ]
    bundle, sampler = sized((64, 64, 3), (4, 16, 16), 1024)
    hostile.append((replace(bundle, empty_embedding=np.broadcast_to(np.float32(0), (1000, 100))), sampler))
    for bundle, sampler in hostile:
        with pytest.raises(BundleError, match=r"would take [\d,]+ MB of this process, more than the 500 MB"):
            check_budget(bundle, sampler)


def test_the_users_own_numbers_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates on the command line, and the labels of many classes."""
    bundle, sampler = sized((64, 64, 3), (4, 128, 128), 10)
    monkeypatch.setattr(budget, "usable_memory", lambda: 8 * GIGABYTE)
    check_budget(bundle, sampler)
    needed = held_bytes(bundle, replace(sampler, candidates=64)) - held_bytes(bundle, sampler)
    assert needed > 4 * 61 * 10 * 4 * 128**2  # a group's noise, at least
    monkeypatch.setattr(budget, "usable_memory", lambda: round(held_bytes(bundle, sampler) / SHARE))
    check_budget(bundle, sampler)
    for changed, beside in ((replace(sampler, candidates=64), 0), (sampler, 1)):
        with pytest.raises(BundleError, match="would take"):
            check_budget(bundle, changed, beside)


def test_memory_that_is_not_known_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "usable_memory", lambda: None)
    check_budget(*sized((4096, 4096, 3), (4, 128, 128), 1))


def test_a_single_image_has_a_size(tmp_path: Path) -> None:
    """What could not be read back once it is written is refused with the manifest."""
    path = as_zip(tmp_path, of_bands(64, 2048, 1).sealed())
    with pytest.raises(BundleError, match=r"has more than 134217728 bytes an image"):
        load_bundle(path)


def answering(nodes: list[tuple[str, list[str], list[str], dict[str, Any]]], constants: dict[str, Any]) -> bytes:
    """A teacher: images → out."""
    onnx = pytest.importorskip("onnx")
    made = [onnx.helper.make_node(operator, before, after, **more) for operator, before, after, more in nodes]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", ["n", 3, 64, 64]), ("out", None))
    ]
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(made, "g", ends[:1], ends[1:], tensors)
    if made[-1].op_type == "Cast":
        graph.output[0].type.tensor_type.elem_type = made[-1].attribute[0].i
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


EACH = ("ReduceMean", ["images"], ["each"], {"axes": [1, 2, 3], "keepdims": 0})
TEACHERS = {
    "scalar": ([("ReduceMean", ["images"], ["out"], {"keepdims": 0})], {}, r"gave float32 \[\]"),
    "one number an image": ([(*EACH[:2], ["out"], EACH[3])], {}, r"gave float32 \[8\]"),
    "another number of rows": (
        [("ReduceMean", ["images"], ["m"], {"keepdims": 0}), ("Expand", ["m", "s"], ["out"], {})],
        {"s": np.array([3, 10])},
        r"gave float32 \[3, 10\]",
    ),
    "millions of classes": (
        [("ReduceMean", ["images"], ["m"], {"keepdims": 0}), ("Expand", ["m", "s"], ["out"], {})],
        {"s": np.array([8, 4_000_000])},
        r"gave float32 \[8, 4000000\]",
    ),
    "many axes": (
        [("ReduceMean", ["images"], ["m"], {"keepdims": 0}), ("Expand", ["m", "s"], ["out"], {})],
        {"s": np.array([8, 10, 1, 1])},
        r"gave float32 \[8, 10, 1, 1\]",
    ),
    "wide numbers": (
        [
            ("ReduceMean", ["images"], ["m"], {"keepdims": 0}),
            ("Expand", ["m", "s"], ["e"], {}),
            ("Cast", ["e"], ["out"], {"to": 11}),
        ],
        {"s": np.array([8, 10])},
        r"gave float64 \[8, 10\]",
    ),
    "whole numbers": (
        [
            ("ReduceMean", ["images"], ["m"], {"keepdims": 0}),
            ("Expand", ["m", "s"], ["e"], {}),
            ("Cast", ["e"], ["out"], {"to": 7}),
        ],
        {"s": np.array([8, 10])},
        r"gave int64 \[8, 10\]",
    ),
}


@linux
@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_that_gives_something_else(kind: str, tmp_path: Path, process_environment: dict[str, str]) -> None:
    """Its output is not read where it is larger than labels are, and is no internal error where it has no rows."""
    nodes, constants, said = TEACHERS[kind]
    material = Material(
        {name: bytes(content) for name, content in opened().files.items()} | {TEACHER: answering(nodes, constants)},
        json.loads(opened().manifest.to_json()),
    )
    path = as_zip(tmp_path, material.sealed())
    found = generated(path, process_environment, "--ipc", "1", "--soft-labels")
    refused(found, said.replace("\\", "").replace("gave", f"{TEACHER} gave") + " instead of floats [8, 10]")
    assert not (tmp_path / "out").exists()


def padded(raw: bytes, size: int) -> bytes:
    """The same file with a header of so many bytes, full of tensors without values."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    end = len(raw) - 8 - length
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [end, end]}
    each = len(json.dumps(entry)) + 12
    text = json.dumps(header | {f"t{number:06}": entry for number in range(size // each)})
    return len(text).to_bytes(8, "little") + text.encode() + raw[8 + length :]


@linux
@pytest.mark.parametrize("command", ["verify", "generate"])
def test_a_golden_file_with_a_huge_header(command: str, tmp_path: Path, process_environment: dict[str, str]) -> None:
    material = read_material(FROZEN / "format2.dpd")
    material = material.with_file(GOLDEN_NAME, padded(material.files[GOLDEN_NAME], 24 * 2**20))
    path = as_folder(tmp_path, material.sealed())
    more = ["--out", "out", "--provider", "cpu"] if command == "generate" else []
    refused(
        measured(tmp_path, process_environment, command, str(path), *more), f"{GOLDEN_NAME} has a header of more than"
    )


@linux
def test_a_golden_file_with_many_images(tmp_path: Path, process_environment: dict[str, str]) -> None:
    """Each of them would be decoded, however small the file's own are."""
    material = of_bands(1, 1, 1)
    many = {"images": np.zeros((2**20, 1, 1, 1), np.uint8), "labels": np.zeros(2**20, np.uint8)}
    path = as_zip(tmp_path, material.with_file(GOLDEN_NAME, save(many)).sealed())
    refused(measured(tmp_path, process_environment, "verify", str(path)), "1048576 images, more than 16")


def test_one_reader_for_all_tensors() -> None:
    material = read_material(FROZEN / "format2.dpd")
    for name in ("prototypes.safetensors", GOLDEN_NAME):
        good = material.files[name]
        assert {key: value.tobytes() for key, value in read_tensors(good, name).items()} == {
            key: value.tobytes() for key, value in load(good).items()
        }
        for bad in (b"", b"\xff" * 64, padded(good, 2 * MAX_HEADER_BYTES), good[:-1]):
            with pytest.raises(BundleError, match=rf"^{name} (has a header|cannot be read)"):
                read_tensors(bad, name)
