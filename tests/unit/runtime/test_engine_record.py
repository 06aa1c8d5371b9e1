"""Records of engines, and the decision whether one may be loaded. No TensorRT, GPU or engine is needed for it."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_runtime.engine_files import EngineInput, EngineOutput, EngineRecord, engine_records, parse_record, record_json
from dpd_runtime.errors import BundleError
from dpd_runtime.manifest import FileEntry
from dpd_runtime.tensorrt import Choice, Site, choose_engine, mismatch
from dpd_runtime.trust import UNSIGNED, Signature

GRAPH = "unet/model.onnx"
FOLDER = "engines/tensorrt-rtx-89"
STATIC, DYNAMIC, WIDE = (f"{FOLDER}/unet-batch{name}.engine" for name in ("20", "1to40", "1to80"))
TRUSTED, UNKNOWN = Signature("ab", "lab"), Signature("ab")
SITE = Site("tensorrt-rtx", "1.7.1.116", "NVIDIA RTX 4090", 89, "linux-x86_64", "580.95.05", 13020)


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


RECORDS = {STATIC: unet((20, 20, 20)), DYNAMIC: unet((1, 20, 40)), WIDE: unet((1, 20, 80))}


def files_of(records: dict[str, EngineRecord]) -> dict[str, bytes]:
    beside = {path.replace(".engine", ".json"): record_json(record) for path, record in records.items()}
    return {GRAPH: b"graph"} | beside  # `load_bundle` leaves the engines on the disk


def listed_for(records: dict[str, EngineRecord]) -> dict[str, FileEntry]:
    engines = {path: FileEntry(record.sha256, record.bytes) for path, record in records.items()}
    return {GRAPH: FileEntry("a" * 64, 5)} | engines


def choose(
    largest: int = 20,
    *,
    site: Site = SITE,
    records: dict[str, EngineRecord] = RECORDS,
    signature: Signature = TRUSTED,
    listed: dict[str, FileEntry] | None = None,
) -> Choice:
    listed = listed_for(records) if listed is None else listed
    return choose_engine(files_of(records), listed, GRAPH, largest, site, signature)


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


@pytest.mark.parametrize(("largest", "path"), [(20, DYNAMIC), (1, DYNAMIC), (40, DYNAMIC), (41, WIDE), (80, WIDE)])
def test_the_narrowest_engine_that_serves_all_batches(largest: int, path: str) -> None:
    assert choose(largest) == Choice(path, "fits this machine")


@pytest.mark.parametrize("signature", [UNSIGNED, UNKNOWN], ids=["unsigned", "unknown"])
def test_no_engine_loads_without_a_trusted_signature(signature: Signature) -> None:
    chosen = choose(signature=signature)
    assert chosen.path is None
    assert "native code and load only with a trusted signature" in chosen.reason
    assert signature.describe() in chosen.reason


Change = Callable[[], dict[str, Any]]
UNUSABLE: list[tuple[Change, str]] = [
    (lambda: {"largest": 81}, "; needed are 1 … 81"),
    (lambda: {"site": replace(SITE, version="1.8.0")}, "installed is 1.8.0"),
    (lambda: {"site": replace(SITE, compute_capability=120)}, "86, 89; this GPU has 120"),
    (lambda: {"records": {}}, "has no tensorrt-rtx engine of unet"),
    (lambda: {"site": replace(SITE, flavour="tensorrt")}, "has no tensorrt engine of unet"),
    (lambda: {"listed": listed_for(RECORDS) | dict.fromkeys(RECORDS, FileEntry("c" * 64, 4))}, "of another engine"),
]


@pytest.mark.parametrize(("make", "words"), UNUSABLE)
def test_an_engine_that_does_not_fit_is_left_out_and_one_line_says_why(make: Change, words: str) -> None:
    chosen = choose(**make())
    assert chosen.path is None
    assert "\n" not in chosen.reason
    assert words in chosen.reason


def test_what_was_compiled_is_kept_by_version_gpu_and_driver() -> None:
    assert SITE.folder == "tensorrt-rtx-1.7.1.116-NVIDIA-RTX-4090-89-580.95.05"
    others = [
        replace(SITE, version="1.7.2.3"),
        replace(SITE, gpu="NVIDIA RTX 4080"),
        replace(SITE, compute_capability=86),
        replace(SITE, driver="580.95.06"),
        replace(SITE, flavour="tensorrt"),
    ]
    assert len({site.folder for site in [SITE, *others]}) == 6


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
