"""`dpd verify`: golden images of the embedded bundle are reproduced, and differences are found."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from dpd_runtime import embedded_bundle, load_bundle
from dpd_runtime.archive import write_zip
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import Provider
from dpd_runtime.errors import BundleError, CheckError
from dpd_runtime.golden import (
    GOLDEN_NAME,
    Golden,
    bundle_decoder,
    bundle_networks,
    check_replay,
    golden_case,
    golden_of,
    middle,
    psnr,
    replay,
    sample_case,
)
from dpd_runtime.manifest import MANIFEST_NAME, FileEntry
from dpd_runtime.networks import groups
from dpd_runtime.sampling import NoiseStream, widen_mean
from tests.commands import dpd

pytest.importorskip("onnxruntime")
CPU = Provider("cpu", "")
LABELS = (1, 8)


@pytest.fixture(scope="module")
def embedded() -> Bundle:
    """The embedded bundle without its golden images."""
    opened = load_bundle(embedded_bundle())
    files = {name: content for name, content in opened.files.items() if name != GOLDEN_NAME}
    return replace(opened, files=files)


@pytest.fixture(scope="module")
def golden(embedded: Bundle) -> Golden:
    """Two images in two steps, made on this machine."""
    shape = embedded.manifest.latent_shape
    streams = [NoiseStream(5, embedded.classes[label].name, 0, 0) for label in LABELS]
    gain = embedded.manifest.sampler.mean_noise_gain
    noise = np.stack([[widen_mean(s.normal(shape), gain) for s in streams]]).astype(np.float16).astype(np.float32)
    empty = np.zeros((2, 64, 64, 3), np.uint8)
    begun = Golden(LABELS, noise, noise[0], noise[0], empty, seed=5, solver="dpm++2m", steps=2)
    denoise, decode = bundle_networks(embedded, CPU, 1)
    halfway, latents = sample_case(denoise, golden_case(begun, embedded))
    return replace(begun, halfway=halfway, latents=latents, images=middle(decode(latents)))


def with_golden(bundle: Bundle, content: bytes | None) -> Bundle:
    """The bundle with these golden images, as `load_bundle` would return it."""
    return bundle if content is None else replace(bundle, files={**bundle.files, GOLDEN_NAME: content})


def test_the_same_machine_makes_the_same_images(embedded: Bundle, golden: Golden) -> None:
    done = replay(with_golden(embedded, golden.to_bytes()), CPU, 1)
    assert done is not None
    assert (done.images, done.psnr_db, done.worst_psnr_db, done.noise_matches, done.good) == (2, 99.0, 99.0, True, True)
    assert done.halfway_error < 1e-3 > done.latents_error  # float16 is all that is stored
    check_replay(done, "fp16", "cpu")


def test_what_is_stored_comes_back(embedded: Bundle, golden: Golden) -> None:
    read = golden_of(with_golden(embedded, golden.to_bytes()))
    assert read is not None
    assert (read.labels, read.seed, read.solver, read.steps) == (LABELS, 5, "dpm++2m", 2)
    np.testing.assert_array_equal(read.images, golden.images)
    np.testing.assert_array_equal(read.noise, golden.noise)
    np.testing.assert_allclose(read.latents, golden.latents, atol=5e-3)
    assert len(golden.to_bytes()) < 300_000


def test_the_same_golden_images_are_the_same_bytes(golden: Golden) -> None:
    """safetensors writes its metadata in a random order, which would give the bundle another hash each time."""
    assert len({golden.to_bytes() for _ in range(20)}) == 1


def test_other_images_are_seen(embedded: Bundle, golden: Golden) -> None:
    """Golden images of another class stand for a provider that computes nonsense."""
    changed = replace(golden, images=golden.images[::-1])
    done = replay(with_golden(embedded, changed.to_bytes()), CPU, 1)
    assert done is not None
    assert not done.good
    assert done.worst_psnr_db <= done.psnr_db < 30
    with pytest.raises(CheckError, match=r"golden replay: .* dB on cpu, fp16 needs 30 dB; try --provider cpu"):
        check_replay(done, "fp16", "cpu")


def test_other_noise_is_seen(embedded: Bundle, golden: Golden) -> None:
    """The images are those of the stored noise, which no seed of this name gives."""
    done = replay(with_golden(embedded, replace(golden, seed=6).to_bytes()), CPU, 1)
    assert done is not None
    assert done.psnr_db == 99.0
    assert not done.noise_matches
    with pytest.raises(CheckError, match="generates other noise"):
        check_replay(done, "fp16", "cpu")


def test_a_bundle_without_golden_images_is_no_failure(embedded: Bundle) -> None:
    assert replay(embedded, CPU, 1) is None


@pytest.mark.parametrize(
    "change",
    [
        {"labels": (1, 99)},
        {"labels": (1,)},
        {"solver": "none"},
        {"images": np.zeros((2, 32, 64, 3), np.uint8)},
        {"images": np.zeros((2, 64, 64, 3), np.int16)},
        {"noise": np.zeros((1, 2, 4, 8, 8), np.float32)},
        {"latents": np.full((2, 4, 16, 16), np.nan, np.float32)},
        {"seed": -1},
        {"seed": 2**64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_golden_images_of_another_bundle_are_refused(embedded: Bundle, golden: Golden, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"golden\.safetensors"):
        golden_of(with_golden(embedded, replace(golden, **change).to_bytes()))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"garbage", "has a header of more than"),
        (b"\x02\0\0\0\0\0\0\0{}", "cannot be read"),
        (b"\xff" * 64, "has a header of more than"),
    ],
)
def test_what_is_no_golden_file_is_refused(embedded: Bundle, content: bytes, said: str) -> None:
    with pytest.raises(BundleError, match=rf"golden\.safetensors {said}"):
        golden_of(with_golden(embedded, content))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300, 0.5])
def test_labels_that_are_no_whole_numbers_are_refused(embedded: Bundle, golden: Golden, value: float) -> None:
    tensors = load(golden.to_bytes()) | {"labels": np.array([1, value])}
    hostile = save(tensors, {"seed": "5", "solver": "dpm++2m", "steps": "2"})
    with pytest.raises(BundleError, match=r"golden\.safetensors cannot be read \(labels are float64 \[2\]"):
        golden_of(with_golden(embedded, hostile))


@pytest.mark.parametrize("seed", ["9" * 5000, "inf", "1e3", ""])
def test_seeds_that_are_no_numbers_are_refused(embedded: Bundle, golden: Golden, seed: str) -> None:
    hostile = save(load(golden.to_bytes()), {"seed": seed, "solver": "dpm++2m", "steps": "2"})
    with pytest.raises(BundleError, match=r"golden\.safetensors cannot be read"):
        golden_of(with_golden(embedded, hostile))


def test_noise_that_the_steps_do_not_need_is_refused(embedded: Bundle, golden: Golden) -> None:
    for changed in (replace(golden, solver="lcm"), replace(golden, noise=np.concatenate([golden.noise] * 2))):
        with pytest.raises(BundleError, match=r"golden\.safetensors: \d draws of noise for steps that need"):
            replay(with_golden(embedded, changed.to_bytes()), CPU, 1)


def test_steps_beyond_the_schedule_are_refused(embedded: Bundle, golden: Golden) -> None:
    with pytest.raises(BundleError, match=r"golden\.safetensors: steps is 5000"):
        replay(with_golden(embedded, replace(golden, steps=5000).to_bytes()), CPU, 1)


def test_groups_have_one_size_and_every_row_once() -> None:
    for rows in (1, 9, 10, 11, 25):
        made = list(groups(rows, 10))
        assert {len(group) for group, _ in made} == {10}
        assert [row for group, meant in made for row in group[:meant]] == list(range(rows))


def test_the_middle_of_large_images_is_kept() -> None:
    images = np.arange(2 * 300 * 200 * 3, dtype=np.uint8).reshape(2, 300, 200, 3)
    np.testing.assert_array_equal(middle(images), images[:, 86:214, 36:164])
    assert middle(images[:, :64, :32]).shape == (2, 64, 32, 3)


def test_psnr_is_the_definition() -> None:
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5))
    assert psnr(grey, grey) == 99.0


def write(folder: Path, bundle: Bundle, content: bytes | None) -> Path:
    """A bundle of files with a manifest that fits."""
    files = dict(with_golden(bundle, content).files)
    entries = {name: FileEntry(sha256(raw).hexdigest(), len(raw)) for name, raw in files.items()}
    files[MANIFEST_NAME] = replace(bundle.manifest, files=entries).to_json()
    write_zip(folder / "site.dpd", files)
    return folder / "site.dpd"


@pytest.mark.parametrize("kind", ["good", "other", "none", "damaged"])
def test_the_command(
    kind: str, embedded: Bundle, golden: Golden, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    images = golden.images[::-1] if kind == "other" else golden.images
    path = write(tmp_path, embedded, None if kind == "none" else replace(golden, images=images).to_bytes())
    if kind == "damaged":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    command = ["verify", str(path), "--provider", "cpu", "--json"]
    done = dpd(command, process_environment, tmp_path)
    assert done.returncode == {"good": 0, "other": 1, "none": 0, "damaged": 3}[kind], done.stderr
    assert len(done.stderr.splitlines()) == (0 if kind in ("good", "none") else 1)
    if kind == "damaged":
        assert done.stdout == ""
        assert "sha256" in done.stderr
        return
    answer = json.loads(done.stdout)
    assert (answer["signature"], answer["audit"], answer["provider"]) == ("unsigned", embedded.manifest.audit, "cpu")
    assert (answer["golden"] is None) is (kind == "none")
    if kind == "none":
        said = dpd(command[:-1], process_environment, tmp_path).stdout
        assert "golden      none in this bundle" in said


def test_the_psnr_is_that_of_all_pixels_together() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 256, (2, 5, 7, 9, 3), dtype=np.uint8)
    mse = np.mean((ours.astype(np.float64) - theirs) ** 2)
    assert psnr(ours, theirs) == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-12)
    assert psnr(ours, ours) == 99.0


def test_only_the_middle_of_large_images_is_kept(embedded: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they are decoded, so that a small file does not stand for many large images."""
    latents = np.random.default_rng(0).normal(size=(5, *embedded.manifest.latent_shape)).astype(np.float32)
    whole = bundle_decoder(embedded, CPU, 1)(latents)
    monkeypatch.setattr("dpd_runtime.golden.LARGEST_SIDE", 20)
    np.testing.assert_array_equal(bundle_decoder(embedded, CPU, 1, middle)(latents), whole[:, 22:42, 22:42])


def test_more_golden_images_than_anyone_writes_are_refused(embedded: Bundle, golden: Golden) -> None:
    most = {"noise": 1, "halfway": 0, "latents": 0, "images": 0}
    for count in (16, 17):
        many = replace(
            golden,
            labels=(1,) * count,
            **{name: np.repeat(getattr(golden, name)[..., :1, :, :, :], count, axis) for name, axis in most.items()},
        )
        if count == 16:
            assert golden_of(with_golden(embedded, many.to_bytes())) is not None
        else:
            with pytest.raises(BundleError, match=r"golden\.safetensors cannot be read \(17 images, more than 16"):
                golden_of(with_golden(embedded, many.to_bytes()))


def test_latents_in_fewer_bits_are_refused(embedded: Bundle, golden: Golden) -> None:
    """As float32 they would take more memory than the size of the file tells."""
    tensors = load(golden.to_bytes())
    hostile = save(
        tensors | {"noise": tensors["noise"].astype(np.int8)}, {"seed": "5", "solver": "dpm++2m", "steps": "2"}
    )
    with pytest.raises(BundleError, match=r"golden\.safetensors cannot be read \(noise is int8"):
        golden_of(with_golden(embedded, hostile))
