"""Records of engines, and the decision whether one may be loaded. No TensorRT, GPU or engine is needed for it."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_runtime.bundle.engine_fit import (
    NEEDS_TRUST,
    NOT_RUN,
    NoEngineError,
    Site,
    choose_engine,
    mismatch,
    refuse_engines,
)
from dpd_runtime.bundle.manifest import FileEntry
from dpd_runtime.bundle.signature import UNSIGNED, Signature
from dpd_runtime.engines.record import (
    EngineInput,
    EngineOutput,
    EngineRecord,
    engine_records,
    parse_record,
    record_json,
)
from dpd_runtime.errors import BundleError, MissingExtraError, ProviderError

GRAPH = "unet/model.onnx"
FOLDER = "engines/tensorrt-rtx-89"
STATIC, DYNAMIC = f"{FOLDER}/unet-batch20.engine", f"{FOLDER}/unet-batch1to40.engine"
TRUSTED, UNKNOWN = Signature("ab", "lab"), Signature("ab")
SITE = Site("tensorrt-rtx", "1.7.1.116", 89, "linux-x86_64", 13020)


def unet(batches: tuple[int, int, int]) -> EngineRecord:
    shapes = [(n, 4, 16, 16) for n in batches]
    return EngineRecord(
        flavour="tensorrt-rtx",
        builder_version="1.7.1.116",
        compute_capabilities=(86, 89),
        os="linux-x86_64",
        cuda=13,
        graph=GRAPH,
        sources={GRAPH: "a" * 64},
        precision="fp16",
        arithmetic={"float16": 101, "float32": 2},
        tf32=True,
        layers=2055,
        inputs=(EngineInput("sample", "float32", *shapes), EngineInput("timestep", "int64", (), (), ())),
        outputs=(EngineOutput("out_sample", "float32", (-1, 4, 16, 16)),),
        sha256=str(batches[2] % 10) * 64,
        bytes=1000 + batches[2],
    )


RECORDS = {STATIC: unet((20, 20, 20)), DYNAMIC: unet((1, 20, 40))}


def files_of(records: dict[str, EngineRecord]) -> dict[str, bytes]:
    beside = {path.replace(".engine", ".json"): record_json(record) for path, record in records.items()}
    return {GRAPH: b"graph"} | beside  # `load_bundle` leaves the engines on the disk


def listed_for(records: dict[str, EngineRecord]) -> dict[str, FileEntry]:
    engines = {path: FileEntry(record.sha256, record.bytes) for path, record in records.items()}
    return {GRAPH: FileEntry("a" * 64, 5)} | engines


def choose(batch: int, *, site: Site = SITE, records: dict[str, EngineRecord] = RECORDS, **options: Any) -> Any:
    listed = options.pop("listed", listed_for(records))
    return choose_engine(files_of(records), listed, GRAPH, batch, site, **options)


def test_a_record_survives_its_json() -> None:
    for record in RECORDS.values():
        assert parse_record("x.json", record_json(record)) == record
        assert record_json(record) == record_json(replace(record))
    assert engine_records(files_of(RECORDS), listed_for(RECORDS)) == RECORDS


def test_an_engine_that_fits_has_no_mismatch() -> None:
    assert mismatch(RECORDS[STATIC], SITE, listed_for(RECORDS)) is None
    assert mismatch(RECORDS[STATIC], replace(SITE, compute_capability=86), listed_for(RECORDS)) is None
    assert mismatch(RECORDS[STATIC], replace(SITE, driver_cuda=13000), listed_for(RECORDS)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1.7.2"}, ["1.7.1.116", "installed is 1.7.2"]),
        ({"compute_capability": 120}, ["86, 89", "this GPU has 120"]),
        ({"os": "windows-amd64"}, ["linux-x86_64", "windows-amd64"]),
        ({"driver_cuda": 12090}, ["CUDA 13", "supports CUDA 12.9"]),
        ({"flavour": "tensorrt"}, ["tensorrt-rtx 1.7.1.116", "requested is tensorrt"]),
    ],
)
def test_another_machine_is_told_in_one_line(changes: dict[str, Any], words: list[str]) -> None:
    sentence = mismatch(RECORDS[STATIC], replace(SITE, **changes), listed_for(RECORDS))
    assert sentence is not None
    assert "\n" not in sentence
    assert [word for word in words if word not in sentence] == []


def test_another_graph_is_told() -> None:
    for changed in ({GRAPH: FileEntry("b" * 64, 5)}, {}):
        sentence = mismatch(RECORDS[STATIC], SITE, changed)
        assert sentence == f"built from another {GRAPH} than the bundle's"


@pytest.mark.parametrize(("batch", "path"), [(20, STATIC), (10, DYNAMIC), (1, DYNAMIC), (40, DYNAMIC)])
def test_the_static_engine_for_its_batch_and_the_dynamic_one_for_others(batch: int, path: str) -> None:
    assert choose(batch, signature=TRUSTED).path == path
    assert choose(batch, signature=TRUSTED, requested="tensorrt-rtx").path == path


@pytest.mark.parametrize("signature", [UNSIGNED, UNKNOWN], ids=["unsigned", "unknown"])
def test_no_engine_loads_without_a_trusted_signature(signature: Signature) -> None:
    chosen = choose(20, signature=signature)
    assert chosen.path is None
    assert "native code" in chosen.reason
    assert signature.describe() in chosen.reason
    assert "signature" in chosen.reason
    with pytest.raises(ProviderError, match=r"provider tensorrt-rtx: .*trusted signature") as raised:
        choose(20, signature=signature, requested="tensorrt-rtx")
    assert raised.value.exit_code == 5
    assert "\n" not in str(raised.value)


Change = Callable[[], dict[str, Any]]
UNUSABLE: list[tuple[Change, str]] = [
    (lambda: {"batch": 41}, "batches are"),
    (lambda: {"batch": 20, "site": replace(SITE, version="1.8.0")}, "installed is 1.8.0"),
    (lambda: {"batch": 20, "records": {}}, "has no tensorrt-rtx engine of unet"),
    (lambda: {"batch": 20, "site": replace(SITE, flavour="tensorrt")}, "has no tensorrt engine of unet"),
    (
        lambda: {"batch": 20, "listed": listed_for(RECORDS) | dict.fromkeys(RECORDS, FileEntry("c" * 64, 4))},
        "is of another engine",
    ),
]


@pytest.mark.parametrize(("make", "words"), UNUSABLE)
def test_auto_falls_back_and_a_request_is_an_error(make: Change, words: str) -> None:
    chosen = choose(**make(), signature=TRUSTED)
    assert chosen.path is None
    assert words in chosen.reason
    assert chosen.reason.endswith("ONNX Runtime runs the graph")
    with pytest.raises(ProviderError, match=words):
        choose(**make(), signature=TRUSTED, requested="tensorrt-rtx")


def no_driver(flavour: str) -> Site:
    raise ProviderError("no NVIDIA GPU can be used here (no libcuda)")


def not_installed(flavour: str) -> Site:
    raise MissingExtraError(flavour, "rtx")


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (lambda _: SITE, ["tensorrt-rtx engines are not loaded", NEEDS_TRUST, "this bundle is unsigned"]),
        (lambda _: replace(SITE, compute_capability=86), [NEEDS_TRUST, "this bundle is unsigned"]),
        (lambda _: replace(SITE, compute_capability=120), ["do not fit", DYNAMIC, "86, 89", "this GPU has 120"]),
        (no_driver, ["cannot run here", "no NVIDIA GPU can be used here (no libcuda)"]),
        (not_installed, ["cannot run here", 'pip install "dpd-distill[rtx]"']),
    ],
)
def test_no_engine_is_used_and_one_line_says_why(site: Callable[[str], Site], words: list[str]) -> None:
    refusal = refuse_engines(files_of(RECORDS), listed_for(RECORDS), "tensorrt-rtx", UNSIGNED, site)
    assert [word for word in words if word not in str(refusal)] == []
    assert "\n" not in str(refusal)
    assert not isinstance(refusal, NoEngineError)
    assert isinstance(refuse_engines(files_of(RECORDS), listed_for(RECORDS), "tensorrt", UNSIGNED, site), NoEngineError)


def test_a_trusted_bundle_is_told_that_this_version_runs_no_engines() -> None:
    refusal = refuse_engines(files_of(RECORDS), listed_for(RECORDS), "tensorrt-rtx", TRUSTED, lambda _: SITE)
    assert str(refusal) == f"its tensorrt-rtx engines are not loaded: {NOT_RUN}"


def test_an_engine_without_a_record_is_refused() -> None:
    files = files_of(RECORDS)
    del files[STATIC.replace(".engine", ".json")]
    with pytest.raises(BundleError, match=r"unet-batch20\.engine has no record"):
        engine_records(files, listed_for(RECORDS))


def test_batches_and_description_are_the_profile() -> None:
    assert RECORDS[STATIC].batches == (20, 20)
    assert RECORDS[DYNAMIC].batches == (1, 40)
    assert RECORDS[DYNAMIC].describe() == "batch 1 … 40, float16 + float32 arithmetic, tensorrt-rtx 1.7.1.116"


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(record_json(RECORDS[STATIC])) | changes).encode()


SHAPES = {"name": "sample", "dtype": "float32", "min": [2, 4], "opt": [1, 4], "max": [2, 4]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff",
        changed(record_version=2),
        changed(more=1),
        changed(flavour="vulkan"),
        changed(flavour=["tensorrt"]),
        changed(builder_version="1\n2"),
        changed(sources={}),
        changed(sources={"vae_decoder/model.onnx": "a" * 64}),
        changed(sources=[1]),
        changed(bytes=-1),
        changed(bytes=True),
        changed(tf32=1),
        changed(layers="many"),
        changed(arithmetic={"float16": "all"}),
        changed(compute_capabilities=[]),
        changed(compute_capabilities="89"),
        changed(inputs=[]),
        changed(inputs=[SHAPES]),
        changed(inputs=[SHAPES | {"min": [1, 4, 4]}]),
        changed(inputs=[SHAPES | {"min": [-1, 4]}]),
        changed(inputs=[{"name": "sample"}]),
        changed(outputs=[{"name": "x", "dtype": "float32", "shape": [-2]}]),
        b" " * (2**20 + 1),
    ],
    ids=lambda raw: repr(raw[:12]) + str(len(raw)),
)
def test_broken_records_are_bundle_errors_in_one_line(raw: bytes) -> None:
    with pytest.raises(BundleError, match=r"^x\.json .*build the engines again$"):
        parse_record("x.json", raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(sorted(json.loads(record_json(RECORDS[STATIC])))), value=JSON)
def test_any_json_in_a_field_raises_only_our_error(key: str, value: object) -> None:
    with suppress(BundleError):
        record = parse_record("x.json", changed(**{key: value}))
        assert record.describe().isprintable()
        mismatch(record, SITE, listed_for(RECORDS))
