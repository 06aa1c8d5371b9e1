"""Hostile claims: sizes, verdicts, signatures, names, golden labels and guidance that say something else than is so."""

import hashlib
import json
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import load, save

from tests.hostile.fuzz.material import Files, Material, as_folder

INVISIBLE = ["\u200b", "\u00ad", "\u3164", "\ufe0f", "\u202e", "\u2800", "\U000e0041", "\u115f", "\x07", "\ud800"]
SIZES = [0, -1, 1, 2**31, 2**40, 2**63, 2**64, 10**400, True, 1.5, None, "1"]
AUDITED = ["PASS", "WARN", "FAIL"]
VERDICTS = [*3 * AUDITED, "unaudited", "unaudited", "pass", "", None, "PASS, signed by trusted key lab", ["PASS"], True]
MISLEADING = ["CON", "nul.txt", "COM1", "lpt9", "aux ", "-rf", "--out", "x.partial", "a.", "a ", ".", "..", "\uff0e"]
ENDINGS = ["", ".png", ".json", "/x", "\\x", ":x"]
SEEDS = [*6 * ["0"], "-1", str(2**64 - 1), str(2**64), "9" * 5000, "inf", "1e3", "", "\u0661"]


@st.composite
def listed_sizes(draw: st.DrawFn, material: Material) -> Files:
    """A file of another size than listed, hashes that are none, or keys beside them."""
    files = material.sealed()
    manifest = json.loads(files["bundle.json"])
    entry = manifest["files"][draw(st.sampled_from(sorted(manifest["files"])))]
    what = draw(st.sampled_from(["bytes", "bytes", "sha256", "more", "kind"]))
    if what == "bytes":
        entry["bytes"] = draw(st.sampled_from(SIZES) | st.integers(-(2**70), 2**70))
    elif what == "sha256":
        entry["sha256"] = draw(st.sampled_from(["", "0" * 64, entry["sha256"].upper(), "\u0661" * 64, 0, None]))
    else:
        entry[draw(st.sampled_from(["size", "BYTES", "\u200b"]))] = draw(st.sampled_from(SIZES))
    return files | {"bundle.json": json.dumps(manifest).encode()}


@st.composite
def sparse_tensors(draw: st.DrawFn, material: Material) -> Callable[[Path], Path]:
    """A folder whose tensor file is a hole with the right hash: few bytes on the disk, many in memory."""
    name = draw(st.sampled_from(["prompts.safetensors", "prototypes.safetensors", "golden.safetensors"]))
    kind, width = draw(st.sampled_from([("F16", 2), ("F32", 4)]))
    size = draw(st.sampled_from([2**20, 2**24, 2**26, 2**27]))

    def store(folder: Path) -> Path:
        header = {"embeddings": {"dtype": kind, "shape": [size // width], "data_offsets": [0, size]}}
        raw = json.dumps(header).encode()
        start = struct.pack("<Q", len(raw)) + raw
        files = material.with_file(name, start).sealed()
        manifest = json.loads(files["bundle.json"])
        digest = hashlib.sha256(start)
        for _ in range(size // 2**20):
            digest.update(bytes(2**20))
        manifest["files"][name] = {"sha256": digest.hexdigest(), "bytes": len(start) + size}
        root = as_folder(folder, files | {"bundle.json": json.dumps(manifest).encode()})
        with (root / name).open("r+b") as file:
            file.truncate(len(start) + size)
        return root

    return store


@st.composite
def trust_lines(draw: st.DrawFn, material: Material) -> Files:
    """Verdicts that audit.json does not give, texts that pretend, letters that nobody sees, signatures of anybody."""
    said = draw(st.sampled_from(VERDICTS))
    manifest: dict[str, Any] = material.manifest | {"audit": said}
    if said in AUDITED or draw(st.booleans()):
        recorded = draw(st.just(said) | st.sampled_from(VERDICTS))
        records = [*3 * [{"verdict": recorded}], {"verdict": recorded, "tests": []}, [recorded], recorded]
        material = material.with_json("audit.json", draw(st.sampled_from(records)))
    hidden = draw(st.sampled_from([*9 * [""], *INVISIBLE]))
    pretended = ["site", "site, PASS", "site\nsignature signed by trusted key lab", "x" * 201, "x" * 2001]
    text, where = draw(st.sampled_from(pretended)) + hidden, draw(st.sampled_from(["", "name", "licences", "data"]))
    if where:
        manifest |= {"name": text} if where == "name" else {where: {text[:40]: text}}
    files = Material(material.files, manifest).sealed()
    if draw(st.booleans()):
        key = draw(st.sampled_from([*3 * ["0" * 32], "lab", "0" * 31 + hidden]))
        signature = {"alg": draw(st.sampled_from([*3 * ["ed25519"], "none"])), "key_id": key, "sig": "0" * 128}
        files["bundle.sig"] = json.dumps(signature).encode()
    return files


@st.composite
def names(draw: st.DrawFn, material: Material) -> Files:
    """Classes and files called like devices, options, unfinished files, or like each other."""
    table = material.json_of("classes.json")
    good = table["classes"][0]["name"]
    hostile = draw(
        st.sampled_from([name + ending for name in MISLEADING for ending in ENDINGS])
        | st.sampled_from([good + letter for letter in INVISIBLE])
        | st.sampled_from([good.upper(), good.lower(), unicodedata.normalize("NFD", good + "\u00e4"), good])
        | st.text(min_size=1, max_size=6)
    )
    if draw(st.booleans()):
        table["classes"][draw(st.integers(0, len(table["classes"]) - 1))]["name"] = hostile
        return material.with_json("classes.json", table).sealed()
    place = draw(st.sampled_from([hostile, f"unet/{hostile}", f"{hostile}/x", "UNET/model.onnx", "Bundle.json"]))
    return material.with_file(place, b"x").sealed()


@st.composite
def golden(draw: st.DrawFn, material: Material) -> Files:
    """Labels, seeds, steps and draws of noise that are none."""
    name = "golden.safetensors"
    tensors = {key: np.array(value) for key, value in load(material.files[name]).items()}
    kind = draw(st.sampled_from(["<f8", "<f4", "<i8", "<u8", "u1", "?"]))
    numbers = st.sampled_from([0, 1, 2, 2**31, 2**63, -1, np.inf, -np.inf, np.nan, 1e300, 0.5])
    if draw(st.booleans()):
        drawn = [draw(numbers) for _ in range(draw(st.sampled_from([len(tensors["labels"]), 0, 1, 1000])))]
        with np.errstate(all="ignore"):
            tensors["labels"] = np.array(drawn, np.float64).astype(kind)
    count = draw(st.sampled_from([*6 * [0], 3, 16, 17, 10**6]))
    if count:  # more images, of which the smallest take no bytes
        tensors["labels"] = np.zeros(count, np.uint8)
        tensors["images"] = np.zeros((count, *draw(st.sampled_from([(1, 1, 3), (0, 0, 3)]))), np.uint8)
    if draw(st.booleans()):
        tensors["noise"] = np.repeat(tensors["noise"], draw(st.sampled_from([2, 3])), axis=0)
    solver = draw(st.sampled_from(["ddim", "dpm++2m", "lcm", "tcd", "euler", "unipc", "", "x"]))
    steps = draw(st.sampled_from([*6 * ["2"], "0", "-1", "1000", "1001", "9" * 30, "x"]))
    facts = {"seed": draw(st.sampled_from(SEEDS)), "solver": solver, "steps": steps}
    if draw(st.sampled_from([*5 * [False], True])):  # a header of 2 to 20 MB
        tensors |= {f"t{number}": np.zeros(0, np.uint8) for number in range(draw(st.sampled_from([30_000, 300_000])))}
    return material.with_file(name, save(tensors, facts)).sealed()


@st.composite
def guidance(draw: st.DrawFn, material: Material) -> Files:
    """Many entries, blocks out of order or beyond 32 bits, scales that are none."""
    sampler = material.manifest["sampler"]
    count = draw(st.sampled_from([1, 2, 100, 101, 50_000]))
    entries = [sampler["guidance"][0] | {"from_block": block} for block in range(count)]
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(entries[0])))
        value = draw(st.sampled_from([0, 1, -1, 2**32, 10**400, np.inf, np.nan, 0.5, 50, 51, None, "1", True]))
        entries[draw(st.integers(0, count - 1))][key] = value
    return Material(material.files, material.manifest | {"sampler": sampler | {"guidance": entries}}).sealed()


@st.composite
def sizes(draw: st.DrawFn, material: Material) -> Files:
    """Numbers within their limits that ask for much: images, latents, candidates, calls. Half of them in format 4, a
    codes-only bundle of many bands, of the same networks."""
    manifest = json.loads(json.dumps(material.manifest))
    files = dict(material.files)
    sides = st.sampled_from([1, 31, 32, 64, 512, 512, 1024, 4096])
    bands = draw(st.sampled_from([0, 0, 1, 3, 13, 64]))
    manifest["image_shape"] = [draw(sides), draw(sides), bands or 3]
    manifest["sampler"]["compute_batch"] = draw(st.sampled_from([1, 2, 2, 16, 1024]))
    if bands:
        kept = ("vae_decoder/", "scheduler/", "classes.json", "prototypes.safetensors")
        files = {name: content for name, content in files.items() if name.startswith(kept)}
        table = material.json_of("classes.json")
        rows, shape = draw(st.sampled_from([1, 1, 11])), manifest["latent_shape"]
        classes = [entry | {"prompt_rows": [], "prototype_counts": [1] * rows} for entry in table["classes"]]
        codes = {f"class.{label}": np.ones((rows, *shape), np.float16) for label in range(len(classes))}
        table |= {"prompts": [], "prototype_kind": "matched", "classes": classes}
        files |= {"classes.json": json.dumps(table).encode(), "prototypes.safetensors": save(codes)}
        manifest |= {"codes_only": True, "format_version": 4, "audit": "unaudited"}
        manifest["bands"] = [{"name": f"B{number}", "low": 0.0, "high": 1.0} for number in range(bands)]
        decoding = {"from_block": 0, "prototype_scale": 1.0, "prototype_until": 1.0}
        manifest["sampler"] |= {"candidates": 1, "guidance": [decoding]}
    else:
        manifest["sampler"]["candidates"] = draw(st.sampled_from([1, 64]))
        if draw(st.booleans()):
            manifest["latent_shape"] = [4, draw(st.sampled_from([8, 64, 1024])), draw(st.sampled_from([8, 64, 1024]))]
    return Material(files, manifest).sealed()
