"""Bundles that claim differential privacy: which are opened, and what a site may require. Others keep their bytes."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dpd_runtime import Bundle, load_bundle
from dpd_runtime import manifest as manifests
from dpd_runtime.archive import write_zip
from dpd_runtime.errors import BundleError, BundleVersionError, InputError, RequirementError
from dpd_runtime.manifest import ONE_IMAGE
from dpd_runtime.sealing import parse_privacy, require_audit, require_privacy, sign_bundle, write_audited
from dpd_runtime.trust import Signature
from tests.drawn import codes_only, codes_only_parts, opened

CLAIM: dict[str, Any] = {
    "epsilon": 2.0,
    "delta": 1e-5,
    "unit": ONE_IMAGE,
    "mechanism": "Gaussian",
    "noise_multipliers": {"class_sums": 2.25, "second_moment": 4.4},
}
Change = Callable[[dict[str, Any]], Any]


def claiming(path: Path, change: Change = lambda manifest: None) -> Path:
    """A bundle with CLAIM, changed."""
    manifest, files = codes_only_parts(2)
    del manifest["data"]["fingerprint"]
    manifest |= {"format_version": 3, "privacy": dict(CLAIM)}
    change(manifest)
    manifest["files"] = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in files.items()}
    write_zip(path, {"bundle.json": json.dumps(manifest).encode(), **files})
    return path


def vouched(bundle: Bundle) -> Bundle:
    """The same bundle as a site opens it that trusts the key of a signature."""
    return replace(bundle, signature=Signature("0" * 32, "lab"))


def test_a_claim_is_read_and_written_again(tmp_path: Path) -> None:
    bundle = load_bundle(claiming(tmp_path / "private.dpd"))
    claim = bundle.manifest.privacy
    assert claim is not None
    assert (claim.epsilon, claim.noise_multipliers["second_moment"]) == (2.0, 4.4)
    assert json.loads(bundle.manifest.to_json())["privacy"] == CLAIM
    assert f"(2, 1e-05)-differential privacy of {ONE_IMAGE}; Gaussian" in claim.describe()
    signed = sign_bundle(tmp_path / "private.dpd", Ed25519PrivateKey.from_private_bytes(bytes(32)), "lab")
    again = load_bundle(tmp_path / "private.dpd")
    assert (again.manifest.privacy, again.hash) == (claim, signed.hash)


def test_other_bundles_keep_their_bytes() -> None:
    raw = bytes(opened().manifest.to_json())
    assert b"privacy" not in raw
    assert hashlib.sha256(raw).hexdigest() == opened().hash


def test_a_reader_of_version_2_says_that_it_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "BANDS_VERSION", 2)
    with pytest.raises(BundleVersionError, match="format version 3, this runtime reads up to 2; install a newer"):
        load_bundle(claiming(tmp_path / "private.dpd"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["privacy"].update(epsilon=0), "privacy.epsilon is 0, it must be above 0"),
        (lambda m: m["privacy"].update(epsilon="1"), "privacy.epsilon has the wrong type str"),
        (lambda m: m["privacy"].update(delta=1.0), "privacy.delta is 1.0, it must be between 0 and 1"),
        (lambda m: m["privacy"].update(noise_multipliers=[1]), "noise_multipliers are not an object"),
        (lambda m: m["privacy"].update(noise_multipliers={"sums": 0}), "noise_multipliers are not numbers of 0.001"),
        (lambda m: m["privacy"].update(noise_multipliers={"sums": True}), "noise_multipliers are not numbers of 0.001"),
        (
            lambda m: m["privacy"].update(noise_multipliers={"sums": 1e20}),
            "noise_multipliers are not numbers of 0.001",
        ),
        (
            lambda m: m["privacy"].update(noise_multipliers={"sums": 1e-200}),
            "noise_multipliers are not numbers of 0.001",
        ),
        (lambda m: m["privacy"].update(accuracy=0.9), "privacy has unknown keys"),
        (lambda m: m["privacy"].pop("unit"), "privacy: .*unit"),
        (lambda m: m["privacy"].update(epsilon=1.9), "epsilon is 1.9, less than its noise multipliers give at delta"),
        (lambda m: m["privacy"].update(delta=1e-6), "epsilon is 2.0, less than its noise multipliers give at delta"),
        (lambda m: m.update(privacy="strong"), "privacy is not an object"),
        (lambda m: m.update(privacy=None), "privacy is not an object"),
        (lambda m: m.update(format_version=2), "it is codes_only, with format_version 2"),
        (lambda m: m.update(codes_only=False), "it claims privacy, which only codes_only bundles have"),
        (lambda m: m.update(audit="PASS"), "its audit tells about its images"),
        (lambda m: m["data"].update(fingerprint="0" * 64), "its fingerprint tells about its images"),
        (lambda m: m.pop("privacy"), "it is codes_only, with format_version 3"),
    ],
)
def test_what_is_no_claim_is_refused(change: Change, said: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=said):
        load_bundle(claiming(tmp_path / "private.dpd", change))


@pytest.mark.parametrize(
    ("wanted", "accepted"), [("2", True), ("8", True), ("2:1e-5", True), ("1.99", False), ("2:9e-6", False)]
)
def test_a_site_requires_a_claim(wanted: str, accepted: bool, tmp_path: Path) -> None:
    bundle = vouched(load_bundle(claiming(tmp_path / "private.dpd")))
    if accepted:
        require_privacy(bundle, parse_privacy(wanted))
        return
    with pytest.raises(RequirementError, match=r"is required; this bundle claims \(2, 1e-05\)"):
        require_privacy(bundle, parse_privacy(wanted))


def test_a_weak_delta_is_not_accepted_by_default(tmp_path: Path) -> None:
    bundle = vouched(load_bundle(claiming(tmp_path / "private.dpd", lambda m: m["privacy"].update(delta=0.5))))
    with pytest.raises(RequirementError):
        require_privacy(bundle, parse_privacy("2"))
    require_privacy(bundle, parse_privacy("2:0.5"))


def test_privacy_of_something_smaller_than_an_image_is_not_accepted(tmp_path: Path) -> None:
    bundle = vouched(load_bundle(claiming(tmp_path / "private.dpd", lambda m: m["privacy"].update(unit="one pixel"))))
    with pytest.raises(RequirementError, match="of 'one pixel'"):
        require_privacy(bundle, parse_privacy("2"))


def test_one_requirement_does_not_stand_for_the_other(tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="an audit is required"):
        require_audit(vouched(load_bundle(claiming(tmp_path / "private.dpd"))))
    with pytest.raises(RequirementError, match="this bundle claims none"):
        require_privacy(vouched(load_bundle(codes_only(tmp_path / "codes.dpd"))), (100.0, 0.1))


def test_a_claim_that_nobody_signed_is_not_believed(tmp_path: Path) -> None:
    bundle = load_bundle(claiming(tmp_path / "private.dpd"))
    with pytest.raises(RequirementError, match="a trusted signature is required; this bundle is unsigned"):
        require_privacy(bundle, (2.0, 1e-5))


def test_an_audit_beside_a_claim_is_refused(tmp_path: Path) -> None:
    """An unaudited verdict does not hide it: figures from the images would end the guarantee."""
    manifest, files = codes_only_parts(2)
    del manifest["data"]["fingerprint"]
    manifest |= {"format_version": 3, "privacy": dict(CLAIM)}
    files["audit.json"] = json.dumps({"verdict": "unaudited", "tests": [{"value": 0.7}]}).encode()
    manifest["files"] = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in files.items()}
    write_zip(tmp_path / "private.dpd", {"bundle.json": json.dumps(manifest).encode(), **files})
    with pytest.raises(BundleError, match=r"audit\.json stands beside a claim of differential privacy"):
        load_bundle(tmp_path / "private.dpd")


@pytest.mark.parametrize("text", ["", "much", "0", "-1", "1:0", "1:1", "1:1e-5:2", "1,1e-5", "nan"])
def test_what_is_no_requirement_is_said(text: str) -> None:
    with pytest.raises(InputError, match=r"--require dp:.*: give an epsilon such as dp:1"):
        parse_privacy(text)


def test_no_verdict_is_written_into_it(tmp_path: Path) -> None:
    bundle = load_bundle(claiming(tmp_path / "private.dpd"))
    with pytest.raises(InputError, match=r"claims differential privacy, which a verdict .* would end"):
        write_audited(bundle, tmp_path / "audited.dpd", {"verdict": "PASS"}, "PASS")
    assert not (tmp_path / "audited.dpd").exists()
