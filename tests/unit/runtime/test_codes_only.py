"""What a codes-only bundle makes: the first images of the bundle that it was cut from, and no others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from dpd_runtime import Bundle, Generation, Output, generate, load_bundle, write_set
from dpd_runtime.bench import bench
from dpd_runtime.doctor import examine_providers
from dpd_runtime.engines import Provider
from dpd_runtime.errors import BundleError, CheckError, InputError
from dpd_runtime.generation import resolve_sampler
from dpd_runtime.golden import GOLDEN_NAME, check_replay, pass_gate, replay
from dpd_runtime.machine import Driver
from dpd_runtime.networks import DECODER, GRAPHS, load_networks
from dpd_runtime.sampler import BLOCK, suited_sampler
from dpd_runtime.set_state import parse_shard
from tests.drawn import codes_only, opened

pytest.importorskip("onnxruntime")
CPU = Provider("cpu", "")
TWO = ("Forest", "SeaLake")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(codes_only(tmp_path_factory.mktemp("codes") / "codes.dpd"))


def with_golden(bundle: Bundle, raw: bytes) -> Bundle:
    return replace(bundle, files={**bundle.files, GOLDEN_NAME: raw}, hash="another")


def test_it_makes_the_images_of_the_whole_bundle(bundle: Bundle, tmp_path: Path) -> None:
    hashes = [
        write_set(generate(one, ipc=12, seed=5, classes=TWO, provider="cpu"), tmp_path / name).set_hash
        for name, one in (("codes", bundle), ("whole", opened()))
    ]
    assert hashes[0] == hashes[1]
    records = [json.loads(line) for line in (tmp_path / "codes/metadata.jsonl").read_text().splitlines()]
    assert {(record["prompt"], record["margin"]) for record in records} == {("", None)}


def test_images_beyond_the_codes_are_refused(bundle: Bundle) -> None:
    assert len(generate(bundle, ipc=12, provider="cpu")) == 120
    said = r"ipc is 13: .* AnnualCrop has 12, enough for 12 images; ask for at most 12, or use a bundle exported"
    with pytest.raises(InputError, match=said):
        generate(bundle, ipc=13, provider="cpu")


@pytest.mark.parametrize(
    ("codes", "most"), [((12, 12), 12), ((12, 11), 12), ((12, 10), 10), ((12, 3), 10), ((3, 3), 3), ((9, 4), 9)]
)
def test_uneven_codes_are_used_as_far_as_the_whole_bundle_decodes(
    codes: tuple[int, int], most: int, bundle: Bundle
) -> None:
    forest, others = bundle.classes[1], [scene for scene in bundle.classes if scene.name != "Forest"]
    cut = [replace(scene, prototypes=scene.prototypes[: codes[0]]) for scene in others]
    cut.insert(1, replace(forest, prototypes=forest.prototypes[: codes[1]]))
    uneven = replace(bundle, classes=tuple(cut))
    assert uneven.largest_ipc == most
    shown = [image.prototype for image in generate(uneven, ipc=most, classes=("Forest",), provider="cpu")]
    assert shown == [index % codes[1] for index in range(most)]
    for names in (None, ("River",)):
        with pytest.raises(InputError, match=f"ask for at most {most}, "):
            generate(uneven, ipc=most + 1, classes=names, provider="cpu")
    table = {"prototype_kind": "matched", "classes": [{"prototype_counts": [9] * count} for count in codes]}
    renoised = BLOCK * suited_sampler(table).guidance[1].from_block
    assert min(renoised, max(codes)) == most


@pytest.mark.parametrize("asked", [{"steps": 3}, {"solver": "ddim"}, {"candidates": 2}, {"guidance_scale": 2.0}])
def test_what_would_sample_is_refused(asked: dict[str, object], bundle: Bundle) -> None:
    sampler = resolve_sampler(bundle.manifest.sampler, **asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--steps, --solver, --candidates and --guidance-scale .* holds no UNet"):
        generate(bundle, ipc=1, sampler=sampler, provider="cpu")


def test_soft_labels_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--soft-labels: the bundle holds no teacher .* without --codes-only"):
        write_set(generate(bundle, ipc=1, provider="cpu"), tmp_path / "set", output=Output(soft_labels=True))
    assert not (tmp_path / "set").exists()


def test_shards_and_an_interruption_give_the_same_set(bundle: Bundle, tmp_path: Path) -> None:
    def asked() -> Generation:
        return generate(bundle, ipc=11, classes=TWO, provider="cpu")

    whole = write_set(asked(), tmp_path / "whole").set_hash
    for number in (1, 0):
        done = write_set(asked(), tmp_path / "shards", shard=parse_shard(f"{number}/2"))
    assert done.set_hash == whole

    class Killed(Exception):
        pass

    def stop(finished: int, total: int) -> None:
        if finished >= 10:
            raise Killed

    with pytest.raises(Killed):
        write_set(asked(), tmp_path / "cut", stop)
    again = write_set(asked(), tmp_path / "cut")
    assert again.set_hash == whole
    assert again.computed < 22


def test_the_golden_images_are_made_again_from_the_codes(bundle: Bundle) -> None:
    done = replay(bundle, CPU)
    assert done is not None
    assert (done.images, done.noise_matches, done.halfway_error, done.latents_error) == (2, None, None, None)
    assert done.psnr_db > 60
    assert done.good
    check_replay(done, bundle.manifest.precision, "cpu")


def test_a_decoder_or_code_that_gives_other_images_is_found(bundle: Bundle) -> None:
    codes = replace(bundle.classes[5], prototypes=bundle.classes[5].prototypes[::-1])
    swapped = replace(bundle, classes=(*bundle.classes[:5], codes, *bundle.classes[6:]), hash="swapped")
    done = replay(swapped, CPU)
    assert done is not None
    with pytest.raises(CheckError, match=r"golden replay: .* dB on cpu"):
        check_replay(done, swapped.manifest.precision, "cpu")
    with pytest.raises(CheckError, match="its images differ from PyTorch's"):
        pass_gate(swapped, CPU, (DECODER,), 1)
    with pytest.raises(CheckError, match="its images differ from PyTorch's"):
        generate(swapped, ipc=1, provider="cpu")


def test_a_bundle_without_golden_images_is_not_compared(bundle: Bundle) -> None:
    old = replace(bundle, files={name: raw for name, raw in bundle.files.items() if name != GOLDEN_NAME}, hash="old")
    assert replay(old, CPU) is None
    assert pass_gate(old, CPU, (DECODER,), 1) is None


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 10])},
        {"labels": np.array([0, -1])},
        {"labels": np.array([0.0, 5.0])},
        {"labels": np.array([0])},
        {"images": np.zeros((2, 8, 8, 3), np.uint8)},
        {"images": np.zeros((2, 64, 64, 3), np.float32)},
    ],
)
def test_golden_images_that_do_not_fit_are_refused(change: dict[str, np.ndarray], bundle: Bundle) -> None:
    raw = save(load(bundle.files[GOLDEN_NAME]) | change)
    for content in (raw, raw[:40], b""):
        with pytest.raises(BundleError, match=r"golden\.safetensors .*export the bundle again"):
            replay(with_golden(bundle, content), CPU)


def test_only_the_decoder_is_loaded(bundle: Bundle) -> None:
    networks = load_networks(bundle, CPU, 1, GRAPHS)
    latents = bundle.classes[0].prototypes[:2] / np.float32(bundle.manifest.scaling_factor)
    assert networks.decoder.run(latent_sample=latents).shape == (2, 3, 64, 64)
    with pytest.raises(BundleError, match=r"holds no latent_classifier/model\.onnx"):
        networks.latent_classifier.run(latents=latents)


def test_doctor_runs_the_decoder(bundle: Bundle) -> None:
    (found,) = (one for one in examine_providers(bundle, Driver(None, 0, (), "none")) if one.name == "cpu")
    assert (found.usable, found.reason) == (True, "ran vae_decoder/model.onnx of codes")


@pytest.mark.full
@pytest.mark.parametrize(("blocks", "images"), [(1, 10), (30, 120)])
def test_bench_measures_decoded_images_alone(blocks: int, images: int, bundle: Bundle) -> None:
    found = bench(bundle, blocks=blocks, provider="cpu", threads=1)
    assert found.decoded is not None
    assert (found.decoded.images, found.renoised, found.sampled) == (images, None, None)
    assert set(found.networks) == {"decoder"}
    assert found.networks["decoder"].share + found.outside_share == pytest.approx(1)


def test_fewer_codes_than_a_block(tmp_path: Path) -> None:
    """A block has ten images; with three codes the first three of them can be asked for."""
    few = load_bundle(codes_only(tmp_path / "few.dpd", codes=3))
    ours, whole = (list(generate(one, ipc=3, classes=("River",), provider="cpu")) for one in (few, opened()))
    assert [np.array_equal(a.pixels, b.pixels) for a, b in zip(ours, whole, strict=True)] == [True] * 3
    found = bench(few, blocks=1, provider="cpu", threads=1)
    assert found.decoded is not None
    assert found.decoded.images == 3
