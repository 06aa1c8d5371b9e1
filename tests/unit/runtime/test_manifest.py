import copy
import json
import math
import re
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpd_runtime.bands import Band
from dpd_runtime.errors import BundleError, BundleVersionError
from dpd_runtime.manifest import FileEntry, Manifest, parse_manifest, parse_sampler
from dpd_runtime.sampler import BlockGuidance, Sampler

MANIFEST = Manifest(
    name="tiny",
    image_shape=(16, 24, 3),
    latent_shape=(4, 2, 3),
    scaling_factor=0.5,
    prediction_type="v_prediction",
    sampler=Sampler("ddim", 7, 2, 5, (BlockGuidance(0, 2.0, 0.1, 0.5), BlockGuidance(2, 1.5, 0.0, 0.25))),
    precision="fp32",
    opset=18,
    files={"a/b.bin": FileEntry("0123456789abcdef" * 4, 12)},
    tools={"torch": "2.13.0"},
    parity={"unet": 1e-4},
)
CONTENT: dict[str, Any] = json.loads(MANIFEST.to_json())


def changed(path: tuple[str | int, ...], value: object) -> bytes:
    """The manifest's JSON with one value replaced."""
    content: Any = copy.deepcopy(CONTENT)
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(content).encode()


def test_round_trip() -> None:
    again = parse_manifest(MANIFEST.to_json())
    assert again == MANIFEST
    assert again.to_json() == MANIFEST.to_json()
    assert isinstance(again.sampler.guidance, tuple)
    assert isinstance(again.image_shape, tuple)


def test_json_does_not_hang_on_the_order_of_files() -> None:
    entries = {name: FileEntry("0" * 64, 1) for name in ("b", "a", "c")}
    first = Manifest(**{**MANIFEST.__dict__, "files": entries})
    second = Manifest(**{**MANIFEST.__dict__, "files": dict(sorted(entries.items()))})
    assert first.to_json() == second.to_json()


def test_what_is_left_out_has_its_default() -> None:
    content = {k: v for k, v in CONTENT.items() if k not in ("tools", "licences", "data", "parity", "audit")}
    manifest = parse_manifest(json.dumps(content).encode())
    assert (manifest.tools, manifest.audit) == ({}, "unaudited")


@pytest.mark.parametrize(("block", "scale"), [(0, 2.0), (1, 2.0), (2, 1.5), (99, 1.5)])
def test_guidance_of_a_block(block: int, scale: float) -> None:
    assert MANIFEST.sampler.guidance_for(block).guidance_scale == scale


def test_evaluations_count_guided_ones_twice() -> None:
    assert MANIFEST.sampler.evaluations_per_latent(0) == 7 * 2
    plain = Sampler(steps=7, candidates=2)
    assert plain.evaluations_per_latent(0) == 7


@pytest.mark.parametrize("version", [5, 6, 10**9])
def test_a_future_format_is_refused_as_such(version: int) -> None:
    with pytest.raises(BundleVersionError, match=rf"format version {version}.*reads up to 4.*install a newer"):
        parse_manifest(changed(("format_version",), version))


def test_a_future_format_is_known_even_when_nothing_else_is() -> None:
    with pytest.raises(BundleVersionError):
        parse_manifest(json.dumps({"format": "dpd-bundle", "format_version": 5, "chunks": []}).encode())


BANDS = (Band("B4", 0, 3000, 0.665), Band("VV", -25, 5, decibels=True))


def of_bands(**changes: Any) -> bytes:
    """A codes-only manifest of images with two bands."""
    guidance = (BlockGuidance(0, prototype_scale=1.0, prototype_until=1.0),)
    manifest = replace(
        MANIFEST,
        codes_only=True,
        format_version=4,
        image_shape=(16, 24, 2),
        bands=BANDS,
        sampler=Sampler(guidance=guidance),
    )
    return json.dumps(json.loads(manifest.to_json()) | changes).encode()


def test_bands_come_back_and_other_manifests_do_not_mention_them() -> None:
    again = parse_manifest(of_bands())
    assert again.bands == BANDS
    assert parse_manifest(again.to_json()) == again
    assert b"bands" not in MANIFEST.to_json()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_shape": [16, 24, 3]}, "the last size must be 2"),
        ({"format_version": 2}, "it is codes_only, with format_version 2"),
        ({"codes_only": False}, "only codes_only bundles have"),
        ({"bands": []}, "bands are not 1 … 64 bands"),
        ({"bands": {}}, "bands are not 1 … 64 bands"),
        ({"bands": [asdict(BANDS[0])] * 2}, "which must differ"),
        ({"bands": [asdict(BANDS[0]), asdict(BANDS[1]) | {"high": -25.0}]}, r"bands\[1\]: its limits are"),
        ({"bands": [asdict(BANDS[0]), asdict(BANDS[1]) | {"high": "5"}]}, r"bands\[1\].high has the wrong type"),
        ({"bands": [asdict(BANDS[0]), asdict(BANDS[1]) | {"more": 1}]}, "unknown keys"),
        ({"bands": [asdict(BANDS[0]), {"name": "VV"}]}, "missing"),
    ],
)
def test_bands_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        parse_manifest(of_bands(**changes))


def test_networks_that_watched_have_names() -> None:
    seen = {"watchers": [{"name": "hf:eyes", "weights_sha256": "0" * 64}, {"name": "swimdiff:own"}]}
    assert parse_manifest(changed(("training",), seen)).watchers == ("hf:eyes", "swimdiff:own")
    assert MANIFEST.watchers == ()


@pytest.mark.parametrize("watchers", ["hf:eyes", {"name": "a"}, ["hf:eyes"], [{"name": 1}], [{}], [{"name": "a"}] * 65])
def test_networks_that_watched_in_another_form_are_refused(watchers: object) -> None:
    with pytest.raises(BundleError, match="watchers is no list of at most 64 networks with a name; export the bundle"):
        parse_manifest(changed(("training",), {"watchers": watchers}))


@pytest.mark.parametrize("needed", ["99.0.0", "0.10000.0"])
def test_a_bundle_that_needs_a_newer_runtime_is_refused(needed: str) -> None:
    with pytest.raises(BundleVersionError, match=rf"needs dpd-distill {needed}.*install a newer"):
        parse_manifest(changed(("minimum_runtime",), needed))
    assert parse_manifest(changed(("minimum_runtime",), "0.0.99")).minimum_runtime == "0.0.99"


@pytest.mark.parametrize("version", ["0.3.0rc1", "0.3.0.dev2+g123", "0.3"])
def test_a_version_before_its_release_reads_what_the_release_reads(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpd_runtime.manifest.__version__", version)
    parse_manifest(changed(("minimum_runtime",), "0.2.9"))
    with pytest.raises(BundleVersionError, match=rf"needs dpd-distill 0.3.1, this is {re.escape(version)}"):
        parse_manifest(changed(("minimum_runtime",), "0.3.1"))


CONTENT_RAW = json.dumps(CONTENT).encode()
WRONG: list[tuple[tuple[str | int, ...], object, str]] = [
    (("format",), "zip", "format"),
    (("format_version",), "1", "format_version"),
    (("format_version",), True, "format_version"),
    (("format_version",), 0, "format_version"),
    (("format_version",), 1.0, "format_version"),
    (("minimum_runtime",), 1, "minimum_runtime"),
    (("minimum_runtime",), "soon", "minimum_runtime"),
    (("name",), 5, "name"),
    (("opset",), "18", "opset"),
    (("opset",), True, "opset"),
    (("scaling_factor",), "0.5", "scaling_factor"),
    (("scaling_factor",), True, "scaling_factor"),
    (("scaling_factor",), 0, "scaling_factor"),
    (("scaling_factor",), -1.0, "scaling_factor"),
    (("image_shape",), [16, 24], "image_shape"),
    (("image_shape",), [16, 24, 4], "image_shape"),
    (("image_shape",), [16, 0, 3], "image_shape"),
    (("image_shape",), [16, 24.0, 3], "image_shape"),
    (("image_shape",), [10**9, 24, 3], "image_shape"),
    (("latent_shape",), "4 2 3", "latent_shape"),
    (("latent_shape",), [True, 2, 3], "latent_shape"),
    (("files",), [], "files"),
    (("files", "a/b.bin"), "0" * 64, r"a/b\.bin"),
    (("files", "a/b.bin", "sha256"), "0" * 63, r"a/b\.bin"),
    (("files", "a/b.bin", "sha256"), "A" * 64, r"a/b\.bin"),
    (("files", "a/b.bin", "sha256"), "0" * 64 + "\n", r"a/b\.bin"),
    (("files", "a/b.bin", "bytes"), -1, r"a/b\.bin"),
    (("files", "a/b.bin", "bytes"), 1.5, r"a/b\.bin"),
    (("files", "a/b.bin", "more"), 1, "unknown keys"),
    (("surprise",), 1, "unknown keys.*surprise"),
    (("tools",), [], "tools"),
    (("parity",), 3, "parity"),
    (("sampler",), None, "sampler"),
    (("image_shape",), [8192, 8192, 3], "image_shape"),
    (("latent_shape",), [2048, 2048, 2048], "latent_shape"),
    (("name",), "\x1b[2Jtiny", "cannot be printed"),
    (("licences",), {"data": "a\nb"}, "cannot be printed"),
    (("licences",), {"data": 3}, "licences has values that are not texts"),
    (("data",), {"x": [{"\u202e": 1}]}, "cannot be printed"),
    (("data",), [[]] * 3, "data"),
    (("sampler", "compute_batch"), 1025, "compute_batch"),
    (("sampler", "steps"), 0, "steps"),
    (("sampler", "steps"), 1001, "steps"),
    (("sampler", "steps"), 5.0, "steps"),
    (("sampler", "candidates"), 65, "candidates"),
    (("sampler", "compute_batch"), 0, "compute_batch"),
    (("sampler", "solver"), 3, "solver"),
    (("sampler", "eta"), 0.5, "unknown keys.*eta"),
    (("sampler", "guidance"), [], "guidance"),
    (("sampler", "guidance"), [1], "guidance"),
    (("sampler", "guidance"), [{"from_block": block} for block in range(101)], "101 entries, more than 100"),
    (("sampler", "guidance", 1, "from_block"), 10**29, "a block beyond"),
    (("opset",), 10**29, "opset is not"),
    (("sampler", "guidance", 0, "from_block"), 1, "block 0"),
    (("sampler", "guidance", 1, "from_block"), 0, "ascend"),
    (("sampler", "guidance", 1, "from_block"), -3, "ascend"),
    (("sampler", "guidance", 0, "guidance_scale"), 0.5, "guidance_scale"),
    (("sampler", "timestep_power"), 0.9, "timestep_power"),
    (("sampler", "mean_noise_gain"), -1, "mean_noise_gain"),
    (("sampler", "guidance", 0, "prototype_scale"), 1.5, "prototype_scale"),
    (("sampler", "guidance", 0, "prototype_until"), -0.5, "prototype_until"),
    (("sampler", "guidance", 0, "guidance_until"), 1.5, "guidance_until"),
    (("sampler", "guidance", 0, "guidance_until"), -0.1, "ascend"),
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", [("scaling_factor",), ("parity",), ("sampler", "guidance", 0, "guidance_scale")])
def test_what_is_no_number_of_json_is_refused(path: tuple[str | int, ...], value: float) -> None:
    with pytest.raises(BundleError, match=r"^bundle\.json is not valid JSON \((NaN|-?Infinity) is no number of JSON\)"):
        parse_manifest(changed(path, value))


NUMBERS = [
    ("scaling_factor",),
    ("opset",),
    ("parity", "unet"),
    ("sampler", "mean_noise_gain"),
    ("sampler", "guidance", 1, "from_block"),
    *(("sampler", "guidance", 0, name) for name in ("guidance_scale", "prototype_until", "guidance_from")),
]


@pytest.mark.parametrize("text", [b"1e999", b"-1e999", b"1e31", b"9" * 400, b"-" + b"9" * 4000])
@pytest.mark.parametrize("path", NUMBERS)
def test_a_number_beyond_float32_is_refused(path: tuple[str | int, ...], text: bytes) -> None:
    """`json` makes infinity of 1e999, and a whole number of any length, which no float holds."""
    with pytest.raises(BundleError, match=rf"^bundle\.json is not valid JSON \({text[:20].decode()} is too large"):
        parse_manifest(changed(path, "@").replace(b'"@"', text))


@pytest.mark.parametrize("path", [path for path in NUMBERS if path[0] != "parity"])
def test_the_largest_number_is_refused_by_name(path: tuple[str | int, ...]) -> None:
    with pytest.raises(BundleError, match=rf"^bundle\.json: .*({path[-1]}|a block beyond)"):
        parse_manifest(changed(path, 10**30 if path[-1] in ("opset", "from_block") else 1e30))


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=lambda v: None if isinstance(v, str) else repr(v))
def test_wrong_values_are_refused_by_name(path: tuple[str | int, ...], value: object, message: str) -> None:
    with pytest.raises(BundleError, match=rf"^bundle\.json: .*{message}") as caught:
        parse_manifest(changed(path, value))
    assert not isinstance(caught.value, BundleVersionError)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", [k for k in CONTENT if k not in ("minimum_runtime", "tools", "licences")])
def test_missing_parts_are_refused(name: str) -> None:
    content = {k: v for k, v in CONTENT.items() if k != name}
    if name in ("data", "training", "parity", "audit"):
        parse_manifest(json.dumps(content).encode())
        return
    with pytest.raises(BundleError, match=rf"{name}|incomplete"):
        parse_manifest(json.dumps(content).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"dpd-bundle"',
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format": "dpd-bundle", "format_version": ' + b"9" * 10_000 + b"}",
        b" " * (8 * 2**20 + 1),
        CONTENT_RAW.replace(b"{", b'{"name": "other", ', 1),
        CONTENT_RAW.replace(b"{", b'{"data": ' + b"[" * 40 + b"]" * 40 + b", ", 1),
    ],
    ids=lambda raw: f"{raw[:12]!r} {len(raw)}",
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(raw)


def test_parse_sampler_alone() -> None:
    assert parse_sampler(CONTENT["sampler"]) == MANIFEST.sampler
    with pytest.raises(BundleError, match="incomplete"):
        parse_sampler([])


def parse_or_refuse(raw: bytes) -> None:
    try:
        manifest = parse_manifest(raw)
    except BundleError:
        return
    assert parse_manifest(manifest.to_json()) == manifest


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
@example(b"\x00\x00\x00{")
def test_random_bytes_raise_only_our_error(raw: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(raw)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=8), st.just("\ud800")
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(content: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items: list[tuple[str | int, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    return [(*at, key) for key, _ in items] + [p for key, value in items for p in places(value, (*at, key))]


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(places(CONTENT)), value=JSON)
@example(path=("scaling_factor",), value=10**400)
@example(path=("sampler", "guidance", 0, "guidance_scale"), value=10**400)
def test_any_json_in_any_place_raises_only_our_error(path: tuple[str | int, ...], value: object) -> None:
    parse_or_refuse(changed(path, value))


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(MANIFEST.to_json()) - 1), byte=st.integers(0, 255))
def test_any_byte_in_any_position_raises_only_our_error(position: int, byte: int) -> None:
    raw = bytearray(MANIFEST.to_json())
    raw[position] = byte
    parse_or_refuse(bytes(raw))
