"""Which codes-only bundles are opened: codes, their decoder and nothing else."""

import hashlib
import json
import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import load, save

from dpd_runtime import load_bundle
from dpd_runtime import manifest as manifests
from dpd_runtime.archive import write_zip
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import Provider
from dpd_runtime.errors import BundleError, BundleVersionError
from dpd_runtime.sealing import decrypt_bundle, encrypt_bundle, sign_bundle, write_audited
from tests.drawn import codes_only, codes_only_parts, opened

pytest.importorskip("onnxruntime")
Change = Callable[[dict[str, Any], dict[str, bytes]], object]


def with_table(**changes: object) -> Change:
    def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        files["classes.json"] = json.dumps(json.loads(files["classes.json"]) | changes).encode()

    return change


def without_codes_of(label: int) -> Change:
    def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        kept = {name: codes for name, codes in load(files["prototypes.safetensors"]).items() if name[6:] != str(label)}
        files["prototypes.safetensors"] = save(kept)

    return change


def with_prompt_row(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    table = json.loads(files["classes.json"])
    table["classes"][0]["prompt_rows"] = [0] * 12
    files["classes.json"] = json.dumps(table).encode()


def with_many_tensors(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    """Python would take forty times as much memory for their names."""
    empty = {f"t{number}": np.zeros(0, np.float32) for number in range(40_000)}
    files["prototypes.safetensors"] = save(load(files["prototypes.safetensors"]) | empty)


def sampled(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    manifest["sampler"]["guidance"].append({"from_block": 1, "guidance_scale": 1.5})


def made(folder: Path, change: Change) -> Path:
    manifest, files = codes_only_parts()
    change(manifest, files)
    manifest["files"] = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in files.items()}
    write_zip(folder / "codes.dpd", {"bundle.json": json.dumps(manifest).encode(), **files})
    return folder / "codes.dpd"


def test_it_opens_with_codes_and_without_prompts(tmp_path: Path) -> None:
    bundle = load_bundle(codes_only(tmp_path / "codes.dpd"))
    assert bundle.manifest.codes_only
    for ours, whole in zip(bundle.classes, opened().classes, strict=True):
        assert (ours.name, ours.prompt_rows, ours.prototype_kind) == (whole.name, (), "matched")
        assert np.array_equal(ours.prototypes, whole.prototypes[:12])
        assert bundle.prompt(ours, 3) == ""
    assert (bundle.prompts, bundle.prompt_embeddings.size, bundle.empty_embedding.size) == ((), 0, 0)
    with pytest.raises(BundleError, match=r"holds no unet/model\.onnx; export the run without --codes-only"):
        bundle.engine("unet/model.onnx", Provider("cpu", ""))


def test_a_reader_of_version_1_says_that_it_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = codes_only(tmp_path / "codes.dpd")
    monkeypatch.setattr(manifests, "BANDS_VERSION", 1)
    with pytest.raises(BundleVersionError, match="format version 2, this runtime reads up to 1; install a newer"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, f: m.update(format_version=1), "it is codes_only, with format_version 1"),
        (lambda m, f: m.update(codes_only=False), "it is not codes_only, with format_version 2"),
        (lambda m, f: m.pop("codes_only"), "it is not codes_only, with format_version 2"),
        (lambda m, f: m.update(codes_only="yes"), "codes_only has the wrong type str"),
        (lambda m, f: m.update(codes_only=1), "codes_only has the wrong type int"),
        (sampled, "it is codes_only, but its sampler does more than decode"),
        (lambda m, f: f.update({"unet/model.onnx": b"unet"}), r"unet/model\.onnx does not belong in a codes-only"),
        (lambda m, f: f.update({"classifier/model.onnx": b""}), r"classifier/model\.onnx does not belong"),
        (lambda m, f: f.update({"prompts.safetensors": b""}), r"prompts\.safetensors does not belong"),
        (lambda m, f: f.update({"notes.txt": b"Forest_1.jpg"}), r"notes\.txt does not belong"),
        (lambda m, f: f.pop("vae_decoder/model.onnx"), r"vae_decoder/model\.onnx is not listed"),
        (lambda m, f: f.pop("prototypes.safetensors"), r"prototypes\.safetensors is not listed"),
        (with_table(prototype_kind="centroid"), "has matched codes in every class, and no prompts"),
        (with_table(prototype_kind="zzz"), "prototypes of a kind that this version does not know"),
        (with_table(prototype_kind=[]), "prototypes of a kind that this version does not know"),
        (with_table(more=math.nan), "NaN is no number of JSON"),
        (lambda m, f: f.update({"Bundle.Sig": b"{}"}), r"bundle\.json lists Bundle\.Sig, which has no hash there"),
        (lambda m, f: f.update({"BUNDLE.JSON": b"{}"}), r"bundle\.json lists BUNDLE\.JSON, which has no hash there"),
        (with_many_tensors, r"prototypes\.safetensors has a header of more than 2097152 bytes"),
        (with_table(prompts=["a forest"]), "has matched codes in every class, and no prompts"),
        (with_table(prompts=None), "has matched codes in every class, and no prompts"),
        (with_table(classes=None), r"classes\.json is incomplete"),
        (with_prompt_row, "class AnnualCrop refers to prompts"),
        (without_codes_of(3), "has matched codes in every class, and no prompts"),
    ],
)
def test_what_is_not_codes_only_is_refused(change: Change, said: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        load_bundle(made(tmp_path, change))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_copies_stay_codes_only(tmp_path: Path) -> None:
    """Audited, signed, encrypted and decrypted."""
    path = codes_only(tmp_path / "codes.dpd")
    record = {"verdict": "WARN", "tests": [], "controls": []}
    write_audited(load_bundle(path), tmp_path / "audited.dpd", record, "WARN")
    signed = sign_bundle(tmp_path / "audited.dpd", Ed25519PrivateKey.from_private_bytes(bytes(32)), "lab")
    encrypt_bundle(tmp_path / "audited.dpd", tmp_path / "codes.dpde", "six random words")
    decrypt_bundle(tmp_path / "codes.dpde", tmp_path / "again.dpd", "six random words")
    assert stat.S_IMODE((tmp_path / "again.dpd").stat().st_mode) == 0o600
    inside = load_bundle(tmp_path / "codes.dpde", "six random words")
    for bundle in (load_bundle(tmp_path / "again.dpd"), inside):
        assert (bundle.manifest.codes_only, bundle.manifest.audit, bundle.hash) == (True, "WARN", signed.hash)


def test_other_manifests_do_not_mention_it() -> None:
    found: Bundle = opened()
    content = json.loads(found.manifest.to_json())
    assert "codes_only" not in content
    assert content["format_version"] == 1
