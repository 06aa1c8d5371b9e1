"""Hostile containers: what a zip or a folder can be beside a bundle."""

import json
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from tests.hostile.fuzz.material import Files, Material, as_folder, as_zip

Store = Callable[[Path], Path]
NAMES = [
    "../outside",
    "/tmp/outside",
    "a\\b",
    "C:/x",
    "unet/../x",
    "x/",
    "\x1b[2J",
    "\u202ex",
    "a" * 300,
    "x",
    "bundle.sig",
]
NUMBERS = [0, 1, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


@st.composite
def zip_bytes(draw: st.DrawFn, material: Material) -> Store:
    """Numbers overwritten, most of them in the central directory; or the file cut short or longer."""
    edits = draw(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from(NUMBERS)), min_size=1, max_size=4))
    cut, tail = draw(st.none() | st.floats(0, 1)), draw(st.sampled_from([b"", b"x", b"PK\x05\x06" + bytes(18)]))

    def store(folder: Path) -> Path:
        path = as_zip(folder, material.sealed())
        raw = bytearray(path.read_bytes())
        for where, late, value in edits:
            start = raw.rindex(b"PK\x01\x02") - 1500 if late else 0
            struct.pack_into("<I", raw, start + int(where * (len(raw) - 4 - start)), value)
        path.write_bytes((raw if cut is None else raw[: int(cut * len(raw))]) + tail)
        return path

    return store


@st.composite
def zip_entries(draw: st.DrawFn, material: Material) -> Store:
    """Entries too many, twice, compressed, of link mode, with names that lead elsewhere; listed or not."""
    name, listed = draw(st.sampled_from([*NAMES, *material.files])), draw(st.booleans())
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
    mode = draw(st.sampled_from([0o644, stat.S_IFLNK | 0o777, stat.S_IFREG | 0o600, stat.S_IFIFO, stat.S_IFDIR]))
    content = draw(st.sampled_from([b"", b"/etc/passwd", bytes(10**6)]))

    def store(folder: Path) -> Path:
        files = material.with_file(name, content).sealed() if listed else material.sealed()
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(folder / "hostile.dpd", "w") as archive:
            for entry, data in [*files.items(), *([] if listed else [(name, content)])]:
                info = zipfile.ZipInfo(entry, (1980, 1, 1, 0, 0, 0))
                info.external_attr = (mode if entry == name else 0o644) << 16
                archive.writestr(info, data, method if entry == name else zipfile.ZIP_STORED)
        return folder / "hostile.dpd"

    return store


def inserted(raw: bytes, at: int, hidden: bytes) -> bytes:
    """A zip with bytes before offset `at`, whose directory says so."""
    whole, end = bytearray(raw), raw.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", raw, end + 12)
    record = start
    while record < start + size:
        offset = struct.unpack_from("<I", raw, record + 42)[0]
        struct.pack_into("<I", whole, record + 42, offset + len(hidden) * (offset >= at))
        record += 46 + sum(struct.unpack_from("<3H", raw, record + 28))
    struct.pack_into("<I", whole, end + 16, start + len(hidden))
    return bytes(whole[:at] + hidden + whole[at:])


@st.composite
def hiding(draw: st.DrawFn, material: Material) -> Store:
    """Bytes before, between and behind entries, in extra fields and comments, and flags that readers ignore."""
    where, hidden = draw(st.integers(0, 99)), draw(st.binary(min_size=1, max_size=64))
    kind = draw(st.sampled_from(["before", "unmentioned", "gap", "directory", "flags", "extra", "comment", "count"]))
    bits = draw(st.integers(1, 0xFFFF))

    def store(folder: Path) -> Path:
        path = as_zip(folder, material.sealed())
        raw = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            infos, directory = sorted(archive.infolist(), key=lambda info: info.header_offset), archive.start_dir
        chosen = infos[where % len(infos)]
        if kind in ("extra", "comment"):
            setattr(chosen, kind, struct.pack("<HH", bits, len(hidden)) + hidden)
            with zipfile.ZipFile(path, "w") as archive:
                for info in infos:
                    archive.writestr(info, material.sealed()[info.filename])
            return path
        whole = bytearray(raw)
        if kind == "flags":
            struct.pack_into("<H", whole, chosen.header_offset + 6, bits)
            record = raw.rindex(chosen.filename.encode(), 0) - 46
            struct.pack_into("<H", whole, record + 8, bits)
        elif kind == "count":
            struct.pack_into("<HH", whole, raw.rindex(b"PK\x05\x06") + 8, bits, bits)
        places = {"before": 0, "gap": chosen.header_offset, "directory": directory}
        changed = inserted(raw, places[kind], hidden) if kind in places else bytes(whole)
        path.write_bytes(hidden + raw if kind == "unmentioned" else changed)
        return path

    return store


@st.composite
def overlapping(draw: st.DrawFn, material: Material) -> Store:
    """Central directory entries that point into each other's bytes: little file, much content."""
    copies, shared = draw(st.integers(2, 300)), draw(st.booleans())

    def store(folder: Path) -> Path:
        path = as_zip(folder, material.sealed())
        raw = path.read_bytes()
        at = raw.rindex(b"PK\x05\x06")
        size, start = struct.unpack_from("<II", raw, at + 12)
        record = raw[start : start + 46 + struct.unpack_from("<H", raw, start + 28)[0]]
        more = [record[:46] + (b"%08d" % i).ljust(len(record) - 46, b"x") for i in range(copies)]
        directory = raw[start : start + size] + b"".join([record] * copies if shared else more)
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, copies, copies, len(directory), start, 0)
        path.write_bytes(raw[:start] + directory + end)
        return path

    return store


@st.composite
def folders(draw: st.DrawFn, material: Material) -> Store:
    """Links, pipes, sparse giants, depth and strangers in a folder."""
    kind = draw(st.sampled_from(["link", "folder link", "pipe", "sparse", "sparse manifest", "deep", "extra", "none"]))
    name = draw(st.sampled_from(sorted(material.files)))
    size = draw(st.sampled_from([2**33, 2**40, 2**50]))

    def store(folder: Path) -> Path:
        files: Files = material.sealed()
        if kind == "sparse":  # and the manifest says so
            manifest = json.loads(files["bundle.json"])
            manifest["files"][name]["bytes"] = size
            files["bundle.json"] = json.dumps(manifest).encode()
        root = as_folder(folder, files)
        if kind in ("link", "pipe"):
            (root / name).unlink()
        if kind == "link":
            (root / name).symlink_to("/etc/passwd")
        elif kind == "folder link":
            (root / "more").symlink_to("/etc")
        elif kind == "pipe":
            os.mkfifo(root / name)
        elif kind.startswith("sparse"):
            with (root / ("bundle.json" if kind == "sparse manifest" else name)).open("r+b") as file:
                file.truncate(min(size, 2**43))
        elif kind == "deep":
            (root / "/".join(["d"] * 200)).mkdir(parents=True)
        elif kind == "extra":
            (root / "stranger").write_bytes(b"x")
        return root

    return store
