"""A bundle exported from a tiny run: parity, nothing local inside, and generation from it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from dpd_export import export_run
from dpd_export.graphs import graphs_of, halve_weights, to_bytes
from dpd_export.parity import check, psnr
from dpd_runtime import generate, load_bundle, write_set
from dpd_runtime.dataset import set_hash
from dpd_runtime.errors import InputError, ParityError
from dpd_runtime.generate import resolve_sampler
from dpd_train.base import load_base
from dpd_train.judges import load_classifier
from tests.tiny import SIDE, tiny_run

GRAPHS = ("unet", "vae_decoder", "text_encoder", "classifier", "latent_classifier")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    path = run.parent / "tiny.dpd"
    export_run(run, path, precision="fp32")
    return path


def test_parity_is_within_the_limits_and_recorded(bundle: Path) -> None:
    parity = load_bundle(bundle).manifest.parity
    assert {f"{name}/model.onnx" for name in GRAPHS} | {"end_to_end_psnr_db"} == set(parity)
    assert max(value for name, value in parity.items() if name.endswith(".onnx")) <= 1e-3
    assert parity["end_to_end_psnr_db"] >= 40


def test_parity_check_can_fail() -> None:
    for bad in (2e-3, float("nan")):
        with pytest.raises(ParityError, match="differs from PyTorch"):
            check("unet/model.onnx", bad, "fp32")
    assert psnr(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)) == pytest.approx(0.0)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_clean_and_tell_nothing_of_this_machine(bundle: Path, name: str) -> None:
    raw = bytes(load_bundle(bundle).files[f"{name}/model.onnx"])
    model = onnx.load_from_string(raw)
    onnx.checker.check_model(model)
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) == 18


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


def test_halved_weights_keep_the_result_and_halve_the_size(run: Path) -> None:
    import onnxruntime

    from dpd_export.graphs import export_graph

    base = load_base(str(run / "pipeline"))
    graphs = graphs_of(base, load_classifier(run / "classifier"), load_classifier(run / "latent_classifier"))
    graph = next(g for g in graphs if g.path.startswith("classifier"))
    whole = export_graph(graph)
    small = onnx.ModelProto()
    small.CopyFrom(whole)
    halve_weights(small)
    assert len(to_bytes(small)) < 0.6 * len(to_bytes(whole))
    inputs = {"images": graph.examples[0].numpy()}
    outputs = [onnxruntime.InferenceSession(to_bytes(m)).run(None, inputs)[0] for m in (whole, small)]
    with torch.no_grad():
        expected = graph.module(*graph.examples).numpy()
    np.testing.assert_allclose(outputs[0], expected, atol=1e-4)
    np.testing.assert_allclose(outputs[1], expected, atol=2e-2 * np.abs(expected).max())


def test_refusals(run: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        export_run(run, bundle)
    with pytest.raises(InputError, match=r"no run\.json"):
        export_run(tmp_path, tmp_path / "x.dpd")
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
    assert (dataset["audit"], dataset["signature"], dataset["state"]) == ("unaudited", "unsigned", "complete")


def test_prototype_guidance_pulls_towards_the_prototype(bundle: Path) -> None:
    """With g = 1 to the last step every image of a prototype is its decoding; with g = 0 they differ."""
    from dataclasses import replace

    opened = load_bundle(bundle)
    plain = resolve_sampler(opened.manifest.sampler, steps=2, candidates=1)
    guidance = replace(plain.guidance[0], prototype_scale=1.0, prototype_until=1.0)
    pulled = replace(plain, guidance=(guidance,))
    count = len(opened.classes[0].prototypes)
    name = opened.classes[0].name
    for sampler, equal in ((pulled, True), (plain, False)):
        images = [i.pixels for i in generate(opened, ipc=1 + count, classes=(name,), sampler=sampler)]
        difference = np.abs(images[0].astype(int) - images[count].astype(int)).max()
        assert bool(difference <= 1) is equal


def test_the_same_run_exported_twice_gives_the_same_bundle(run: Path, bundle: Path, tmp_path: Path) -> None:
    again = export_run(run, tmp_path / "folder", precision="fp32")
    assert load_bundle(tmp_path / "folder").hash == again["bundle_hash"] == load_bundle(bundle).hash
