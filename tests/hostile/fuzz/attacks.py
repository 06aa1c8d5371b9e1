"""The attacks of the security review, each against the command in a process of its own → a table, and JSON.

    python -m tests.hostile.fuzz.attacks --bundle tiny.dpd --out recipes/results/attacks.json

Each must end with the exit code that it expects, in one line, in less than LONGEST seconds of CPU time and MOST MB, and
with nothing written outside --out. An interrupt is timed from the signal on.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import load, save

from dpd_runtime.age import MAGIC, write_age_pair
from dpd_runtime.versions import versions
from tests.hostile.fuzz.archive_mutations import inserted
from tests.hostile.fuzz.graph_mutations import POLYGLOTS, before_the_output
from tests.hostile.fuzz.material import Material, as_folder, as_zip, read_material
from tests.hostile.fuzz.wire import WIDE, appended, field, varint
from tests.hostile.test_budget import of_bands, padded
from tests.unit.runtime.test_interrupt import children, slow_bundle, wait_until_busy

LONGEST, MOST = 2.0, 500
UNET, GOLDEN = "unet/model.onnx", "golden.safetensors"
Nodes = list[tuple[str, list[str], list[str], dict[str, Any]]]
"""Operator, inputs, outputs and attributes of each."""
HIDDEN = b"#!/bin/sh\nexec evil\n"


@dataclass(frozen=True)
class Attack:
    """make: writes the hostile files into a folder and gives the command's words. sent: a signal, once it computes."""

    item: int
    name: str
    make: Callable[[Material, Path], list[str]]
    code: int = 3
    sent: signal.Signals | None = None


def _generate(path: Path, *more: str) -> list[str]:
    return ["generate", str(path), "--out", str(path.parent / "out"), "--ipc", "1", "--steps", "1", *more]


def graph(item: int, name: str, change: Callable[[bytes], bytes]) -> Attack:
    def make(material: Material, folder: Path) -> list[str]:
        return _generate(as_zip(folder, material.with_file(UNET, change(material.files[UNET])).sealed()))

    return Attack(item, name, make)


def manifest(item: int, name: str, changes: Callable[[dict[str, Any]], dict[str, Any]]) -> Attack:
    def make(material: Material, folder: Path) -> list[str]:
        changed = Material(material.files, material.manifest | changes(material.manifest))
        return ["verify", str(as_zip(folder, changed.sealed()))]

    return Attack(item, name, make)


def with_files(item: int, name: str, change: Callable[[Material], Material]) -> Attack:
    return Attack(item, name, lambda material, folder: ["verify", str(as_zip(folder, change(material).sealed()))])


def zipped(name: str, change: Callable[[bytes], bytes]) -> Attack:
    def make(material: Material, folder: Path) -> list[str]:
        path = as_zip(folder, material.sealed())
        path.write_bytes(change(path.read_bytes()))
        return _generate(path)

    return Attack(9, name, make)


def planted(name: str, place: str, kind: str = "link") -> Attack:
    """Something below --out that leads to `victim` beside it."""

    def make(material: Material, folder: Path) -> list[str]:
        path = folder / "out" / place.format(material.json_of("classes.json")["classes"][0]["name"])
        path.parent.mkdir()
        (folder / "victim").write_text("untouched")
        if kind == "link":
            path.symlink_to(folder / "victim")
        else:
            os.mkfifo(path)
        return _generate(as_zip(folder, material.sealed()))

    return Attack(3, name, make, code=2)


def plain(item: int, name: str, *options: str, code: int = 2) -> Attack:
    return Attack(
        item, name, lambda material, folder: _generate(as_zip(folder, material.sealed()), *options), code=code
    )


def sparse(material: Material, folder: Path, name: str, size: int) -> list[str]:
    files = material.sealed()
    content = json.loads(files["bundle.json"])
    content["files"][name]["bytes"] = size
    root = as_folder(folder, files | {"bundle.json": json.dumps(content).encode()})
    with (root / name).open("r+b") as file:
        file.truncate(size)
    return _generate(root)


def sparse_encrypted(material: Material, folder: Path) -> list[str]:
    with (folder / "site.dpde").open("wb") as file:
        file.write(b"DPDENC\1\0" + bytes(80))
        file.truncate(2**33)
    (folder / "words").write_text("secret words\n")
    return _generate(folder / "site.dpde", "--key", str(folder / "words"))


def of_age(recipients: int, size: int) -> Callable[[Material, Path], list[str]]:
    """A file of age for nobody, with so many recipients of the shortest kind and of a size that takes no room."""

    def make(material: Material, folder: Path) -> list[str]:
        secret, _ = write_age_pair(folder / "site")
        with (folder / "site.age").open("wb") as file:
            file.write(MAGIC + b"-> a\n\n" * recipients + b"--- " + b"A" * 43 + b"\n" + bytes(16))
            file.truncate(size)
        return _generate(folder / "site.age", "--key", str(secret))

    return make


def golden(material: Material, **changes: Any) -> Material:
    facts = {"seed": "0", "solver": "ddim", "steps": "2"} | {k: v for k, v in changes.items() if isinstance(v, str)}
    tensors = load(material.files[GOLDEN]) | {k: v for k, v in changes.items() if not isinstance(v, str)}
    return material.with_file(GOLDEN, save(tensors, facts))


def classes(name: str, second: str | None = None) -> Callable[[Material], Material]:
    def change(material: Material) -> Material:
        table = material.json_of("classes.json")
        for place, called in enumerate((name, second)):
            if called is not None:
                table["classes"][place]["name"] = called
        return material.with_json("classes.json", table)

    return change


def flagged(raw: bytes) -> bytes:
    whole = bytearray(raw)
    struct.pack_into("<H", whole, 6, 8)
    struct.pack_into("<H", whole, raw.index(b"PK\x01\x02") + 8, 8)
    return bytes(whole)


def slow(side: int, products: int, at_load: bool = False) -> Callable[[Material, Path], list[str]]:
    def make(material: Material, folder: Path) -> list[str]:
        bundle = slow_bundle(folder, side, products, at_load=at_load)
        return ["generate", str(bundle), "--out", str(folder / "out"), "--provider", "cpu"]

    return make


def hostile(item: int, name: str, nodes: Nodes, constants: dict[str, Any], *options: str, code: int = 3) -> Attack:
    """Nodes from `before` to `after` in the way of the UNet's output."""

    def make(material: Material, folder: Path) -> list[str]:
        model = onnx.load_model_from_string(material.files[UNET])
        tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        made = [helper.make_node(operator, before, after, **more) for operator, before, after, more in nodes]
        before_the_output(model.graph, made, tensors)
        changed = material.with_file(UNET, model.SerializeToString())
        return _generate(as_zip(folder, changed.sealed()), *options)

    return Attack(item, name, make, code=code)


MEAN: Nodes = [("ReduceMean", ["before"], ["m"], {"keepdims": 0}), ("Expand", ["m", "sizes"], ["data"], {})]
ADDED: Nodes = [("ReduceMean", ["found"], ["f"], {"keepdims": 0}), ("Add", ["before", "f"], ["after"], {})]
SCATTER: Nodes = [*MEAN, ("ScatterElements", ["data", "i", "u"], ["found"], {"axis": 1}), *ADDED]
SCATTERED = {"sizes": np.array([1, 1024]), "i": np.arange(16_384)[None], "u": np.full((1, 16_384), 7, np.float32)}
WILD_GATHER: Nodes = [*MEAN, ("GatherND", ["data", "i"], ["found"], {}), *ADDED]
GATHERED = {"sizes": np.array([1024]), "i": np.array([[2**20], [-(2**20)]])}
LEAST = {"a": np.array([-(2**31)], np.int32), "b": np.array([-1], np.int32)}
DIVIDED: Nodes = [
    ("Div", ["a", "b"], ["q"], {}),
    ("Cast", ["q"], ["f"], {"to": 1}),
    ("Add", ["before", "f"], ["after"], {}),
]
FOLDED: Nodes = [("Expand", ["one", "sizes"], ["found"], {}), *ADDED]


def strings(material: Material, folder: Path) -> list[str]:
    """400 MB of empty strings, of which each takes 32 bytes of memory: all of them are one constant of the graph."""
    tensor = field(8, b"t") + varint(2 << 3) + varint(8) + varint(6 << 3 | 2) + b"\0"
    tensor += (varint(6 << 3 | 2) + b"\0") * (200 * 10**6)
    changed = material.with_file(UNET, appended(material.files[UNET], (7,), field(5, tensor)))
    return _generate(as_zip(folder, changed.sealed()))


def planted_run(material: Material, folder: Path) -> list[str]:
    """A run folder that was made elsewhere, with a place of its own for the bundle."""
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.txt").write_text("years of work")
    (folder / "site-run").mkdir()
    asked = {"data": str(folder), "out": str(folder / "thesis")}
    names = ("", "matching_", "teacher_", "latent_classifier_", "perceptual_", "vae_")
    steps = dict.fromkeys((f"{name}steps" for name in names), 1) | {"pairs": 2, "seconds": {}}
    plan = {"threads": 1, "images": 1, "classes": 1, "judged_ipc": 1, "notes": [], "plan": steps, "folder": None}
    plan |= {"ipc": 1, "codes_only": False}
    (folder / "site-run" / "plan.json").write_text(json.dumps(plan | {"asked": asked}))
    return ["distill", "--resume", "--out", str(folder / "site.dpd")]


def pipe_in_a_folder(material: Material, folder: Path) -> list[str]:
    root = as_folder(folder, material.sealed())
    os.mkfifo(root / "unet" / "pipe")
    return ["verify", str(root)]


def many_bands(material: Material, folder: Path) -> list[str]:
    """Images of 64 bands, each 67 MB as floats, from 4 kB of graph: another bundle, in format 4."""
    path = as_zip(folder, of_bands(64, 512, 8).sealed())
    return ["generate", str(path), "--out", str(folder / "out"), "--ipc", "1"]


def golden_header(material: Material) -> Material:
    return material.with_file(GOLDEN, padded(material.files[GOLDEN], 20 * 2**20))


def golden_images(material: Material) -> Material:
    return golden(material, images=np.zeros((10**6, 1, 1, 3), np.uint8), labels=np.zeros(10**6, np.uint8))


def claiming(**noise: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    claim = {"epsilon": 1.0, "delta": 1e-5, "unit": "one image", "mechanism": "none", "noise_multipliers": noise}
    return lambda _: {"privacy": claim, "codes_only": True, "format_version": 3}


ATTACKS = [
    graph(1, "operator in a wide field", lambda raw: appended(raw, (7, 1), field(4 + WIDE, b"RandomUniformLike"))),
    graph(1, "loop in a wide field", lambda raw: appended(raw, (7, 1), field(4 + WIDE, b"Loop"))),
    graph(1, "domain in a wide field", lambda raw: appended(raw, (7, 1), field(7 + WIDE, b"com.microsoft"))),
    graph(1, "tag of six bytes", lambda raw: appended(raw, (7, 1), field(4, b"Neg", tag_length=6))),
    graph(1, "size of ten bytes", lambda raw: appended(raw, (7, 1), field(4, b"Neg", size_length=10))),
    graph(1, "long number", lambda raw: appended(raw, (), varint(1 << 3) + varint(8, 9))),
    graph(1, "field 0", lambda raw: appended(raw, (7,), field(0, b"x"))),
    graph(2, "polyglot in good protobuf", lambda raw: POLYGLOTS[0] + raw),
    graph(2, "polyglot as FlatBuffer", lambda raw: POLYGLOTS[1] + raw),
    planted("link as lock", ".lock-0-of-1"),
    planted("link as partial file", "dataset.json.partial"),
    planted("link as class folder", "{}"),
    planted("pipe as state", ".dpd-state.jsonl", "pipe"),
    manifest(5, "40,000 keys", lambda _: {"data": {f"k{i}": 0 for i in range(40_000)}}),
    manifest(5, "80 levels", lambda _: {"training": {"x": json.loads("[" * 80 + "]" * 80)}}),
    manifest(5, "9 MiB of text", lambda _: {"data": {"x": "x" * 9 * 2**20}}),
    graph(5, "500 KB of dimensions", lambda raw: appended(raw, (7, 5), field(1, b"\x7f" * 500_000))),
    Attack(6, "sparse file of 2.8 GB", lambda material, folder: sparse(material, folder, UNET, 2_800_000_000)),
    Attack(6, "sparse terabyte", lambda material, folder: sparse(material, folder, "prompts.safetensors", 2**40)),
    Attack(6, "sparse encrypted file", sparse_encrypted),
    Attack(6, "sparse file of age", of_age(1, 2**33)),
    Attack(6, "file of age for ten thousand recipients", of_age(10_000, 2**17)),
    manifest(7, "audit as free text", lambda _: {"audit": "PASS, signed by trusted key lab"}),
    manifest(7, "audit without audit.json", lambda _: {"audit": "PASS"}),
    with_files(7, "audit.json contradicts", lambda material: material.with_json("audit.json", {"verdict": "PASS"})),
    manifest(7, "invisible letter in the name", lambda _: {"name": "site\u200b"}),
    manifest(7, "name of 201 letters", lambda _: {"name": "x" * 201}),
    manifest(7, "line break in a licence", lambda _: {"licences": {"data": "CC0\nsignature  signed by trusted key"}}),
    Attack(8, "Ctrl-C in many operators", slow(1024, 2_000), 130, signal.SIGINT),
    Attack(8, "Ctrl-C in one operator", slow(3_800, 1), 130, signal.SIGINT),
    Attack(8, "SIGTERM while a graph is loaded", slow(3_000, 40, True), 130, signal.SIGTERM),
    zipped("bytes before, with true offsets", lambda raw: inserted(raw, 0, HIDDEN)),
    zipped("bytes before, unmentioned", lambda raw: HIDDEN + raw),
    zipped("bytes between entries", lambda raw: inserted(raw, raw.index(b"PK\x03\x04", 4), HIDDEN)),
    zipped("bytes before the directory", lambda raw: inserted(raw, raw.index(b"PK\x01\x02"), HIDDEN)),
    zipped("bytes behind the directory", lambda raw: raw + HIDDEN),
    zipped("unknown flag", flagged),
    plain(10, "--require-encrypted", "--require", "encrypted", code=3),
    with_files(10, "class CON", classes("CON")),
    with_files(10, "class x.partial", classes("x.partial")),
    with_files(10, "class -rf", classes("-rf")),
    with_files(10, "class with an invisible letter", classes("Forest\u3164")),
    with_files(10, "classes equal after case folding", classes("Strasse", "stra\u00dfe")),
    with_files(10, "classes equal after NFC", classes("Gew\u00e4chs", "Gewa\u0308chs")),
    with_files(10, "file nul.json", lambda material: material.with_file("nul.json", b"{}")),
    with_files(10, "files equal after case folding", lambda material: material.with_file("UNET/model.onnx", b"x")),
    with_files(10, "golden label inf", lambda material: golden(material, labels=np.array([0, np.inf]))),
    with_files(10, "golden seed of 65 bits", lambda material: golden(material, seed=str(2**64))),
    with_files(10, "golden seed of 5,000 digits", lambda material: golden(material, seed="9" * 5_000)),
    with_files(10, "a billion golden steps", lambda material: golden(material, steps="1000000000")),
    manifest(
        10,
        "50,000 entries of guidance",
        lambda m: {
            "sampler": m["sampler"]
            | {"guidance": [m["sampler"]["guidance"][0] | {"from_block": i} for i in range(50_000)]}
        },
    ),
    plain(10, "--seed 2**64", "--seed", str(2**64)),
    plain(10, "--seed -1", "--seed", "-1"),
    plain(10, "--ipc 10**18", "--ipc", str(10**18)),
    hostile(11, "61 kB behind a buffer", SCATTER, SCATTERED),
    hostile(11, "the same, for OpenVINO", SCATTER, SCATTERED, "--provider", "openvino", code=5),
    hostile(11, "memory as pixels", WILD_GATHER, GATHERED),
    hostile(11, "the same, for OpenVINO", WILD_GATHER, GATHERED, "--provider", "openvino", code=5),
    plain(11, "any unsigned graph, for OpenVINO", "--provider", "openvino", code=5),
    hostile(11, "TopK", [("TopK", ["before", "k"], ["after", "p"], {})], {"k": np.array([2**40])}),
    hostile(11, "CumSum", [("CumSum", ["before", "k"], ["after"], {})], {"k": np.array(2**40)}),
    hostile(12, "INT_MIN / -1", DIVIDED, LEAST),
    hostile(12, "Mod by 0", [("Mod", *DIVIDED[0][1:]), *DIVIDED[1:]], LEAST | {"b": np.array([0], np.int32)}),
    hostile(
        12, "0 groups", [("ConvTranspose", ["before", "w"], ["after"], {"group": 0})], {"w": np.ones((4, 4, 1, 1))}
    ),
    hostile(12, "0 heads", [("Attention", ["before"] * 3, ["after"], {"q_num_heads": 0, "kv_num_heads": 0})], {}),
    Attack(13, "400 MB of strings", strings),
    hostile(13, "cast to strings", [("Cast", ["before"], ["t"], {"to": 8}), ("Cast", ["t"], ["after"], {"to": 1})], {}),
    hostile(13, "folded terabytes", FOLDED, {"one": np.float32(1), "sizes": np.array([2**20, 2**20])}, code=5),
    Attack(14, "run folder with its own --out", planted_run, code=2),
    Attack(15, "pipe in a bundle folder", pipe_in_a_folder),
    manifest(15, "noise of 1e-200", claiming(sums=1e-200)),
    manifest(15, "noise of 1e200", claiming(sums=1e200)),
    Attack(16, "64 bands × a 67 MB image", many_bands),
    manifest(16, "images of 16 M pixels", lambda m: {"image_shape": [4096, 4096, 3]}),
    with_files(16, "golden header of 20 MB", golden_header),
    with_files(16, "a million golden images", golden_images),
    plain(15, "--require-dp of a claim", "--require", "dp:100", code=3),
    plain(15, "--require-audit of a claim", "--require", "audit", code=3),
]


def run(attack: Attack, material: Material) -> dict[str, Any]:
    """How one attack ended."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = attack.make(material, folder)
        before = {path.relative_to(folder): path.lstat().st_size for path in folder.rglob("*")}
        command = [sys.executable, "-m", "dpd_cli", *words]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path)}
        process = subprocess.Popen(command, env=environment, cwd=name, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if attack.sent is not None:
            wait_until_busy(process, 4)
            process.send_signal(attack.sent)
        begun, peak, usage = time.monotonic(), 0, None
        while usage is None:
            peak = max(peak, sum(map(_peak_mb, [process.pid, *children(process.pid)])))
            pid, status, found = os.wait4(process.pid, os.WNOHANG)
            usage = found if pid else None
            time.sleep(0.005)
            if time.monotonic() - begun > 120:
                process.kill()
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begun
        seconds = wall if attack.sent else usage.ru_utime + usage.ru_stime
        said = process.stderr.read().decode() if process.stderr else ""
        new = {p.relative_to(folder) for p in folder.rglob("*") if p.relative_to(folder) not in before}
        same = all((folder / p).lstat().st_size == size for p, size in before.items())
        outside = [str(path) for path in new if path.parts[0] != "out"]
        good = process.returncode == attack.code and len(said.splitlines()) == 1 and not outside and same
        good = good and seconds < LONGEST and peak < MOST
        shutil.rmtree(folder / "out", ignore_errors=True)
    return {
        "item": attack.item,
        "attack": attack.name,
        "exit_code": process.returncode,
        "cpu_seconds" if attack.sent is None else "seconds_after_signal": round(seconds, 2),
        "wall_seconds": round(wall, 2),
        "peak_mb": peak,
        "said": " ".join(re.sub(r"/\S*/", "", said).split())[:160],
        "good": good,
    }


def _peak_mb(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="A tiny bundle.")
    parser.add_argument("--out", type=Path, default=Path("recipes/results/attacks.json"))
    parser.add_argument("--hardware", default="AMD EPYC, 2 cores, busy")
    options = parser.parse_args()
    material, results = read_material(options.bundle), []
    for attack in ATTACKS:
        found = run(attack, material)
        results.append(found)
        seconds = found.get("cpu_seconds", found.get("seconds_after_signal"))
        print(
            f"{'good' if found['good'] else 'BAD '} {attack.item:>2} {attack.name:<34} exit {found['exit_code']:>3} "
            f"{seconds:5.2f} s {found['peak_mb']:>4} MB  {found['said'][:90]}",
            flush=True,
        )
    content = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": options.hardware,
        "versions": versions(),
        "limits": {"seconds": LONGEST, "peak_mb": MOST},
        "attacks": len(results),
        "good": sum(found["good"] for found in results),
        "results": results,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if content["good"] == len(results) else 1)


if __name__ == "__main__":
    main()
