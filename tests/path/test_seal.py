"""keygen → sign → encrypt → trust, as commands: what each leaves and says, and what a site refuses."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import dpd as run_dpd
from tests.drawn import quick_bundle
from tests.unit.runtime.test_bundle import as_zip, bundle_files, parts

Dpd = Callable[..., Any]


@pytest.fixture
def dpd(tmp_path: Path, process_environment: dict[str, str]) -> Dpd:
    """Runs a command in tmp_path with a configuration folder of its own; the JSON object, or the error line."""

    def run(*arguments: str, code: int = 0, **variables: str) -> Any:
        environment = process_environment | {"XDG_CONFIG_HOME": str(tmp_path / "config")} | variables
        done = run_dpd([*arguments, "--json"], environment, tmp_path)
        assert done.returncode == code, done.stderr
        if code:
            assert done.stdout == ""
            (line,) = done.stderr.splitlines()
            return line
        return json.loads(done.stdout)

    return run


def test_from_keys_to_a_trusting_site(dpd: Dpd, tmp_path: Path) -> None:
    site = as_zip(tmp_path, bundle_files())
    (tmp_path / "words").write_text("four words of some length\n")
    made = dpd("keygen", "lab", "--passphrase-file", "words")
    assert stat.S_IMODE((tmp_path / "lab.key").stat().st_mode) == 0o600
    assert "never overwritten" in dpd("keygen", "lab", code=2)
    assert "lab.key has a passphrase" in dpd("sign", site.name, "--key", "lab.key", code=2)

    signed = dpd("sign", site.name, "--key", "lab.key", DPD_PASSPHRASE="four words of some length")
    assert signed["key_id"] == made["key_id"]
    unknown = dpd("info", site.name)
    assert (unknown["signature"], unknown["trusted"]) == (f"signed by unknown key {made['key_id']}", False)
    assert dpd("info", site.name, "--trusted-key", "lab.pub")["signature"] == (
        f"signed by trusted key lab ({made['key_id']})"
    )
    (tmp_path / "lab.pub").rename(tmp_path / "config" / "dpd" / "trusted" / "lab.pub")
    assert dpd("info", site.name)["trusted"] is True

    sealed = dpd("encrypt", site.name, "--out", "site.dpde", "--key", "words")
    assert (sealed["hash"], sealed["trusted"]) == (signed["hash"], True)
    for options, variables in (
        (("--key", "words"), {}),
        ((), {"DPD_PASSPHRASE": "four words of some length"}),
    ):
        found = dpd("info", "site.dpde", *options, **variables)
        assert (found["hash"], found["trusted"], found["key_id"]) == (signed["hash"], True, made["key_id"])
    line = dpd("info", "site.dpde", code=3)
    assert "site.dpde is encrypted with a passphrase: pass --key FILE" in line
    assert "the key or passphrase is wrong" in dpd("info", "site.dpde", code=3, DPD_PASSPHRASE="others")
    assert dpd("info", site.name, DPD_PASSPHRASE="others")["trusted"] is True, "a variable may be for other bundles"
    dpd("decrypt", "site.dpde", "--out", "back.dpd", "--key", "words")
    assert (tmp_path / "back.dpd").read_bytes() == site.read_bytes()


def test_a_site_gives_away_its_public_key_alone(dpd: Dpd, tmp_path: Path) -> None:
    pytest.importorskip("pyrage", reason="pyrage is not installed")
    plain = as_zip(tmp_path, bundle_files())
    made = dpd("keygen", "--age", "site")
    sealed = dpd("encrypt", plain.name, "--out", "site.age", "--to", "site.pub")
    dpd("encrypt", plain.name, "--out", "same.age", "--to", made["recipient"])
    assert dpd("info", "site.age", "--key", "site.key")["hash"] == sealed["hash"]
    assert "encrypted to a site's public key: pass --key FILE" in dpd("info", "site.age", code=3)
    dpd("decrypt", "same.age", "--out", "back.dpd", "--key", "site.key")
    assert (tmp_path / "back.dpd").read_bytes() == plain.read_bytes()
    line = dpd("encrypt", plain.name, "--out", "x.age", "--to", "site.pub", "--key", "site.key", code=2)
    assert "two ways to encrypt" in line
    assert "secret identity" in dpd("encrypt", plain.name, "--out", "x.age", "--to", "site.key", code=2)
    assert "leave them out" in dpd("keygen", "--age", "--encryption", "more", code=2)


def test_what_a_site_demands_is_refused_before_anything_is_loaded(dpd: Dpd, tmp_path: Path) -> None:
    """The graphs of these bundles are no graphs: whatever opened one would fail otherwise."""
    site = as_zip(tmp_path, bundle_files())
    for command in ("generate", "verify"):
        out = ("--out", "set") if command == "generate" else ()
        line = dpd(command, site.name, "--require", "signature", *out, code=3)
        assert "tiny.dpd: a trusted signature is required; this bundle is unsigned; ask its sender to sign it" in line
        line = dpd(command, site.name, "--require", "audit", *out, code=3)
        assert "tiny.dpd: a trusted signature is required; this bundle is unsigned" in line
    for command in ("generate", "verify", "info"):
        line = dpd(command, site.name, "--require", "encrypted", code=3)
        assert "tiny.dpd: an encrypted bundle is required" in line
    dpd("keygen", "--encryption", "secret")
    assert "is required" in dpd("info", site.name, "--require", "encrypted", "--key", "secret.key", code=3)
    dpd("encrypt", site.name, "--out", "site.dpde", "--key", "secret.key")
    assert dpd("info", "site.dpde", "--require", "encrypted", "--key", "secret.key")["name"] == "tiny"
    dpd("keygen", "lab")
    dpd("sign", site.name, "--key", "lab.key")
    dpd("keygen", "others")
    line = dpd("verify", site.name, "--require", "signature", "--trusted-key", "others.pub", code=3)
    assert "is signed by unknown key" in line
    assert "where you trust that key, pass its .pub file as --trusted-key" in line
    for command in ("generate", "verify"):
        line = dpd(command, site.name, "--require", "audit", "--trusted-key", "lab.pub", code=3)
        assert "tiny.dpd: an audit is required (PASS or WARN); this bundle is unaudited" in line
    signature = json.loads(_entry(site, "bundle.sig"))
    changed = bundle_files(parts() | {"unet/model.onnx": b"evil"}) | {"bundle.sig": json.dumps(signature).encode()}
    as_zip(tmp_path, changed)
    for command in ("generate", "verify", "info"):
        line = dpd(command, site.name, "--trusted-key", "lab.pub", code=3)
        assert "the signature by trusted key lab" in line
        assert "does not match" in line
    assert not (tmp_path / "set").exists()


def _entry(path: Path, name: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


@pytest.mark.full
def test_an_encrypted_bundle_makes_the_same_set_and_says_who_signed(dpd: Dpd, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    quick_bundle(tmp_path / "site")
    dpd("keygen", "lab")
    dpd("keygen", "--encryption", "secret")
    dpd("sign", "site", "--key", "lab.key")
    dpd("encrypt", "site", "--out", "site.dpde", "--key", "secret.key")
    options = ("--ipc", "1", "--classes", "Forest", "--provider", "cpu", "--trusted-key", "lab.pub")
    plain = dpd("generate", "site", *options, "--out", "plain")
    before = sorted(tmp_path.iterdir())
    sealed = dpd("generate", "site.dpde", *options, "--key", "secret.key", "--require", "signature", "--out", "sealed")
    assert sealed["set_hash"] == plain["set_hash"]
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "sealed"])
    dataset = json.loads((tmp_path / "sealed" / "dataset.json").read_text())
    assert dataset["signature"].startswith("signed by trusted key lab (")
    verified = dpd("verify", "site.dpde", "--key", "secret.key", "--trusted-key", "lab.pub", "--require", "signature")
    assert verified["trusted"] is True
