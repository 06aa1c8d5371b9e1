"""Changed copies of a bundle are complete and unsigned and keep its engines. Nothing is left after an error."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from dpd_runtime.bundle import load_bundle
from dpd_runtime.errors import BundleError, BundleHashError, InputError
from dpd_runtime.sealing import write_audited, write_changed
from tests.unit.runtime.test_bundle import UNKNOWN, Store, as_folder, as_zip, both, bundle_files, parts
from tests.unit.runtime.test_bundle_engines import ENGINE, PLAN, with_engine

outs = pytest.mark.parametrize("out", ["new.dpd", "new"])
RECORD = {"verdict": "PASS", "tests": []}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@both
@outs
def test_an_audited_copy_holds_everything_else_and_no_signature(store: Store, out: str, tmp_path: Path) -> None:
    files = bundle_files(with_engine()) | {"bundle.sig": UNKNOWN}
    old = load_bundle(store(tmp_path, files))
    digest = write_audited(old, tmp_path / out, RECORD, "PASS")
    new = load_bundle(tmp_path / out)
    assert new.hash == digest != old.hash
    assert new.manifest.audit == "PASS"
    assert json.loads(new.files["audit.json"]) == RECORD
    assert {k: v for k, v in new.files.items() if k != "audit.json"} == old.files
    assert new.read_engine(ENGINE) == PLAN
    assert (tmp_path / out).is_file() is out.endswith(".dpd")
    assert names(tmp_path) == sorted(["tiny.dpd" if store is as_zip else "tiny", out])
    found = zipfile.ZipFile(tmp_path / out).namelist() if out.endswith(".dpd") else names(tmp_path / out)
    assert "bundle.sig" not in found
    assert "bundle.json" in found


@both
def test_a_bundle_is_replaced_by_its_copy(store: Store, tmp_path: Path) -> None:
    path = store(tmp_path, bundle_files(with_engine()))
    old = load_bundle(path)
    write_audited(old, path, {"verdict": "WARN"}, "WARN")
    again = load_bundle(path)
    assert again.manifest.audit == "WARN"
    assert again.read_engine(ENGINE) == PLAN
    assert names(tmp_path) == [path.name]
    write_audited(again, path, {"verdict": "FAIL"}, "FAIL")  # a second audit replaces the first
    assert load_bundle(path).files["audit.json"] == b'{\n "verdict": "FAIL"\n}\n'


def test_the_same_change_gives_the_same_bytes(tmp_path: Path) -> None:
    for store in (as_zip, as_folder):
        (tmp_path / store.__name__).mkdir()
        bundle = load_bundle(store(tmp_path / store.__name__, bundle_files()))
        write_audited(bundle, tmp_path / f"{store.__name__}.dpd", RECORD, "PASS")
    assert (tmp_path / "as_zip.dpd").read_bytes() == (tmp_path / "as_folder.dpd").read_bytes()


@outs
def test_a_file_is_added_from_the_disk(out: str, tmp_path: Path) -> None:
    bundle = load_bundle(as_zip(tmp_path, bundle_files()))
    (tmp_path / "large").write_bytes(b"a large file")
    write_changed(bundle, tmp_path / out, {"engines/x/a.bin": tmp_path / "large"}, tools={"builder": "1"})
    new = load_bundle(tmp_path / out)
    assert new.files["engines/x/a.bin"] == b"a large file"
    assert new.manifest.files["engines/x/a.bin"].sha256 == hashlib.sha256(b"a large file").hexdigest()
    assert new.manifest.tools == {"builder": "1"}


@both
@outs
def test_a_bundle_that_was_changed_meanwhile_is_not_copied(store: Store, out: str, tmp_path: Path) -> None:
    bundle = load_bundle(store(tmp_path, bundle_files()))
    store(tmp_path, bundle_files(parts() | {"classes.json": b"other"}))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_bytes(b"kept")
    with pytest.raises(BundleHashError, match=r"classes\.json"):
        write_audited(bundle, tmp_path / out, RECORD, "PASS")
    assert (tmp_path / "new" / "mine").read_bytes() == b"kept"
    assert names(tmp_path) == ["new", bundle.path.name]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_but_a_bundle_is_replaced(kind: str, tmp_path: Path) -> None:
    """Whatever the caller has checked, or read in a file."""
    bundle, out = load_bundle(as_zip(tmp_path, bundle_files())), tmp_path / ("mine" if kind == "folder" else "mine.dpd")
    kept = out / "thesis.txt" if kind == "folder" else out
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("years of work")
    with pytest.raises(InputError, match=r"is not an intact bundle .* and is not overwritten"):
        write_audited(bundle, out, RECORD, "PASS")
    assert kept.read_text() == "years of work"
    assert names(tmp_path) == sorted([out.name, bundle.path.name])


@pytest.mark.parametrize("verdict", ["pass", "", "unaudited"])
def test_what_is_no_verdict(verdict: str, tmp_path: Path) -> None:
    bundle = load_bundle(as_zip(tmp_path, bundle_files()))
    with pytest.raises(ValueError, match="PASS, WARN, FAIL"):
        write_audited(bundle, tmp_path / "new.dpd", RECORD, verdict)


def test_no_file_gets_outside(tmp_path: Path) -> None:
    bundle = load_bundle(as_zip(tmp_path, bundle_files()))
    with pytest.raises(BundleError, match="unsafe path"):
        write_changed(bundle, tmp_path / "new", {"../x": b""})
    with pytest.raises(BundleError, match="image_shape"):
        write_changed(bundle, tmp_path / "new", {}, image_shape=(0, 0, 3))
    assert names(tmp_path) == ["tiny.dpd"]


def test_a_record_with_another_verdict_is_not_written(tmp_path: Path) -> None:
    bundle = load_bundle(as_zip(tmp_path, bundle_files()))
    with pytest.raises(ValueError, match="the record's verdict is 'PASS', not WARN"):
        write_audited(bundle, tmp_path / "new.dpd", RECORD, "WARN")
