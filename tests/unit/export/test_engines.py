"""TensorRT engines: one of a small UNet is built if tensorrt-rtx is installed. None is executed, without a GPU."""

import hashlib
import io
import json
import struct
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dpd_export.builder import (
    FLAVOURS,
    PARTS,
    build_engine,
    flavour_of,
    full_shape,
    import_flavour,
    outside_weights,
    parse_capabilities,
)
from dpd_export.engines import build_engines
from dpd_runtime.archive import write_zip
from dpd_runtime.bundle import Bundle, embedded_bundle, load_bundle
from dpd_runtime.engine_files import engine_records
from dpd_runtime.engines import Provider
from dpd_runtime.errors import BundleError, BundleHashError, InputError, MissingExtraError, ProviderError
from dpd_runtime.generation import Generation
from dpd_runtime.machine import working_driver
from dpd_runtime.manifest import FileEntry, Manifest
from dpd_runtime.networks import load_teacher
from dpd_runtime.sampler import BlockGuidance, Sampler
from dpd_runtime.tensorrt import Profile, Site, choose_engine, largest_batch, profile_of, row_shapes, this_os
from dpd_runtime.trust import UNSIGNED, Signature
from dpd_train.bases import Base, load_base
from tests.tiny import SIDE, tiny_base

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason='tensorrt-rtx is not installed: pip install "dpd-distill[rtx-build]"'
)
RTX = FLAVOURS["tensorrt-rtx"]
BATCH = 2  # compute_batch of the bundle below; with guidance the UNet gets twice as many
UNET, DECODER, LATENT_CLASSIFIER, TEACHER = (f"{part}/model.onnx" for part in PARTS)
ROWS = {"sample": (4, 8, 8), "latent_sample": (4, 8, 8), "latents": (4, 8, 8), "encoder_hidden_states": (32, 16)}


def traced(module: nn.Module, inputs: Mapping[str, torch.Tensor], output: str) -> bytes:
    """ONNX from the old exporter, which is 20 times faster; the slow test uses graphs of our own export."""
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            content,
            input_names=list(inputs),
            output_names=[output],
            opset_version=18,
            dynamo=False,
            dynamic_axes={
                name: {0: "batch"} for name, value in (*inputs.items(), (output, torch.zeros(1))) if value.ndim
            },
        )
    return content.getvalue()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(str(tiny_base(tmp_path_factory.mktemp("base"))))


def decoder_graph(base: Base, dtype: torch.dtype = torch.float32) -> bytes:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = base.vae

        def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.vae.decode(latent_sample, return_dict=False)[0]  # type: ignore[operator]
            return out

    module = Decoder().to(dtype)
    graph = traced(module, {"latent_sample": torch.zeros(2, 4, 8, 8, dtype=dtype)}, "sample")
    module.float()
    return graph


@pytest.fixture(scope="module")
def parts(tiny_bundle: Path) -> dict[str, bytes]:
    """Files of a small bundle: graphs that a site accepts without a signature. No golden images of another sampler."""
    files = load_bundle(tiny_bundle).files
    return {name: bytes(files[name]) for name in files if name not in ("bundle.json", "golden.safetensors")}


def write_bundle(path: Path, parts: Mapping[str, bytes], **changes: Any) -> Path:
    content: dict[str, Any] = {
        "name": "small",
        "image_shape": (SIDE, SIDE, 3),
        "latent_shape": (4, 8, 8),
        "scaling_factor": 0.7,
        "prediction_type": "v_prediction",
        "sampler": Sampler(steps=2, candidates=2, compute_batch=BATCH, guidance=(BlockGuidance(guidance_scale=2.0),)),
        "precision": "fp32",
        "opset": 18,
        "files": {name: FileEntry(hashlib.sha256(raw).hexdigest(), len(raw)) for name, raw in parts.items()},
    }
    write_zip(path, {**parts, "bundle.json": Manifest(**content | changes).to_json()})
    return path


@pytest.fixture(scope="module")
def bundle(parts: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("engines") / "small.dpd", parts)


@pytest.fixture(scope="module")
def built(bundle: Path) -> tuple[Bundle, dict[str, Any]]:
    """The same bundle with UNet engines for one GPU type, and the builder's result."""
    if find_spec("tensorrt_rtx") is None:
        pytest.skip('tensorrt-rtx is not installed: pip install "dpd-distill[rtx-build]"')
    out = bundle.with_name("engines.dpd")
    said = build_engines(bundle, out, flavour="tensorrt-rtx", compute_capabilities=(89,), parts=("unet",))
    return load_bundle(out), said


class Recording(Bundle):
    """A bundle that records the batches of its graphs' calls."""

    seen: dict[str, set[int]]

    def engine(self, graph: str, provider: Provider, threads: int | None = None, *, halves: bool = False) -> Any:
        real = super().engine(graph, provider, threads, halves=halves)
        seen = self.seen.setdefault(graph, set())

        class Engine:
            def run(self, **inputs: Any) -> Any:
                seen.update(len(value) for value in inputs.values() if value.ndim)
                return real.run(**inputs)

        return Engine()


@pytest.mark.parametrize(
    "guidance",
    [
        BlockGuidance(guidance_scale=2.0),
        BlockGuidance(guidance_scale=1.0),
        BlockGuidance(guidance_scale=2.0, guidance_until=0.5),
    ],
    ids=["guided", "unguided", "half the steps"],
)
def test_profiles_cover_the_batches_that_generating_passes(guidance: BlockGuidance, bundle: Path) -> None:
    opened = replace(load_bundle(bundle), signature=Signature(trusted_as="this test"))
    sampler = replace(opened.manifest.sampler, guidance=(guidance,))
    recording = Recording(**{field.name: getattr(opened, field.name) for field in fields(Bundle)})
    object.__setattr__(recording, "seen", {})
    images = list(Generation(recording, ipc=10, classes=("Water",), sampler=sampler, provider="cpu"))
    assert len(images) == 10
    load_teacher(recording, Provider("cpu", "test"), 1)(images[0].pixels)
    manifest = replace(opened.manifest, sampler=sampler)
    for part in PARTS:
        batches = recording.seen[f"{part}/model.onnx"]
        profile = profile_of(part, manifest)
        assert max(batches) == largest_batch(part, manifest) == profile.usual
        assert profile.low == 1
        assert profile.high == 2 * profile.usual


@needs_rtx
def test_the_new_bundle_holds_all_old_files_and_one_engine_for_each_profile(
    built: tuple[Bundle, dict[str, Any]], bundle: Path
) -> None:
    new, said = built
    old = load_bundle(bundle)
    names = ["engines/tensorrt-rtx-89/unet-batch1to8"]
    assert set(new.manifest.files) == set(old.files) | {n + end for n in names for end in (".engine", ".json")}
    assert set(new.files) == set(old.files) | {f"{n}.json" for n in names}, "engines are not kept in memory"
    assert {name: new.files[name] for name in old.files} == dict(old.files)
    assert new.hash == said["bundle_hash"] != old.hash
    assert replace(new.manifest, files={}, tools={}) == replace(old.manifest, files={}, tools={})
    assert new.manifest.tools == {"tensorrt-rtx": said["builder_version"]}
    assert [engine["path"] for engine in said["engines"]] == [name + ".engine" for name in names]
    for engine in said["engines"]:
        assert engine["bytes"] == len(new.read_engine(engine["path"]))
        assert 2**26 < engine["peak_memory"] < 2**33
        assert engine["seconds"] > 0
    assert list(bundle.parent.glob(".*")) == []


@needs_rtx
def test_engines_of_another_type_join_those_that_are_there(built: tuple[Bundle, dict[str, Any]]) -> None:
    new, said = built
    out = new.path.with_name("more")
    options: dict[str, Any] = {"flavour": "tensorrt-rtx", "compute_capabilities": (120,)}
    build_engines(new.path, out, parts=("latent_classifier",), **options)
    build_engines(out, out, parts=("latent_classifier",), overwrite=True, **options)
    opened = load_bundle(out)
    records = engine_records(opened.files, opened.manifest.files)
    assert {path.split("/")[1] for path in records} == {"tensorrt-rtx-89", "tensorrt-rtx-120"}
    for engine in said["engines"]:
        assert opened.read_engine(engine["path"]) == new.read_engine(engine["path"])


@needs_rtx
def test_int8_graphs_are_refused(parts: dict[str, bytes], tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "int8.dpd", parts, precision="int8")
    with pytest.raises(InputError, match="int8 graphs are for ONNX Runtime on a CPU; export with --precision fp16"):
        build_engines(path, tmp_path / "x.dpd", flavour="tensorrt-rtx", compute_capabilities=(89,))
    assert [file.name for file in tmp_path.iterdir()] == ["int8.dpd"]


@needs_rtx
def test_graphs_are_checked_before_tensorrt_reads_them(parts: dict[str, bytes], tmp_path: Path) -> None:
    model = onnx.load_from_string(parts["latent_classifier/model.onnx"])
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{last}_before" if name == last else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Neg", [f"{last}_before"], [last]))
    path = write_bundle(tmp_path / "odd.dpd", parts | {"latent_classifier/model.onnx": model.SerializeToString()})
    options: dict[str, Any] = {"flavour": "tensorrt-rtx", "compute_capabilities": (89,)}
    with pytest.raises(BundleError, match="operator 'Neg' without a trusted signature"):
        build_engines(path, tmp_path / "x.dpd", parts=("latent_classifier",), **options)
    assert [file.name for file in tmp_path.iterdir()] == ["odd.dpd"]


@needs_rtx
def test_records_say_what_the_graph_and_the_engine_are(built: tuple[Bundle, dict[str, Any]]) -> None:
    new, said = built
    graph = onnx.load_from_string(new.files[UNET]).graph
    kinds = {1: "float32", 7: "int64", 10: "float16"}
    wanted = [(entry.name, kinds[entry.type.tensor_type.elem_type]) for entry in graph.input]
    products = sum(node.op_type in ("Conv", "MatMul", "Gemm") for node in graph.node)
    records = engine_records(new.files, new.manifest.files)
    assert {record.batches for record in records.values()} == {(1, 8)}
    for path, record in records.items():
        content = new.read_engine(path)
        assert (record.sha256, record.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
        assert record.sources == {UNET: hashlib.sha256(new.files[UNET]).hexdigest()}
        assert [(entry.name, entry.dtype) for entry in record.inputs] == wanted
        assert {entry.name: entry.opt for entry in record.inputs} == {
            "sample": (4, 4, 8, 8),
            "timestep": (),
            "encoder_hidden_states": (4, 32, 16),
        }
        assert [(entry.name, entry.dtype) for entry in record.outputs] == [("out_sample", "float32")]
        assert record.outputs[0].shape == (-1, 4, 8, 8)
        assert record.arithmetic == {"float32": products}
        assert (record.compute_capabilities, record.precision, record.tf32) == ((89,), "fp32", False)
        assert record.builder_version == said["builder_version"]
        assert (record.cuda >= 12, record.os.startswith("linux")) == (True, sys.platform == "linux")


@needs_rtx
def test_plans_begin_as_plans_do_and_tell_nothing_of_this_machine(
    built: tuple[Bundle, dict[str, Any]], bundle: Path
) -> None:
    """The header of 1.7.1 holds size and version; this was observed, NVIDIA does not document it."""
    new, said = built
    for path in engine_records(new.files, new.manifest.files):
        plan = new.read_engine(path)
        assert plan.startswith(b"vtrt")
        assert struct.unpack_from("<Q", plan, 16) == (len(plan),)
        assert ".".join(map(str, plan[24:28])) == said["builder_version"]
        found = [word for word in (str(bundle.parent), str(Path.home()), "site-packages") if word.encode() in plan]
        assert found == []


@needs_rtx
def test_the_runtime_takes_these_engines_from_a_trusted_bundle_only(built: tuple[Bundle, dict[str, Any]]) -> None:
    new, said = built
    here = Site("tensorrt-rtx", said["builder_version"], "a GPU", 89, this_os(), "580.1", 99000)
    refused = choose_engine(new.files, new.manifest.files, UNET, 4, here, UNSIGNED)
    assert refused.path is None
    assert "trusted signature" in refused.reason
    trusted = choose_engine(new.files, new.manifest.files, UNET, 4, here, Signature("ab", "lab"))
    assert trusted.path == "engines/tensorrt-rtx-89/unet-batch1to8.engine"


@needs_rtx
def test_a_changed_engine_is_refused_before_anything_is_loaded(built: tuple[Bundle, dict[str, Any]]) -> None:
    content = bytearray(built[0].path.read_bytes())
    place = content.index(built[0].read_engine("engines/tensorrt-rtx-89/unet-batch1to8.engine"))
    content[place + 5000] ^= 1
    changed = built[0].path.with_name("changed.dpd")
    changed.write_bytes(content)
    with pytest.raises(BundleHashError, match=r"unet-batch1to8\.engine: sha256 is"):
        load_bundle(changed)


def build(files: Mapping[str, bytes], graph: str, *, capabilities: tuple[int, ...] = (89,)) -> Any:
    trt = import_flavour(RTX)
    return build_engine(trt, RTX, files, graph, Profile(1, 2, 4), ROWS, capabilities, tf32=False)


@needs_rtx
def test_types_are_the_graphs_own(base: Base, parts: dict[str, bytes]) -> None:
    """Strongly typed: a float16 graph is computed in float16, even if another type were faster."""
    half, whole = build({DECODER: decoder_graph(base, torch.float16)}, DECODER), build(parts, DECODER)
    assert (set(half.arithmetic), set(whole.arithmetic)) == ({"float16"}, {"float32"})
    assert half.arithmetic["float16"] == whole.arithmetic["float32"]
    assert (half.inputs[0].dtype, half.outputs[0].dtype) == ("float16", "float16")


@needs_rtx
def test_weights_outside_the_graph_come_from_memory(parts: dict[str, bytes], tmp_path: Path) -> None:
    model = onnx.load_from_string(parts[DECODER])
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=64)
    beside = "vae_decoder/model.onnx_data"
    files = {DECODER: (tmp_path / "model.onnx").read_bytes(), beside: (tmp_path / "model.onnx_data").read_bytes()}
    for path in tmp_path.iterdir():
        path.unlink()  # nothing may be read from the disk again
    wanted = np.frombuffer(build(parts, DECODER).content, np.uint8)
    for content, same in ((files[beside], True), (bytes(len(files[beside])), False)):
        found = np.frombuffer(build(files | {beside: content}, DECODER).content, np.uint8)
        # a range of shapes leaves some 300 bytes that differ from build to build
        assert (found.size == wanted.size and float((found != wanted).mean()) < 1e-3) is same
    with pytest.raises(BundleError, match=r"does not lie within vae_decoder/model\.onnx_data"):
        outside_weights(files | {beside: files[beside][:-1]}, DECODER)


@needs_rtx
def test_float32_products_are_refused_for_turing(parts: dict[str, bytes]) -> None:
    with pytest.raises(InputError, match=r"cannot build it for compute capability 75 .*--precision fp16") as raised:
        build(parts, LATENT_CLASSIFIER, capabilities=(75,))
    assert "\n" not in str(raised.value)


@needs_rtx
def test_graphs_that_cannot_be_parsed_are_refused(parts: dict[str, bytes]) -> None:
    with pytest.raises(InputError, match="parser refuses it"):
        build({LATENT_CLASSIFIER: parts[LATENT_CLASSIFIER][:200]}, LATENT_CLASSIFIER)


@needs_rtx
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compute_capabilities": (90,)}, "builds for compute capability 75, 80, 86, 89, 120, 121, not for 90"),
        ({"compute_capabilities": ()}, "say for which GPUs, --compute-capability 75"),
        (
            {"parts": ("text_encoder",)},
            "parts of this bundle that can: unet, vae_decoder, latent_classifier, classifier",
        ),
    ],
)
def test_refusals_leave_nothing(options: dict[str, Any], words: str, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        build_engines(
            bundle, tmp_path / "x.dpd", **{"flavour": "tensorrt-rtx", "compute_capabilities": (89,)} | options
        )
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_what_stands_at_out_is_kept(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.dpd").write_text("mine")
    for overwrite, words in ((False, "exists"), (True, "is not an intact bundle")):
        with pytest.raises(InputError, match=words):
            build_engines(
                bundle,
                tmp_path / "notes.dpd",
                flavour="tensorrt-rtx",
                compute_capabilities=(89,),
                overwrite=overwrite,
            )
    assert (tmp_path / "notes.dpd").read_text() == "mine"


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="the data-centre flavour is installed here")
def test_a_missing_package_is_named_with_its_line(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r'tensorrt is not installed: pip install .*\[trt\]"'):
        build_engines(bundle, tmp_path / "x.dpd", flavour="tensorrt")
    with pytest.raises(InputError, match="'cuda' is unknown: use tensorrt-rtx or tensorrt"):
        flavour_of("cuda")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="a GPU is here")
def test_without_a_gpu_the_reason_is_one_line() -> None:
    with pytest.raises(ProviderError, match=r"^no NVIDIA GPU can be used here \(.*\)$"):
        working_driver()


def test_capabilities_are_read_in_both_spellings() -> None:
    assert parse_capabilities("120, 8.9,75,89") == (75, 89, 120)
    for bad in ("", "8", "8.9.1", "ada", "1200", "-89"):
        with pytest.raises(InputError, match=r"not of the form 89 or 8\.9"):
            parse_capabilities(bad)


def test_shapes_come_from_the_bundle_and_must_fit_the_graph() -> None:
    assert full_shape("sample", (-1, 4, -1, -1), 6, ROWS) == (6, 4, 8, 8)
    assert full_shape("timestep", (), 6, ROWS) == ()
    for declared in ((-1, 3, 8, 8), (-1, 4, 8), (5, 4, 8, 8)):
        with pytest.raises(BundleError, match="input sample has shape"):
            full_shape("sample", declared, 6, ROWS)
    with pytest.raises(BundleError, match="input other has shape"):
        full_shape("other", (-1, -1), 6, ROWS)


@needs_rtx
def test_the_command_writes_a_folder_and_one_json_object(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpd_cli.main import main

    out = tmp_path / "new"
    options = ["--compute-capability", "8.0,89", "--portable", "--parts", "latent_classifier", "--json"]
    monkeypatch.setattr(sys, "argv", ["dpd", "engines", str(bundle), "--out", str(out), *options])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert said["bundle_hash"] == load_bundle(out).hash
    opened = load_bundle(out)
    records = engine_records(opened.files, opened.manifest.files)
    assert list(records) == sorted(engine["path"] for engine in said["engines"])
    assert {path.rsplit("/", 1)[0] for path in records} == {"engines/tensorrt-rtx-80-89"}
    assert {record.compute_capabilities for record in records.values()} == {(80, 89)}
    assert printed.err.count("peak memory") == len(records) == 1
    monkeypatch.setattr(sys, "argv", ["dpd", "info", str(out)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    described = [line for line in capsys.readouterr().out.splitlines() if line.startswith("engine")]
    assert [line.split()[1] for line in described] == list(records)
    assert all("float32 arithmetic" in line and line.endswith("not executed") for line in described)


@needs_rtx
@pytest.mark.parametrize("capability", [75, 120])
def test_engines_of_our_own_half_precision_export(half_bundle: Path, capability: int) -> None:
    """Weights beside the graph, open height and width, islands of float32; Turing accepts no float32 product."""
    opened = load_bundle(half_bundle)
    assert f"{UNET}_data" in opened.files
    profile = profile_of("unet", opened.manifest)
    rows = row_shapes(opened.manifest, opened.empty_embedding.shape)
    plan = build_engine(
        import_flavour(RTX),
        RTX,
        opened.files,
        UNET,
        profile,
        rows,
        (capability,),
        tf32=True,
    )
    assert set(plan.arithmetic) == {"float16"}
    assert {entry.dtype for entry in (*plan.inputs, *plan.outputs)} == {"float32", "int64"}
    whole = (-1, *opened.manifest.latent_shape)
    assert [size for size, known in zip(plan.outputs[0].shape, whole, strict=True) if size not in (-1, known)] == []


@needs_rtx
@pytest.mark.full
def test_a_real_engine_of_the_embedded_unet() -> None:
    """A graph of our own export, with the batch of `dpd generate`."""
    nano = load_bundle(embedded_bundle())
    profile = profile_of("unet", nano.manifest)
    rows = row_shapes(nano.manifest, nano.empty_embedding.shape)
    plan = build_engine(
        import_flavour(RTX),
        RTX,
        nano.files,
        UNET,
        profile,
        rows,
        (89,),
        tf32=True,
    )
    side = nano.manifest.latent_shape
    assert {entry.name: entry.opt for entry in plan.inputs}["sample"] == (profile.usual, *side)
    assert plan.outputs[0].shape == (-1, *side)
    assert sum(plan.arithmetic.values()) > 90
    assert bytes(memoryview(plan.content)[:4]) == b"vtrt"
    assert plan.bytes > len(nano.files[UNET])


@pytest.mark.parametrize("version", ["11.0.0", "11.4.1", "12.0"])
def test_a_tensorrt_whose_engines_onnx_runtime_does_not_load_is_refused_by_its_version(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 11 on every network is strongly typed and the flag that asks for it is ignored: it says nothing."""
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match=rf"tensorrt {version} is installed, and ONNX Runtime loads .* TensorRT 10"):
        import_flavour(flavour_of("tensorrt"))
    ten = SimpleNamespace(__version__="10.13.3")
    monkeypatch.setitem(sys.modules, "tensorrt", ten)  # type: ignore[arg-type]
    assert import_flavour(flavour_of("tensorrt")) is ten
