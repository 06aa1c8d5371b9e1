"""Bundles of version 0.2.0, which every later version opens (docs/reference/compatibility.md): never change them.

Tiny ones of six drawn classes, 32 px, by the exports of tests/path. format2 holds codes alone, format3 the same with
a claim of differential privacy, format4 codes of four bands. signed is format2 with a signature of lab.pub, encrypted
is format2 with the key 0, 1, … 31. Format 1 is that of the embedded bundle.
"""

from pathlib import Path

import pytest

from dpd_runtime import embedded_bundle, generate, load_bundle
from dpd_runtime.engines import Provider
from dpd_runtime.golden import replay
from dpd_runtime.trust import read_public_key

FROZEN = Path(__file__).parents[1] / "frozen"
HASHES = {
    "format2": "12129cb4f47f4a64afd25b2ac7a7647eec634f30d53e43dabba6d4fe9ef014e7",
    "format3": "0560e6e9fb33872ac1322e6ca42f306f75bc883d7523f508fd3541c1d74ff275",
    "format4": "d3a80e1d3ef1effef9b645130784682761ebc35239389b0568afe3fab4df3505",
}


@pytest.mark.parametrize("name", HASHES)
def test_every_format_opens_and_makes_its_golden_images(name: str) -> None:
    pytest.importorskip("onnxruntime")
    bundle = load_bundle(FROZEN / f"{name}.dpd")
    assert (bundle.hash, bundle.manifest.format_version) == (HASHES[name], int(name.removeprefix("format")))
    assert len(bundle.classes) == 6
    done = replay(bundle, Provider("cpu", ""), 1)
    assert done is not None
    assert done.good
    assert {image.pixels.shape for image in generate(bundle, ipc=1)} == {(32, 32, 4 if name == "format4" else 3)}


def test_the_embedded_bundle_is_of_the_first_format() -> None:
    assert load_bundle(embedded_bundle()).manifest.format_version == 1


def test_a_claim_says_what_it_said() -> None:
    claim = load_bundle(FROZEN / "format3.dpd").manifest.privacy
    assert claim is not None
    assert (claim.epsilon, claim.delta, claim.noise_multipliers["class_sums"]) == (2.0, 1e-5, 2.25)


def test_bands_keep_their_names_and_wavelengths() -> None:
    bands = load_bundle(FROZEN / "format4.dpd").manifest.bands
    assert [band.name for band in bands] == ["B2", "B3", "B4", "B8"]
    assert [band.wavelength for band in bands] == [0.49, 0.56, 0.665, 0.842]


def test_a_signature_stays_valid() -> None:
    lab = read_public_key(FROZEN / "lab.pub")
    assert load_bundle(FROZEN / "signed.dpd", trusted=[lab]).signature.trusted
    assert not load_bundle(FROZEN / "signed.dpd", trusted=[]).signature.trusted


def test_an_encrypted_file_opens() -> None:
    assert load_bundle(FROZEN / "encrypted.dpde", key=bytes(range(32))).hash == HASHES["format2"]
