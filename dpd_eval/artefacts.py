"""Traces of training images in the files of a bundle: text, layout, pictures, latents."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from dpd_eval.verdict import Outcome
from dpd_runtime.annotations import Float32, Images
from dpd_runtime.engine_files import is_engine
from dpd_runtime.errors import BundleError
from dpd_runtime.files import home_folder, parse_json
from dpd_runtime.image_folders import SHEET_NAME
from dpd_runtime.images import SUFFIXES, open_image
from dpd_runtime.sampler import PRIVATE_KINDS
from dpd_runtime.tags import TIFF_STARTS, first_directory
from dpd_runtime.text import counted
from dpd_train.symmetry import ORDER, d4, similarities, unit

# -- What the scan searches for, and what it finds.


@dataclass(frozen=True)
class Artefact:
    """One finding of the scan.

    Args:
        file: in the bundle or set. what: its kind, which may be published. detail: only for the owner of the data.
    """

    file: str
    what: str
    detail: str


@dataclass(frozen=True)
class Traces:
    """The traces that single real images could leave.

    Args:
        names: file names of the real images. roots: their folders.
        images: uint8 [n, H, W, C]. latents: [n, C, h, w], scaled; None without an encoder.
    """

    names: Sequence[str]
    roots: Sequence[Path]
    images: Images
    latents: Float32 | None = None
    scaling_factor: float = 1.0


# -- Find file names of real images and paths of this machine, in texts and in readable parts of binary files.


READABLE = re.compile(rb"[\x20-\x7e]{6,}")
WORD = re.compile(rb"[\w.\-]+")
FOLDERS = "home|Users|root|tmp|var|mnt|media|data|work|scratch|srv|opt|workspace|nfs|gpfs|lustre|Volumes"
# ONNX nodes have names such as /unet/mid_block/…, so only usual top-level folders make an absolute path. A letter, a
# colon and a backslash occur by chance in megabytes of weights, so a Windows path must have at least two names.
PATH = re.compile(
    rf"(?<![\w.])/(?:{FOLDERS})/[\w.\-]+".encode() + rb"|\b[A-Za-z]:\\{1,2}[\w.\- ]{3,}\\{1,2}[\w.\- ]{3,}"
)
OF_A_SET = re.compile(r".+_\d{5}")
TEXTS = (".json", ".jsonl", ".md", ".txt", ".csv")


def find_text(name: str, content: bytes, traces: Traces, *, of_set: bool) -> list[Artefact]:
    """Find file names (or their distinctive stems) of real images, and absolute paths."""
    readable = b"\n".join(READABLE.findall(content))
    words = {word.decode() for word in WORD.findall(readable)}
    words |= {word.strip(".-") for word in words}  # at the end of a sentence
    words |= {PurePosixPath(word).stem for word in words}
    whole = content.decode("utf-8", "ignore") if name.endswith(TEXTS) else readable.decode()
    artefacts = [Artefact(name, "a file name of a real image", known) for known in _known(traces, words, whole, of_set)]
    places = (*(root.resolve() for root in traces.roots), home_folder())
    roots = {str(root) for root in places if root is not None and len(root.parts) > 2}
    paths = {match.decode("utf-8", "replace") for match in PATH.findall(readable)}
    paths |= {root for root in roots if root in whole}
    return artefacts + [Artefact(name, "a path", path) for path in sorted(paths)]


def _known(traces: Traces, words: set[str], whole: str, of_set: bool) -> list[str]:
    names = []
    for full in traces.names:
        base = full.rsplit("/", 1)[-1]
        stem = PurePosixPath(base).stem
        if of_set and OF_A_SET.fullmatch(stem):
            continue  # the set's own file names have this form
        if WORD.fullmatch(base.encode()):
            distinctive = len(stem) >= 6 and any(c.isdigit() for c in stem)
            hit = base in words or (distinctive and stem in words)
        else:
            hit = base in whole or json.dumps(base, allow_nan=False)[1:-1] in whole
        names += [full] if hit else []
    return names


# -- Find files that do not belong in a bundle, and prototypes of a single image.


# The files of a bundle, and the endings of the files in its folders. Only earlier exports have `step`.
FILES = {
    *("bundle.json", "bundle.sig", "audit.json", "classes.json", "model_index.json", "MODEL_CARD.md"),
    *("prompts.safetensors", "prototypes.safetensors", "golden.safetensors"),
}
GRAPHS = ("unet", "vae_decoder", "vae_encoder", "text_encoder", "classifier", "latent_classifier", "step")
ENDINGS: dict[str, tuple[str, ...]] = dict.fromkeys(GRAPHS, (".onnx", ".onnx_data", ".json"))
ENDINGS |= {"tokenizer": (".json", ".txt"), "scheduler": (".json",), "engines": (".json",)}
OF_ONE_IMAGE = {"caption", "captions", "file_name", "filename", "path", "latitude", "longitude"}


def check_layout(files: Mapping[str, bytes]) -> list[Artefact]:
    """Find files that are not part of the format, such as logs, captions and pictures.

    Raises:
        BundleError: JSON that cannot be read, in which anything could be.
    """
    artefacts = []
    for name in files:
        folder, *rest = PurePosixPath(name).parts
        known = name in FILES if not rest else PurePosixPath(name).suffix in ENDINGS.get(folder, ())
        if not (known or is_engine(name)):
            artefacts.append(Artefact(name, "a file that does not belong in a bundle", ""))
        elif name.endswith(".json") and folder != "tokenizer":
            keys = _keys(parse_json(files[name], name))
            artefacts += [Artefact(name, "a field about single images", key) for key in keys & OF_ONE_IMAGE]
    return artefacts


def _keys(value: Any) -> set[str]:
    """All keys of parsed JSON, whose depth is bounded."""
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set().union(*map(_keys, value)) if isinstance(value, list) else set()


def check_table(files: Mapping[str, bytes]) -> list[Artefact]:
    """Find prototypes of a private kind or of a single image."""
    table = parse_json(files["classes.json"], "classes.json")
    artefacts = []
    kind = table.get("prototype_kind")
    if kind in PRIVATE_KINDS or table.get("private"):
        what = PRIVATE_KINDS.get(kind, PRIVATE_KINDS["medoid"])
        artefacts.append(Artefact("prototypes.safetensors", f"{what}, as classes.json says", ""))
    for entry in table["classes"]:
        counts = entry.get("prototype_counts", [])
        if not isinstance(counts, list) or not all(type(count) is int for count in counts):
            raise BundleError(f"classes.json: prototype_counts of {entry['name']} are no whole numbers; export again")
        alone = sum(count < 2 for count in counts)
        if alone:
            artefacts.append(Artefact("classes.json", "a prototype of a single image", f"{alone} of {entry['name']}"))
    return artefacts


# -- Find pictures and their metadata. A bundle has no pictures; those of a set have no EXIF, GPS or text data.


MARKS = {
    b"\xff\xd8\xff\xe0\x00\x10JFIF": "a JPEG picture",
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"WEBPVP8": "a WebP picture",
    b"Exif\x00\x00": "EXIF data",
    b"GPSLatitude": "GPS data",
    b"http://ns.adobe.com/xap/": "XMP data",
}
GPS = 0x8825
TELLING = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0132: "DateTime",
    0x013B: "Artist",
    GPS: "GPS",
}
ON_A_MAP = {33550: "ModelPixelScale", 33922: "ModelTiepoint", 34264: "ModelTransformation", 34735: "GeoKeyDirectory"}
SAMPLE_FORMAT, FLOATS = 339, 3
OF_FORMATS = (
    *(
        "dpi",
        "gamma",
        "compression",
        "jfif",
        "progressive",
        "progression",
        "loop",
        "background",
        "timestamp",
        "duration",
    ),
    *("srgb", "chromaticity", "adobe", "transparency", "interlace"),
)
PLAIN_PROFILE = "sRGB"
"""Name of a colour profile that every writer may add; others may name a camera or a scanner."""


def find_pictures(name: str, content: bytes, *, of_set: bool) -> list[Artefact]:
    """Find metadata in a set's picture; in any other file find pictures and metadata."""
    if of_set and name.lower().endswith(tuple(SUFFIXES)):
        return _metadata(name, content)
    return [Artefact(name, what, f"at byte {content.find(mark)}") for mark, what in MARKS.items() if mark in content]


def _metadata(name: str, content: bytes) -> list[Artefact]:
    try:
        if content.startswith(TIFF_STARTS) and (found := _values(name, content)) is not None:
            return found
        with warnings.catch_warnings(action="ignore"), open_image(content) as image:
            tags = dict(image.getexif())
            texts = [key for key in image.info if isinstance(key, str) and not key.startswith(OF_FORMATS)]
            profile = image.info.get("icc_profile", b"")
            if any(PLAIN_PROFILE.encode(code) in profile for code in ("ascii", "utf-16-be")):
                texts.remove("icc_profile")
    except Exception:  # decoders raise almost any type on damaged bytes
        return [Artefact(name, "a picture that cannot be opened", "")]
    artefacts = [Artefact(name, "EXIF data", label) for tag, label in TELLING.items() if tag in tags]
    return artefacts + [Artefact(name, "picture metadata", key) for key in texts if key != "exif"]


def _values(name: str, content: bytes) -> list[Artefact] | None:
    """Find metadata in a TIFF of physical values, which has tags that Pillow does not tell of.

    A made-up scene lies nowhere, so a place on the map is that of a real image. None for a TIFF of other values.
    """
    tags = first_directory(BytesIO(content))
    if FLOATS not in tags.get(SAMPLE_FORMAT, ()):
        return None
    artefacts = [Artefact(name, "EXIF data", label) for tag, label in TELLING.items() if tag in tags]
    return artefacts + [Artefact(name, "a place on the map", label) for tag, label in ON_A_MAP.items() if tag in tags]


# -- Find latents and pixels of real images, as nearly equal tensors or as equal bytes anywhere in a file.


ALIKE = 0.995  # cosine of two latents, at any scale: they differ by a tenth of the norm; float16 rounding gives 0.99999
GREY_LEVELS = 2.0  # largest mean absolute difference of two copies of one image
KEY = 8  # bytes used to look up a pattern
WINDOW = 32  # bytes that must be equal
DISTINCT = 8  # different bytes in a window; windows with fewer, such as zeros, match by chance


def find_tensors(name: str, content: bytes, traces: Traces) -> list[Artefact]:
    """Search a safetensors file for latents of real images, in any of the eight views, and for their pixels."""
    if not name.endswith(".safetensors"):
        return []
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError):
        return [Artefact(name, "a file that cannot be read", "")]
    artefacts = []
    for key, values in tensors.items():
        rows = 0
        if traces.latents is not None and values.shape[-3:] == traces.latents.shape[1:]:
            rows = _like_latents(values.reshape(-1, *values.shape[-3:]).astype(np.float32), traces.latents)
        elif values.dtype == np.uint8 and values.shape[-3:] == traces.images.shape[1:]:
            rows = _like_images(values.reshape(-1, *values.shape[-3:]), traces.images)
        artefacts += [Artefact(name, "a real image or its latent", f"{counted(rows, 'row')} of {key}")] if rows else []
    return artefacts


def _like_latents(rows: NDArray[np.float32], latents: NDArray[np.float32]) -> int:
    """Count rows that match a latent. Channel means are removed, because all images of calm water share them."""
    views = torch.from_numpy(rows - rows.mean(axis=(2, 3), keepdims=True))
    orbit = np.stack([unit(d4(views, element).flatten(1).numpy()) for element in range(ORDER)], axis=1)
    flat = (latents - latents.mean(axis=(2, 3), keepdims=True)).reshape(len(latents), -1)
    return int((similarities(orbit, unit(flat)).max(axis=1) > ALIKE).sum())


def _like_images(rows: NDArray[np.uint8], images: NDArray[np.uint8]) -> int:
    return sum(
        min(
            float(np.abs(images[i : i + 500].astype(np.int16) - row).mean(axis=(1, 2, 3)).min())
            for i in range(0, len(images), 500)
        )
        < GREY_LEVELS
        for row in rows
    )


def find_bytes(name: str, content: bytes, traces: Traces) -> list[Artefact]:
    """Search at every offset for bytes of a latent (float32 or float16, scaled or not) or of an image's pixels."""
    artefacts = []
    for what, windows in _patterns(traces):
        keys = np.ascontiguousarray(windows[:, :KEY]).view(np.uint64)[:, 0]
        known = {bytes(window) for window in windows}
        hits = sum(content[at : at + WINDOW] in known for at in _positions(content, np.unique(keys)))
        artefacts += [Artefact(name, f"bytes of {what} of a real image", f"{hits} times")] if hits else []
    return artefacts


def _patterns(traces: Traces) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield WINDOW bytes [n, WINDOW] from the middle of every latent and image."""
    if traces.latents is not None:
        for latents in (traces.latents, traces.latents / np.float32(traces.scaling_factor)):
            for kind in (np.float32, np.float16):
                yield "a latent", _middle(latents.astype(kind).reshape(len(latents), -1).view(np.uint8))
    yield "pixels", _middle(traces.images.reshape(len(traces.images), -1))


def _middle(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    start = rows.shape[1] // 2 // WINDOW * WINDOW
    windows = np.sort(rows[:, start : start + WINDOW], axis=1)
    distinct = 1 + (np.diff(windows, axis=1) > 0).sum(axis=1)
    return np.ascontiguousarray(rows[distinct >= DISTINCT, start : start + WINDOW])


def _positions(content: bytes, keys: NDArray[np.uint64]) -> list[int]:
    """Return the offsets at which KEY bytes are one of the sorted keys."""
    positions: list[int] = []
    for offset in range(KEY):
        count = (len(content) - offset) // KEY
        if count <= 0 or not len(keys):
            continue
        words = np.frombuffer(content, np.uint64, count, offset)
        places = np.minimum(np.searchsorted(keys, words), len(keys) - 1)
        positions += (np.flatnonzero(keys[places] == words) * KEY + offset).tolist()
    return positions


# -- Artefact scan: check that nothing of a single real image is in what leaves the site (docs/reference/privacy.md).


NAME = "artefact scan"


def scan(files: Mapping[str, bytes], traces: Traces, *, of_set: bool = False) -> list[Artefact]:
    """Scan files, given by path. A set may contain file names of its own, and pictures in its class folders: those are
    compared with the real images by other tests."""
    artefacts = [] if of_set else check_layout(files) + check_table(files)
    for name, content in files.items():
        artefacts += find_text(name, content, traces, of_set=of_set)
        artefacts += find_pictures(name, content, of_set=of_set)
        artefacts += find_tensors(name, content, traces)
        if not (of_set and name.lower().endswith(tuple(SUFFIXES))):
            artefacts += find_bytes(name, content, traces)
        elif "/" not in name and name != SHEET_NAME:
            artefacts.append(Artefact(name, "a picture outside the class folders", ""))
    return artefacts


def artefact_test(findings: list[Artefact], files: int, traces: Traces) -> Outcome:
    """Return FAIL for any finding. The note becomes part of the bundle, so it names only the kind and the file."""
    if findings:
        kinds = Counter((finding.what, finding.file) for finding in findings)
        note = "; ".join(f"{what} in {file} ({count})" for (what, file), count in sorted(kinds.items())[:8])
        return Outcome(NAME, float(len(findings)), None, 0.0, "FAIL", note)
    looked = "names, paths, pictures, pixels" + ("; no latents (no encoder)" if traces.latents is None else ", latents")
    return Outcome(
        NAME, 0.0, None, 0.0, "WARN" if traces.latents is None else "PASS", f"{counted(files, 'file')}: {looked}"
    )
