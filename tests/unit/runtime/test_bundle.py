"""`load_bundle`: which bundles are accepted and which are refused. Any bytes do for a graph here."""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from dpd_runtime import archive
from dpd_runtime.archive import refuse_holes, write_zip
from dpd_runtime.bundle import load_bundle, read_graphs
from dpd_runtime.classes import check_class_name
from dpd_runtime.errors import BundleError, BundleHashError, BundleVersionError, InputError
from dpd_runtime.manifest import FileEntry, Manifest
from dpd_runtime.sampler import BlockGuidance, Sampler

Files = dict[str, bytes]
GENERATOR = np.random.default_rng(0)
EMBEDDINGS = GENERATOR.standard_normal((3, 4, 5)).astype(np.float32)
EMPTY = GENERATOR.standard_normal((4, 5)).astype(np.float32)
FOREST = GENERATOR.standard_normal((2, 4, 2, 3)).astype(np.float16)
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
CLASSES: dict[str, Any] = {
    "classes": [{"name": "Forest", "prompt_rows": [0, 2]}, {"name": "Sea Lake", "prompt_rows": [1]}],
    "prompts": ["a forest", "a lake", "dark forest"],
}

UNKNOWN = json.dumps({"alg": "ed25519", "key_id": "00" * 16, "sig": "00" * 64}).encode()
"""A bundle.sig by an unknown key."""


def parts(
    *,
    scheduler: object = SCHEDULER,
    classes: object = CLASSES,
    prompts: dict[str, Any] | None = None,
    prototypes: dict[str, Any] | None = None,
) -> Files:
    """Every file but bundle.json."""
    return {
        "unet/model.onnx": b"unet" * 8,
        "vae_decoder/model.onnx": b"decoder",
        "latent_classifier/model.onnx": b"judge",
        "scheduler/scheduler_config.json": json.dumps(scheduler).encode(),
        "prompts.safetensors": save({"embeddings": EMBEDDINGS, "empty": EMPTY} if prompts is None else prompts),
        "prototypes.safetensors": save({"class.0": FOREST} if prototypes is None else prototypes),
        "classes.json": json.dumps(classes).encode(),
    }


def manifest_of(content: Files, **changes: Any) -> bytes:
    entries = {name: FileEntry(hashlib.sha256(raw).hexdigest(), len(raw)) for name, raw in content.items()}
    fields: dict[str, Any] = {
        "name": "tiny",
        "image_shape": (16, 24, 3),
        "latent_shape": (4, 2, 3),
        "scaling_factor": 0.5,
        "prediction_type": "v_prediction",
        "sampler": Sampler(steps=5, guidance=(BlockGuidance(guidance_scale=2.0),)),
        "precision": "fp32",
        "opset": 18,
        "files": entries,
    }
    return Manifest(**(fields | changes)).to_json()


def bundle_files(content: Files | None = None, **changes: Any) -> Files:
    content = parts() if content is None else content
    return {"bundle.json": manifest_of(content, **changes), **content}


def as_zip(folder: Path, files: Files) -> Path:
    write_zip(folder / "tiny.dpd", files)
    return folder / "tiny.dpd"


def as_folder(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / "tiny" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tiny" / name).write_bytes(content)
    return folder / "tiny"


Store = Callable[[Path, Files], Path]
both = pytest.mark.parametrize("store", [as_zip, as_folder])
ENTRIES = sorted(bundle_files())
LISTED = sorted(parts())


@cache
def packed() -> tuple[bytes, dict[str, tuple[int, int]]]:
    """A zipped bundle, and the offset of each entry's data."""
    files = bundle_files() | {"bundle.sig": UNKNOWN}
    with tempfile.TemporaryDirectory() as folder:
        whole = as_zip(Path(folder), files).read_bytes()
    spans = {}
    for name, content in files.items():
        assert whole.count(name.encode() + content) == 1  # a local header ends with the name
        spans[name] = (whole.index(name.encode() + content) + len(name), len(content))
    return whole, spans


def refused(path: Path, match: str) -> BundleError:
    with pytest.raises(BundleError, match=match) as caught:
        load_bundle(path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path)), "it names the bundle"
    return caught.value


@both
def test_a_good_bundle_opens(store: Store, tmp_path: Path) -> None:
    files = bundle_files()
    bundle = load_bundle(str(store(tmp_path, files)))
    assert bundle.hash == hashlib.sha256(files["bundle.json"]).hexdigest()
    assert [(c.name, c.label, c.prompt_rows) for c in bundle.classes] == [("Forest", 0, (0, 2)), ("Sea Lake", 1, (1,))]
    assert bundle.classes[0].prototypes.dtype == np.float32
    assert np.array_equal(bundle.classes[0].prototypes, FOREST.astype(np.float32))
    assert bundle.classes[1].prototypes.shape == (0, 4, 2, 3)
    assert np.array_equal(bundle.prompt_embeddings, EMBEDDINGS)
    assert np.array_equal(bundle.empty_embedding, EMPTY)
    assert bundle.prompts == ("a forest", "a lake", "dark forest")
    assert (bundle.schedule.prediction_type, bundle.schedule.num_train_timesteps) == ("v_prediction", 100)
    assert bundle.manifest.sampler == Sampler(steps=5, guidance=(BlockGuidance(guidance_scale=2.0),))
    assert {name: bytes(content) for name, content in bundle.files.items()} == parts()


def test_zip_and_folder_have_the_same_hash(tmp_path: Path) -> None:
    files = bundle_files()
    assert load_bundle(as_zip(tmp_path, files)).hash == load_bundle(as_folder(tmp_path, files)).hash
    other = bundle_files(name="other")
    assert load_bundle(as_zip(tmp_path, other)).hash != load_bundle(as_folder(tmp_path, files)).hash


def test_classes_are_selected_in_the_order_of_the_bundle(tmp_path: Path) -> None:
    bundle = load_bundle(as_zip(tmp_path, bundle_files()))
    assert [c.name for c in bundle.select_classes(("Sea Lake", "Forest"))] == ["Forest", "Sea Lake"]
    assert [c.name for c in bundle.select_classes(("Sea Lake",))] == ["Sea Lake"]
    assert bundle.select_classes(None) == bundle.classes
    with pytest.raises(InputError, match="'River' is not in the bundle, which has Forest, Sea Lake"):
        bundle.select_classes(("Forest", "River"))
    with pytest.raises(InputError, match="'Forest' is named twice"):
        bundle.select_classes(("Forest", "Sea Lake", "Forest"))


@both
@pytest.mark.parametrize("name", LISTED)
def test_one_flipped_byte_in_a_listed_file(store: Store, name: str, tmp_path: Path) -> None:
    for position in {0, len(parts()[name]) // 2, len(parts()[name]) - 1}:
        files = bundle_files()
        content = bytearray(files[name])
        content[position] ^= 0x01
        files[name] = bytes(content)
        error = refused(store(tmp_path, files), rf": {name}: sha256 is .*bundle\.json says")
        assert isinstance(error, BundleHashError)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([*ENTRIES, "bundle.sig"]), where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255)
)
def test_one_changed_byte_anywhere_in_a_zip(tmp_path: Path, name: str, where: float, mask: int) -> None:
    whole, spans = packed()
    start, size = spans[name]
    changed = bytearray(whole)
    changed[start + int(where * size)] ^= mask
    (tmp_path / "a.dpd").write_bytes(changed)
    refused(tmp_path / "a.dpd", rf": {name}: ")


def test_bytes_all_over_the_manifest_in_a_zip(tmp_path: Path) -> None:
    whole, spans = packed()
    (tmp_path / "a.dpd").write_bytes(whole)
    load_bundle(tmp_path / "a.dpd")
    start, size = spans["bundle.json"]
    for position in range(start, start + size, 7):
        changed = bytearray(whole)
        changed[position] ^= 0x20
        (tmp_path / "a.dpd").write_bytes(changed)
        refused(tmp_path / "a.dpd", r": bundle\.json: its checksum does not match")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_zip(tmp_path: Path, share: float) -> None:
    whole, _ = packed()
    (tmp_path / "a.dpd").write_bytes(whole[: int(share * len(whole))])
    refused(tmp_path / "a.dpd", "not a readable bundle")


@both
@pytest.mark.parametrize("name", LISTED)
def test_a_truncated_or_longer_file(store: Store, name: str, tmp_path: Path) -> None:
    for content in (parts()[name][:-1], b"", parts()[name] + b"\0"):
        refused(store(tmp_path, bundle_files() | {name: content}), rf": {name}: {len(content)} bytes, bundle.json says")


@both
@pytest.mark.parametrize("name", ENTRIES)
def test_a_missing_file(store: Store, name: str, tmp_path: Path) -> None:
    files = bundle_files()
    del files[name]
    refused(store(tmp_path, files), f"it has no {name}" if name == "bundle.json" else f": {name} is missing")


@both
@pytest.mark.parametrize("name", LISTED)
def test_a_required_file_that_is_not_listed(store: Store, name: str, tmp_path: Path) -> None:
    files = parts()
    content = files.pop(name)
    refused(store(tmp_path, bundle_files(files)), rf": {name} is not listed in bundle\.json")
    refused(
        store(tmp_path, bundle_files(files) | {name: content}), rf": {name} is in the bundle but not in bundle\.json"
    )


@both
def test_a_file_too_many(store: Store, tmp_path: Path) -> None:
    refused(store(tmp_path, bundle_files() | {"unet/evil.onnx": b"x"}), r": unet/evil\.onnx is in the bundle but not")


@both
def test_more_listed_files_and_a_signature_are_welcome(store: Store, tmp_path: Path) -> None:
    files = bundle_files(parts() | {"notes.json": b"{}", "engines/x/a.bin": b"1"}) | {"bundle.sig": UNKNOWN}
    bundle = load_bundle(store(tmp_path, files))
    assert "engines/x/a.bin" in bundle.files
    assert bundle.signature.describe() == "signed by unknown key " + "00" * 16


@both
def test_listed_bytes_count_as_well_as_the_hash(store: Store, tmp_path: Path) -> None:
    files = parts()
    entries = {name: FileEntry(hashlib.sha256(c).hexdigest(), len(c)) for name, c in files.items()}
    entries["classes.json"] = FileEntry(entries["classes.json"].sha256, 10**12)
    refused(store(tmp_path, bundle_files(files, files=entries)), r": classes\.json: ")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "..\\outside", "a//b", "C:/a"])
def test_a_manifest_that_reaches_out_of_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    entries = {name: FileEntry(hashlib.sha256(b"secret").hexdigest(), 6)}
    refused(as_folder(tmp_path, bundle_files(files=entries) | parts()), r"unsafe path|not in bundle\.json")
    files = {"bundle.json": manifest_of({}, files=entries)}
    for store in (as_zip, as_folder):
        (tmp_path / store.__name__).mkdir()
        refused(store(tmp_path / store.__name__, files), "unsafe path")


def test_a_compressed_bundle(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.dpd", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in bundle_files().items():
            archive.writestr(name, content)
    refused(tmp_path / "a.dpd", "damaged, compressed or encrypted")


def test_a_link_in_the_place_of_a_file(tmp_path: Path) -> None:
    folder = as_folder(tmp_path, bundle_files())
    load_bundle(folder)
    (folder / "unet/model.onnx").rename(tmp_path / "model.onnx")
    (folder / "unet/model.onnx").symlink_to(tmp_path / "model.onnx")  # the right bytes, even so
    refused(folder, "symbolic links are not allowed")


@both
def test_a_future_bundle(store: Store, tmp_path: Path) -> None:
    error = refused(store(tmp_path, bundle_files(format_version=5)), "format version 5.*install a newer dpd-distill")
    assert isinstance(error, BundleVersionError)


def test_a_huge_manifest(tmp_path: Path) -> None:
    refused(as_zip(tmp_path, bundle_files(data={"x": "0" * 9 * 2**20})), r"bundle\.json has \d+ bytes, more than")


def test_many_small_sparse_files_are_refused_as_one_large_one_is(tmp_path: Path) -> None:
    for number in range(50):
        with (tmp_path / f"{number}").open("wb") as file:
            file.truncate(16 << 20)
    with pytest.raises(BundleError, match=r"it claims 839 MB, but the disk holds 0 MB of them \(sparse files\)"):
        refuse_holes(tmp_path, tmp_path.iterdir())


def test_a_bundle_that_is_replaced_keeps_who_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "site.dpd"
    path.write_bytes(b"old")
    path.chmod(0o600)
    write_zip(path, {"a": b"new"})
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_bundle_of_very_many_graphs_is_refused() -> None:
    with pytest.raises(BundleError, match="it holds 40 graphs"):
        read_graphs({f"{number}.onnx": b"" for number in range(40)})


def test_a_sparse_file_of_terabytes_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker can write any size into the manifest. Not all file systems tell what is a hole."""
    monkeypatch.setattr(archive, "MAX_HOLES", 2**50)
    folder = as_folder(tmp_path, bundle_files())
    with (folder / "unet/model.onnx").open("r+b") as file:
        file.truncate(2**43)
    refused(folder, r": unet/model\.onnx: 8796093022208 bytes, bundle\.json says 32")
    entries = json.loads((folder / "bundle.json").read_bytes())
    entries["files"]["unet/model.onnx"]["bytes"] = 2**43
    (folder / "bundle.json").write_text(json.dumps(entries))
    refused(folder, r"the bundle needs 17592\.2 GB of memory, this process may use")
    with (folder / "bundle.json").open("r+b") as file:
        file.truncate(2**43)
    refused(folder, r"bundle\.json has 8796093022208 bytes, more than")


def test_samplers_beyond_all_memory(tmp_path: Path) -> None:
    sampler = Sampler(solver="lcm", steps=50, candidates=64)
    large = {"latent_shape": (64, 256, 256), "image_shape": (2048, 2048, 3)}
    content = parts(
        prototypes={}, classes={**CLASSES, "classes": [{**c, "prompt_rows": [0]} for c in CLASSES["classes"]]}
    )
    refused(
        as_zip(tmp_path, bundle_files(content, sampler=sampler, **large)), "64 candidates with 49 further draws need"
    )


def test_a_path_with_nothing_of_ours(tmp_path: Path) -> None:
    refused(tmp_path, r"it has no bundle\.json, so it is not a dpd bundle")
    with pytest.raises(BundleError, match="no such bundle") as caught:
        load_bundle(tmp_path / "absent.dpd")
    assert caught.value.exit_code == 2, "a wrong path is bad input"


def with_class(**changes: object) -> dict[str, Any]:
    return {**CLASSES, "classes": [{**CLASSES["classes"][0], **changes}, CLASSES["classes"][1]]}


BAD_NAMES = [
    "..",
    ".",
    ".hidden",
    "a/b",
    "/a",
    "a\\b",
    "a:b",
    "a\nb",
    "a\0b",
    "\x1b[31m",
    "\u202ea",
    "\ud800",
    " a",
    "a ",
    "",
    "a" * 201,
    "ä" * 101,
    "*",
    "dataset.json",
    "contact_sheet.PNG",
    None,
    3,
    ["a"],
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_class_names_that_are_no_folder_names(name: object, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be a folder name"):
        check_class_name(name)
    refused(
        as_zip(tmp_path, bundle_files(parts(classes=with_class(name=name)))), r": classes\.json: class name .*folder"
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=120))
def test_an_accepted_class_name_makes_one_folder_inside(tmp_path: Path, name: str) -> None:
    try:
        check_class_name(name)
    except BundleError:
        return
    folder = tmp_path / "set" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_00000.png.partial").touch()
    assert folder.resolve().parent == (tmp_path / "set").resolve()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "incomplete"),
        ("x", "incomplete"),
        (None, "incomplete"),
        ({}, "incomplete"),
        ({"classes": 5, "prompts": []}, "incomplete"),
        ({"classes": [1, 2], "prompts": []}, "incomplete"),
        ({**CLASSES, "classes": []}, "two or more classes with different names"),
        ({**CLASSES, "classes": CLASSES["classes"][:1]}, "two or more classes with different names"),
        ({**CLASSES, "prompts": 5}, "incomplete"),
        ({**CLASSES, "prompts": ["a"]}, "shapes do not fit"),
        ({**CLASSES, "prompts": ["a forest", "\x1b[2Ja lake", "dark forest"]}, "cannot be printed"),
        ({**CLASSES, "classes": [{"name": f"c{i}", "prompt_rows": [0]} for i in range(10_001)]}, "more than 10000"),
        ({"classes": CLASSES["classes"]}, "incomplete"),
        (with_class(name="Sea Lake"), "two or more classes with different names"),
        (with_class(prompt_rows=[0, 3]), "refers to prompts that"),
        (with_class(prompt_rows=[0, -1]), "refers to prompts that"),
        (with_class(prompt_rows=[0, True]), "refers to prompts that"),
        (with_class(prompt_rows=[0, 0.0]), "refers to prompts that"),
        (with_class(prompt_rows="01"), "refers to prompts that"),
        (with_class(prompt_rows=[]), "refers to prompts that"),
        (with_class(prompt_rows=None), "incomplete"),
        (with_class(prompt_rows=[0]), "1 prompt for 2 prototypes"),
    ],
)
def test_wrong_class_tables(classes: object, message: str, tmp_path: Path) -> None:
    refused(as_zip(tmp_path, bundle_files(parts(classes=classes))), message)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000], ids=lambda raw: repr(raw[:5]))
@pytest.mark.parametrize("name", ["classes.json", "scheduler/scheduler_config.json"])
def test_what_is_no_json(name: str, raw: bytes, tmp_path: Path) -> None:
    refused(as_zip(tmp_path, bundle_files(parts() | {name: raw})), rf": {name} is not valid JSON")


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ([], "scheduler_config"),
        (None, "scheduler_config"),
        ({}, "num_train_timesteps"),
        (SCHEDULER | {"num_train_timesteps": 0}, "num_train_timesteps"),
        (SCHEDULER | {"num_train_timesteps": 1}, "num_train_timesteps"),
        (SCHEDULER | {"num_train_timesteps": 10**15}, "num_train_timesteps"),
        (SCHEDULER | {"num_train_timesteps": float("inf")}, "scheduler_config"),
        (SCHEDULER | {"num_train_timesteps": "many"}, "scheduler_config"),
        (SCHEDULER | {"beta_schedule": ["linear"]}, "scheduler_config"),
        (SCHEDULER | {"beta_schedule": "linear"}, "beta_start"),
        (SCHEDULER | {"beta_schedule": "scaled_linear", "beta_start": -1, "beta_end": 0.1}, "scheduler_config"),
        (SCHEDULER | {"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 10**400}, "scheduler_config"),
        (SCHEDULER | {"prediction_type": "epsilon"}, "prediction_type is v_prediction in bundle.json and epsilon"),
        (SCHEDULER | {"prediction_type": {}}, "prediction_type"),
        (SCHEDULER | {"clip_sample": True}, "clip_sample"),
        (SCHEDULER | {"steps_offset": "x"}, "scheduler_config"),
        (SCHEDULER | {"steps_offset": 30, "timestep_spacing": "leading"}, "sampler: steps is 5; that is too many"),
        (SCHEDULER | {"steps_offset": -5, "timestep_spacing": "leading"}, "steps_offset"),
    ],
)
def test_wrong_scheduler_configs(scheduler: object, message: str, tmp_path: Path) -> None:
    refused(as_zip(tmp_path, bundle_files(parts(scheduler=scheduler))), message)


@pytest.mark.parametrize(
    ("sampler", "message"), [(Sampler(solver="heun"), "'heun' is unknown"), (Sampler(steps=101), "steps is 101")]
)
def test_samplers_which_cannot_run(sampler: Sampler, message: str, tmp_path: Path) -> None:
    refused(as_zip(tmp_path, bundle_files(sampler=sampler)), message)


def spoilt(array: Any, value: float) -> Any:
    array = array.copy()
    array.reshape(-1)[-1] = value
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_which_are_none(value: float, tmp_path: Path) -> None:
    bad = parts(prototypes={"class.0": spoilt(FOREST, value)})
    refused(as_zip(tmp_path, bundle_files(bad)), r": prototypes\.safetensors: tensor 'class\.0' is not finite")
    for name, arrays in (
        ("embeddings", {"embeddings": spoilt(EMBEDDINGS, value), "empty": EMPTY}),
        ("empty", {"embeddings": EMBEDDINGS, "empty": spoilt(EMPTY, value)}),
    ):
        files = bundle_files(parts(prompts=arrays))
        refused(as_zip(tmp_path, files), rf": prompts\.safetensors: tensor '{name}' is not finite")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prototypes": {"class.0": FOREST[:, :3]}}, r"prototypes\.safetensors: class Forest has shape"),
        ({"prototypes": {"class.0": FOREST[0]}}, r"prototypes\.safetensors: class Forest has shape"),
        ({"prototypes": {"class.0": np.array(1, np.float32)}}, r"prototypes\.safetensors: class Forest has shape"),
        ({"prototypes": {"class.0": FOREST.astype(np.float64)}}, "float16 or float32"),
        ({"prototypes": {"class.0": FOREST.astype(np.int32)}}, "float16 or float32"),
        ({"prototypes": {}}, "2 prompts for 0 prototypes"),
        ({"prompts": {"embeddings": EMBEDDINGS}}, r"prompts\.safetensors is incomplete"),
        ({"prompts": {"empty": EMPTY}}, r"prompts\.safetensors is incomplete"),
        ({"prompts": {"embeddings": EMBEDDINGS[:, :2], "empty": EMPTY}}, r"prompts\.safetensors: shapes"),
        ({"prompts": {"embeddings": EMBEDDINGS[:, 0], "empty": EMPTY[0]}}, r"prompts\.safetensors: shapes"),
        ({"prompts": {"embeddings": np.array(1, np.float32), "empty": EMPTY}}, "incomplete"),
    ],
)
def test_wrong_tensors(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(as_zip(tmp_path, bundle_files(parts(**changes))), message)


def test_block_means_open_where_the_table_says_so(tmp_path: Path) -> None:
    """Kind `pooled`: both sides of the latents are the same multiple of the prototypes'."""
    table = CLASSES | {"prototype_kind": "pooled"}
    opened = load_bundle(as_zip(tmp_path, bundle_files(parts(classes=table), latent_shape=(4, 4, 6))))
    assert np.array_equal(opened.classes[0].prototypes, FOREST.astype(np.float32))
    for classes, shape in ((CLASSES, (4, 4, 6)), (table, (4, 4, 3)), (table, (4, 5, 6))):
        files = bundle_files(parts(classes=classes), latent_shape=shape)
        refused(as_zip(tmp_path, files), r"prototypes\.safetensors: class Forest has shape")


@pytest.mark.parametrize("name", ["prompts.safetensors", "prototypes.safetensors"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_tensor_files_that_are_listed_as_they_are(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """An attacker can also write matching hashes, so the parser itself must refuse. Only BundleError may be raised."""
    raw = bytearray(parts()[name])
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, 120))] ^= data.draw(st.integers(1, 255))
    path = as_zip(tmp_path, bundle_files(parts() | {name: bytes(raw)}))
    with suppress(BundleError):
        load_bundle(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from([*SCHEDULER, "steps_offset", "beta_start", "rescale_betas_zero_snr", "name"]), value=JSON)
def test_any_json_in_the_tables_raises_only_our_error(tmp_path: Path, key: str, value: object) -> None:
    small = SCHEDULER | {"num_train_timesteps": 30, "beta_start": 0.01, "beta_end": 0.1}
    tables: list[dict[str, Any]] = [
        {"scheduler": small | {"beta_schedule": "linear"} | {key: value}},
        {"classes": {**CLASSES, "classes": value}},
        {"classes": with_class(prompt_rows=value)},
    ]
    for changes in tables:
        with suppress(BundleError):
            load_bundle(as_zip(tmp_path, bundle_files(parts(**changes))))


def test_bytes_that_were_hashed_stay_whatever_happens_to_the_file(tmp_path: Path) -> None:
    path = as_zip(tmp_path, bundle_files())
    bundle = load_bundle(path)
    content = path.read_bytes()
    with path.open("r+b") as file:  # in place: the very pages that a mapping would show
        file.write(bytes(len(content)))
    assert bundle.files["unet/model.onnx"] == b"unet" * 8


def test_graph_with_weights_outside_itself_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../secret")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    content = parts() | {"unet/model.onnx": onnx.helper.make_model(graph).SerializeToString()}
    with pytest.raises(BundleError, match="has weights outside itself"):
        load_bundle(as_zip(tmp_path, bundle_files(content)))
