"""The embedded bundle, used as at a site without PyTorch."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime import embedded_bundle, generate, load_bundle, write_set
from dpd_runtime.bundle import Bundle
from dpd_runtime.generation import resolve_sampler
from tests.commands import dpd

pytest.importorskip("onnxruntime")
CLASSES = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
CLASSES += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(embedded_bundle())


def test_it_is_small_and_holds_the_ten_classes(bundle: Bundle) -> None:
    assert embedded_bundle().stat().st_size <= 22_000_000
    assert [c.name for c in bundle.classes] == CLASSES
    assert all(len(c.prototypes) >= 10 for c in bundle.classes)
    assert bundle.manifest.sampler.evaluations_per_latent(0) * bundle.manifest.sampler.candidates <= 110


def test_every_prototype_stands_for_at_least_ten_images(bundle: Bundle) -> None:
    table = json.loads(bytes(bundle.files["classes.json"]))
    assert table["prototype_kind"] == "matched"
    assert min(min(entry["prototype_counts"]) for entry in table["classes"]) >= 10


def test_generation_uses_no_network_and_repeats_itself(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sampler = resolve_sampler(bundle.manifest.sampler, steps=3, candidates=1)
    hashes = [
        write_set(
            generate(bundle, ipc=1, seed=4, classes=("Forest", "SeaLake"), sampler=sampler, threads=threads),
            tmp_path / str(threads),
        ).set_hash
        for threads in (1, 2)
    ]
    assert hashes[0] == hashes[1]  # nor does the number of threads matter


def test_rows_depend_on_neither_place_nor_neighbours(bundle: Bundle) -> None:
    """ONNX Runtime does not guarantee this, so each network that ships is checked with its batch."""
    from dpd_runtime.engines import Provider

    rng = np.random.default_rng(0)
    count = 2 * bundle.manifest.sampler.compute_batch  # with guidance the UNet gets twice as many
    latents, others = rng.normal(size=(2, count, *bundle.manifest.latent_shape)).astype(np.float32)
    prompts = bundle.prompt_embeddings[rng.permutation(len(bundle.prompts))[:count]]
    order = rng.permutation(count)
    mixed = np.where(np.arange(count)[:, None, None, None] % 3 == 0, latents, others)
    unet, decoder, judge = (
        bundle.engine(f"{part}/model.onnx", Provider("cpu", ""), 2)
        for part in ("unet", "vae_decoder", "latent_classifier")
    )

    def denoise(rows: np.ndarray, context: np.ndarray) -> np.ndarray:
        return unet.run(sample=rows, timestep=np.array(500, np.int64), encoder_hidden_states=context)

    straight = denoise(latents, prompts)
    np.testing.assert_array_equal(denoise(latents[order], prompts[order]), straight[order])
    kept = denoise(mixed, np.where(np.arange(count)[:, None, None] % 3 == 0, prompts, prompts[::-1]))
    np.testing.assert_array_equal(kept[::3], straight[::3])
    assert not np.array_equal(kept[1::3], straight[1::3])  # the others did change
    half = count // 2
    for run in (lambda rows: decoder.run(latent_sample=rows), lambda rows: judge.run(latents=rows)):
        alone = run(latents[:half])
        np.testing.assert_array_equal(run(latents[:half][::-1].copy()), alone[::-1])
        np.testing.assert_array_equal(run(mixed[:half])[::3], alone[::3])


@pytest.mark.full
def test_classes_look_different(bundle: Bundle) -> None:
    """A sea is darker and smoother than an industrial estate, in any decent bundle."""
    sampler = resolve_sampler(bundle.manifest.sampler, candidates=1)
    images = list(generate(bundle, ipc=4, classes=("SeaLake", "Industrial"), sampler=sampler))
    roughness = {
        name: np.mean([np.abs(np.diff(i.pixels.astype(int), axis=0)).mean() for i in images if i.class_name == name])
        for name in ("SeaLake", "Industrial")
    }
    assert roughness["Industrial"] > 3 * roughness["SeaLake"]


def test_the_command_works_from_a_read_only_mount(tmp_path: Path, process_environment: dict[str, str]) -> None:
    copy = tmp_path / "site.dpd"
    copy.write_bytes(embedded_bundle().read_bytes())
    copy.chmod(0o400)
    command = ["generate", str(copy), "--ipc", "1", "--steps", "2"]
    command += ["--candidates", "1"]
    command += ["--classes", "River,Forest", "--out", str(tmp_path / "out"), "--json"]
    done = dpd(command, process_environment, tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    wanted = {"out", "images", "classes", "seconds", "images_per_second", "network_calls", "provider", "set_hash"}
    trust = {"bundle_hash", "audit", "signature", "key_id", "trusted", "serial", "expires", "serial_remembered"}
    assert set(answer) == wanted | trust
    assert (answer["images"], answer["classes"], answer["network_calls"]) == (2, 2, 3)  # guidance begins late
