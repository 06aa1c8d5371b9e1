"""Bundles of earlier exports also hold step/model.onnx, which nothing runs. Nothing else about them has changed."""

import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dpd_export.engines import build_engines
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.engines import Provider
from dpd_runtime.errors import BundleHashError
from dpd_runtime.golden import replay
from dpd_runtime.sealing import decrypt_bundle, encrypt_bundle, sign_bundle, write_audited, write_changed
from dpd_runtime.trust import PublicKey

STEP = "step/model.onnx"
KEY = bytes(range(32))


def unchanged(new: Bundle, old: Bundle) -> set[str]:
    """The files that both have with the same bytes."""
    return {name for name in new.files.keys() & old.files.keys() if new.files[name] == old.files[name]}


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The embedded bundle with such a graph; which one it was does not matter, as it is never run."""
    bundle = load_bundle()
    write_changed(bundle, tmp_path / "older.dpd", {STEP: bytes(bundle.files["latent_classifier/model.onnx"])})
    return tmp_path / "older.dpd"


def stored(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(STEP)


def test_it_is_verified_and_audited_as_before(older: Path, tmp_path: Path) -> None:
    opened = load_bundle(older)
    assert bytes(opened.files[STEP]) == stored(older)
    assert opened.manifest.files[STEP].bytes == len(opened.files[STEP]) > 1000
    done = replay(opened, Provider("cpu", ""), 1)
    assert done is not None
    assert done.good
    if find_spec("torch") is not None:  # a site has no audit
        from dpd_eval.artefacts import check_layout

        assert check_layout(opened.files) == []
    write_audited(opened, tmp_path / "audited.dpd", {"verdict": "PASS"}, "PASS")
    audited = load_bundle(tmp_path / "audited.dpd")
    assert audited.manifest.audit == "PASS"
    assert unchanged(audited, opened) == set(opened.files) - {"audit.json"}
    assert stored(tmp_path / "audited.dpd") == stored(older)


def test_it_is_signed_and_encrypted_as_before(older: Path, tmp_path: Path) -> None:
    lab, before = Ed25519PrivateKey.generate(), stored(older)
    sign_bundle(older, lab, "lab", serial=1)
    assert stored(older) == before
    trusted = [PublicKey("lab", lab.public_key().public_bytes_raw())]
    assert load_bundle(older, trusted=trusted).signature.trusted
    encrypt_bundle(older, tmp_path / "older.dpde", KEY)
    sealed = load_bundle(tmp_path / "older.dpde", KEY, trusted)
    assert sealed.signature.trusted
    assert bytes(sealed.files[STEP]) == before
    decrypt_bundle(tmp_path / "older.dpde", tmp_path / "back.dpd", KEY)
    assert (tmp_path / "back.dpd").read_bytes() == older.read_bytes()


def test_its_step_graph_is_hashed_like_every_file(older: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with zipfile.ZipFile(older) as archive:
        archive.extractall(folder)
    load_bundle(folder)
    content = bytearray((folder / STEP).read_bytes())
    content[-1] ^= 1
    (folder / STEP).write_bytes(content)
    with pytest.raises(BundleHashError, match=STEP):
        load_bundle(folder)


@pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason='tensorrt-rtx is not installed: pip install "dpd-distill[rtx]"'
)
def test_it_gets_engines_as_before(older: Path, tmp_path: Path) -> None:
    out = tmp_path / "engines.dpd"
    build_engines(older, out, flavour="tensorrt-rtx", compute_capabilities=(89,), parts=("latent_classifier",))
    found, old = load_bundle(out), load_bundle(older)
    assert unchanged(found, old) == set(old.files)
    assert any(name.endswith(".engine") for name in found.manifest.files)
