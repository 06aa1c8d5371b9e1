"""A bundle exported from a tiny run: parity, no local names inside, and generation from it."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
import torch
from PIL import Image
from typer.testing import CliRunner

from dpd_cli.main import app
from dpd_export import ExportOptions, export_run
from dpd_export.compile import GENERATED, HALF, check, compile_graph, probe
from dpd_export.graphs import Graph, graphs_of
from dpd_export.options import INT8
from dpd_runtime import generate, load_bundle, write_set
from dpd_runtime.dataset import set_hash
from dpd_runtime.errors import BundleError, InputError, ParityError
from dpd_runtime.generation import resolve_sampler
from dpd_runtime.golden import psnr
from dpd_train.bases import load_base
from dpd_train.networks import load_classifier
from tests.hostile.fuzz.material import as_zip, read_material
from tests.tiny import SIDE

FIGURES = {f"end_to_end_{what}" for what in ("images", "psnr_db", "worst_psnr_db")}
FIGURES |= {f"teacher_{what}" for what in ("oa_pytorch", "oa_bundle", "agreement")}
GRAPHS = ("unet", "vae_decoder", "text_encoder", "classifier", "latent_classifier")


def test_parity_is_within_the_limits_and_recorded(bundle: Path) -> None:
    parity = load_bundle(bundle).manifest.parity
    paths = {f"{name}/model.onnx" for name in GRAPHS}
    assert set(parity) == paths | {path + GENERATED for path in paths} | FIGURES
    assert max(value for name, value in parity.items() if name.startswith(tuple(paths))) <= 1e-3
    assert parity["end_to_end_psnr_db"] >= parity["end_to_end_worst_psnr_db"] >= 40
    assert parity["end_to_end_images"] == 10 * len(load_bundle(bundle).classes)
    assert parity["teacher_agreement"] == 1
    assert parity["teacher_oa_pytorch"] == parity["teacher_oa_bundle"]


@pytest.mark.full
def test_half_precision_is_measured_in_pytorch_too(half_bundle: Path) -> None:
    parity = load_bundle(half_bundle).manifest.parity
    paths = {f"{name}/model.onnx" for name in (*GRAPHS, "vae_encoder")}
    assert set(parity) == paths | {path + end for path in paths for end in (GENERATED, HALF)} | FIGURES
    assert 0 < max(value for name, value in parity.items() if name.startswith(tuple(paths))) <= 2e-2
    assert parity["end_to_end_worst_psnr_db"] >= 30


def test_parity_check_can_fail() -> None:
    for precision, fits, bad in (("fp32", 9e-4, 2e-3), ("fp16", 1.9e-2, 2.1e-2), ("fp16-weights", 1.9e-2, 2.1e-2)):
        check("unet/model.onnx", fits, precision)
        for refused in (bad, float("nan"), float("inf")):
            with pytest.raises(ParityError, match="differs from PyTorch"):
                check("unet/model.onnx", refused, precision)
    check("unet/model.onnx", 0.4, INT8)
    with pytest.raises(ParityError, match="for int8"):
        check("unet/model.onnx", 0.6, INT8)
    assert psnr(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)) == pytest.approx(0.0)


def test_a_graph_of_other_weights_is_refused(run: Path, tmp_path: Path) -> None:
    """PyTorch runs first, so a weight that changes before tracing is a difference."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = Graph("x/model.onnx", load_classifier(run / "latent_classifier"), ("latents",), (latents,), "logits")
    asked = probe(graph, [])
    with torch.no_grad():
        graph.module.head.bias += 0.1  # type: ignore[union-attr, operator]
    with pytest.raises(ParityError, match=r"x/model\.onnx differs from PyTorch by 1\.0"):
        compile_graph(graph, asked, "fp32", tmp_path, run_half=False)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_clean_and_tell_nothing_of_this_machine(bundle: Path, name: str) -> None:
    raw = bytes(load_bundle(bundle).files[f"{name}/model.onnx"])
    model = onnx.load_from_string(raw)
    onnx.checker.check_model(model)
    assert (model.producer_name, model.producer_version) == ("dpd", "")
    graph = model.graph
    said = [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info]
    assert [entry.name for entry in said if entry != model and (entry.doc_string or len(entry.metadata_props))] == []
    assert not model.doc_string
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) == 18


def test_a_graph_tells_other_tools_what_it_takes_and_gives(bundle: Path) -> None:
    opened = load_bundle(bundle)
    images = {
        "image_shape": "[3, 32, 32]",
        "Image.NominalPixelRange": "Normalized_1_1",
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
    }
    latents = {"latent_shape": "[4, 8, 8]", "scaling_factor": repr(opened.manifest.scaling_factor)}
    names = {"classes": json.dumps([scene.name for scene in opened.classes])}
    wanted = {
        "unet": latents | {"prediction_type": json.dumps(opened.manifest.prediction_type)},
        "vae_decoder": latents | images,
        "text_encoder": {},
        "classifier": names | images,
        "latent_classifier": names | latents,
    }
    for name, facts in wanted.items():
        model = onnx.load_from_string(bytes(opened.files[f"{name}/model.onnx"]))
        assert {entry.key: entry.value for entry in model.metadata_props} == facts


@pytest.mark.parametrize("graph", ["classifier", "vae_decoder"])
def test_verify_refuses_a_graph_that_says_other_than_its_bundle(bundle: Path, tmp_path: Path, graph: str) -> None:
    """Whether it is run here, as the decoder is, or by other tools alone."""
    opened, name = load_bundle(bundle), f"{graph}/model.onnx"
    model = onnx.load_from_string(bytes(opened.files[name]))
    changed = next(entry for entry in model.metadata_props if entry.key in ("classes", "image_shape"))
    changed.value = json.dumps(json.loads(changed.value)[::-1])
    made = read_material(bundle)
    path = as_zip(tmp_path, made.with_file(name, model.SerializeToString()).sealed())
    message = rf"{name}: metadata '{changed.key}' that contradicts the files beside it"
    with pytest.raises(BundleError, match=message):
        load_bundle(path).check_graphs()
    refused = CliRunner().invoke(app, ["verify", str(path)]).exception
    assert isinstance(refused, BundleError)
    assert re.match(message, str(refused))
    load_bundle(as_zip(tmp_path, made.sealed())).check_graphs()


def test_no_local_path_is_anywhere_in_the_bundle(bundle: Path, run: Path) -> None:
    content = bundle.read_bytes()
    found = [p for p in (str(run.parent), str(Path.home()), "site-packages", ".py") if p.encode() in content]
    assert found == []
    assert b"Forest_0" not in content  # no file name of an image either


def test_names_of_inputs_and_outputs_are_what_other_tools_expect(bundle: Path) -> None:
    files = load_bundle(bundle).files
    wanted = {
        "unet": (["sample", "timestep", "encoder_hidden_states"], "out_sample"),
        "vae_decoder": (["latent_sample"], "sample"),
        "text_encoder": (["input_ids"], "last_hidden_state"),
    }
    for name, (inputs, output) in wanted.items():
        graph = onnx.load_from_string(bytes(files[f"{name}/model.onnx"])).graph
        assert [entry.name for entry in graph.input] == inputs
        assert graph.output[0].name == output


@pytest.mark.full
def test_stored_halves_keep_the_result_and_halve_the_size(run: Path, tmp_path: Path) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = {}
    for precision in ("fp32", "fp16-weights", "fp16"):
        judge = load_classifier(run / "latent_classifier")
        graph = Graph("x/model.onnx", judge, ("latents",), (latents,), "logits")
        done = compile_graph(graph, probe(graph, [(latents,)]), precision, tmp_path / precision, run_half=True)
        sizes[precision] = done.bytes
        assert 0 <= done.random <= (1e-4 if precision == "fp32" else 5e-3)
        types = {t.data_type for t in onnx.load(done.files[0]).graph.initializer if np.prod(t.dims) >= 256}
        assert types == {onnx.TensorProto.FLOAT if precision == "fp32" else onnx.TensorProto.FLOAT16}
    assert max(sizes["fp16"], sizes["fp16-weights"]) < 0.6 * sizes["fp32"]


@pytest.mark.parametrize("part", [pytest.param("text_encoder", marks=pytest.mark.full), "latent_classifier"])
def test_the_same_part_gives_the_same_bytes(run: Path, tmp_path: Path, part: str) -> None:
    content = []
    for folder in ("one", "two"):
        base = load_base(str(run / "pipeline"))
        graphs = graphs_of(base, load_classifier(run / "classifier"), load_classifier(run / "latent_classifier"))
        graph = next(g for g in graphs if g.part == part)
        done = compile_graph(graph, probe(graph, []), "fp16", tmp_path / folder, run_half=False)
        content.append(done.files[0].read_bytes())
    assert content[0] == content[1]


def test_refusals(run: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        export_run(run, bundle)
    with pytest.raises(InputError, match=r"no run\.json"):
        export_run(tmp_path, tmp_path / "x.dpd")
    with pytest.raises(InputError, match="'fp8' is unknown: use one of fp32, fp16, fp16-weights"):
        export_run(run, tmp_path / "x.dpd", ExportOptions(precision="fp8"))
    assert not (tmp_path / "x.dpd").exists()


def _hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.png"))}


def test_same_set_whatever_the_ipc_order_or_interruption(bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    sampler = resolve_sampler(opened.manifest.sampler, steps=2)
    whole = write_set(generate(opened, ipc=12, seed=3, sampler=sampler), tmp_path / "whole")
    again = write_set(generate(opened, ipc=12, seed=3, sampler=sampler), tmp_path / "again")
    assert whole.set_hash == again.set_hash
    small = write_set(generate(opened, ipc=6, seed=3, sampler=sampler), tmp_path / "small")
    large, part = _hashes(tmp_path / "whole"), _hashes(tmp_path / "small")
    part.pop("contact_sheet.png")
    assert part.items() <= large.items()
    grown = write_set(generate(opened, ipc=12, seed=3, sampler=sampler), tmp_path / "small")
    assert grown.set_hash == whole.set_hash != small.set_hash
    some = write_set(generate(opened, ipc=12, seed=3, classes=("Water", "Road"), sampler=sampler), tmp_path / "some")
    assert some.classes == 2
    chosen = _hashes(tmp_path / "some")
    chosen.pop("contact_sheet.png")
    assert chosen.items() <= large.items()
    nothing = write_set(generate(opened, ipc=12, seed=3, sampler=sampler), tmp_path / "whole")
    assert nothing.computed == 0


def test_damaged_image_is_made_again(bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    sampler = resolve_sampler(opened.manifest.sampler, steps=2)
    first = write_set(generate(opened, ipc=2, sampler=sampler), tmp_path / "out")
    (tmp_path / "out" / "Road" / "Road_00001.png").write_bytes(b"not an image")
    second = write_set(generate(opened, ipc=2, sampler=sampler), tmp_path / "out")
    assert second.computed == 2
    assert second.set_hash == first.set_hash


@pytest.mark.full
def test_killed_generation_ends_with_the_same_hash(bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    expected = write_set(generate(opened, ipc=20), tmp_path / "whole").set_hash
    command = [sys.executable, "-m", "dpd_cli", "generate", str(bundle), "--ipc", "20", "--out", str(tmp_path / "cut")]
    for kills in range(2):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "cut").rglob("*.png"))) < 15 * (kills + 1) and time.monotonic() < deadline:
            if running.poll() is not None:
                break
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        assert not (tmp_path / "cut" / "dataset.json").exists()
    done = subprocess.run([*command, "--expect", expected, "--json"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["set_hash"] == expected
    wrong = subprocess.run([*command, "--expect", "0" * 64], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1


def test_the_set_is_an_image_folder_with_metadata(bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    sampler = resolve_sampler(opened.manifest.sampler, steps=2)
    result = write_set(generate(opened, ipc=2, seed=5, sampler=sampler), tmp_path / "out")
    folders = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert folders == [c.name for c in opened.classes]
    records = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert len(records) == result.images == 12
    images = []
    for record in records:
        pixels = np.asarray(Image.open(tmp_path / "out" / record["file_name"]))
        assert pixels.shape == (SIDE, SIDE, 3)
        images.append((record["class"], record["index"], pixels))
    assert set_hash(images) == result.set_hash
    dataset = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert dataset["set_hash"] == result.set_hash
    assert dataset["bundle_hash"] == opened.hash
    assert dataset["sampler"] == json.loads(json.dumps(sampler.to_dict()))
    with zipfile.ZipFile(bundle) as archive:
        codes = archive.read("prototypes.safetensors")
    assert dataset["prototypes_sha256"] == hashlib.sha256(codes).hexdigest()
    assert (dataset["audit"], dataset["signature"], dataset["state"]) == ("unaudited", "unsigned", "complete")


def test_the_manifest_tells_what_the_bundle_was_made_of(run: Path, bundle: Path) -> None:
    record, manifest = json.loads((run / "run.json").read_text()), load_bundle(bundle).manifest
    config = {**record["config"], "base": "base"}  # of its folder the name alone: no local path
    plain = json.dumps(config, sort_keys=True).replace(", ", ",").replace(": ", ":")
    assert manifest.training["config_sha256"] == hashlib.sha256(plain.encode()).hexdigest()
    assert manifest.training["versions"]["torch"] == torch.__version__
    assert manifest.data == {"images": record["data"]["images"], "fingerprint": record["data"]["sha256"]}
    assert manifest.tools["dpd-distill"] == version("dpd-distill")


@pytest.mark.full
def test_the_same_run_exported_by_the_command_gives_the_same_bundle(
    run: Path, bundle: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """In another process with another hash seed, as a folder instead of a file, with the table on stdout."""
    command = [sys.executable, "-m", "dpd_cli", "export", str(run), "--out", str(tmp_path / "again"), "--name", "tiny"]
    command += ["--precision", "fp32", "--data-licence", "drawn | by us", "--base-licence", "Apache-2.0"]
    environment = process_environment | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    opened = load_bundle(tmp_path / "again")
    assert opened.hash == load_bundle(bundle).hash
    assert opened.hash in done.stdout
    for name in GRAPHS:
        assert f"{name}/model.onnx" in done.stdout
        assert re.search(rf"{name}/model\.onnx: [\d.]+ MB, \d+ s, peak memory [\d.]+ GB", done.stderr)
    assert "agrees on 100.0%" in done.stdout
