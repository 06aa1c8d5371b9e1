"""What a report reads: records, sets, models, pictures."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from dpd_eval.records import check_cells, described, parse_json, read_file, shown
from dpd_eval.report_records import (
    NamedAudit,
    NamedEvaluation,
    Timings,
    hide_all_paths,
    hide_paths,
    looks_like_evaluation,
    plain,
    read_audit,
    read_bench,
    read_evaluation,
    read_timings,
    short_names,
)
from dpd_eval.sets import convert_set
from dpd_runtime.annotations import Pixels
from dpd_runtime.archive import sealing_of
from dpd_runtime.bands import Band, picture
from dpd_runtime.bundle import embedded_bundle, load_bundle
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.files import check_json_size, is_safe_name, loads
from dpd_runtime.formats import IMAGEFOLDER
from dpd_runtime.images import MOST_PIXELS, SUFFIXES, read_pixels, read_square, size_in_header
from dpd_runtime.manifest import MANIFEST_NAME
from dpd_runtime.remarks import recorded_sides, size_remarks
from dpd_runtime.sampler import Sampler
from dpd_runtime.set_record import SetRecord
from dpd_runtime.set_state import DATASET_NAME, METADATA_NAME, STATE_NAME
from dpd_runtime.settings import WITHHELD
from dpd_runtime.text import counted
from dpd_runtime.trust import PublicKey
from dpd_train.config import OWN, TrainConfig
from dpd_train.rasters import reader, rendering_of_set, require_rasterio
from dpd_train.records import RunRecord as RunFile
from dpd_train.records import convert
from dpd_train.run import names_folders

# -- Images in the page: contact sheets of each class as data URIs.


COLUMNS, LARGEST_TILE, GAP = 5, 96, 2
GROUND = (154, 163, 173)  # between the tiles: a grey that suits light and dark pages


@dataclass(frozen=True)
class Picture:
    uri: str
    width: int
    height: int


def class_sheet(images: Sequence[Pixels]) -> Picture:
    """Arrange images [H, W, 3] in rows of five, each reduced to at most 96 pixels per side."""
    side = min(LARGEST_TILE, max(max(image.shape[:2]) for image in images))
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), GROUND)
    for i, pixels in enumerate(images):
        tile = Image.fromarray(pixels)
        if max(tile.size) != side:
            tile.thumbnail((side, side), Image.Resampling.LANCZOS)
        sheet.paste(tile, (i % columns * (side + GAP), i // columns * (side + GAP)))
    return embed(sheet)


def embed(image: Image.Image) -> Picture:
    """Encode as JPEG at quality 92 without chroma subsampling: a quarter of PNG's size without visible differences."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=92, subsampling=0)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, image.width, image.height)


# -- Read a distilled set: its dataset.json, and pictures of each class.


SHOWN = 10


@dataclass(frozen=True)
class ClassSheet:
    """A class of a set. margin: median logit margin of its images. prompts: of the images shown, each once."""

    name: str
    count: int
    shown: int
    picture: Picture | None
    prototypes: int
    margin: float | None
    prompts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NamedSet(SetRecord):
    """A set with its name, and pictures of its classes."""

    name: str
    classes: tuple[ClassSheet, ...] = ()

    @property
    def shown(self) -> str:
        """How many bands there are and which of them people see; empty for RGB."""
        return f"{counted(len(self.bands), 'band')}, shown by {shown(self.bands)}" if self.bands else ""


def read_set(folder: Path, name: str) -> NamedSet:
    """Read a distilled set.

    Raises:
        InputError: dataset.json is damaged.
        MissingExtraError: a set of other bands than RGB, without rasterio.
        DataError: an image that dataset.json counts is missing or damaged.
    """
    where = str(folder / DATASET_NAME)
    content = parse_json(read_file(folder / DATASET_NAME), where)
    record, told = convert_set(content, where), convert_set(hide_all_paths(content), where)
    # sets of `dpd select` (real_images) are private data and are not shown; a packed set has no image files
    pictured = not record.real_images and (record.format or IMAGEFOLDER.name) == IMAGEFOLDER.name
    records = _metadata(folder / METADATA_NAME)
    bands = record.bands if pictured else ()
    if bands:
        require_rasterio()
    counts = (record.counts or {}).items()
    sheets = tuple(_class_sheet(folder, c, n, records, pictured, bands) for c, n in counts)
    return NamedSet(**{of.name: getattr(told, of.name) for of in fields(SetRecord)}, name=name, classes=sheets)


def _metadata(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the lines of metadata.jsonl by class; none if the file is missing."""
    if not path.is_file():
        return {}
    by_class: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(read_file(path).decode("utf-8", "replace").splitlines(), 1):
        try:
            record = loads(line)
            by_class.setdefault(str(record["class"]), []).append(record)
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: line {number} is damaged; run the command that made the set again") from None
    return by_class


def _class_sheet(
    folder: Path,
    name: str,
    count: int,
    records: Mapping[str, list[dict[str, Any]]],
    pictured: bool,
    bands: tuple[Band, ...],
) -> ClassSheet:
    own = records.get(name, [])
    margins = [r["margin"] for r in own if isinstance(r.get("margin"), int | float)]
    prompts = dict.fromkeys(hide_paths(str(r["prompt"])) for r in own[:SHOWN] if r.get("prompt"))
    pixels = [_pixels(path, bands) for path in _files(folder, name)] if pictured else []
    return ClassSheet(
        name=hide_paths(name),
        count=count,
        shown=len(pixels),
        picture=class_sheet(pixels) if pixels else None,
        prototypes=len({r["prototype"] for r in own if isinstance(r.get("prototype"), int)}),
        margin=median(margins) if margins else None,
        prompts=tuple(prompts),
    )


def _files(folder: Path, class_name: str) -> list[Path]:
    """List the first images of a class by file name; links that leave the set's folder are ignored."""
    inside = (folder / class_name).resolve() if is_safe_name(class_name) else folder
    if inside.parent != folder.resolve():
        raise DataError(f"{folder / DATASET_NAME}: class {class_name!r} is not a folder of the set; generate it again")
    files = [path for path in sorted(inside.glob("*")) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(
            f"{folder / class_name}: contains no images although dataset.json counts some; generate it again"
        )
    return [path for path in files[:SHOWN] if path.resolve().parent == inside]


def _pixels(path: Path, bands: tuple[Band, ...]) -> Any:
    pixels = _of_bands(path, bands) if bands else read_pixels(path)
    if pixels is None:
        raise DataError(f"{path}: cannot be read as an image; run the same dpd generate again to repair the set")
    return pixels


def _of_bands(path: Path, bands: tuple[Band, ...]) -> Any:
    """What people see of a GeoTIFF with physical values of these bands; None if it cannot be read."""
    size = size_in_header(path)
    square = "" if size is None else read_square(path, min(size), reader(rendering_of_set(bands)))
    return None if isinstance(square, str) else picture(square[1], bands)


# -- Read run folders and bundles.


SIDES = "scene_sides"


@dataclass(frozen=True)
class BundleRecord:
    """A bundle. prototypes: count per class. parity: largest difference of each graph from PyTorch.

    signature: who signed it, in words.
    bands: of its images in words; empty for RGB. privacy: the differential privacy that it claims; empty for none.
    size: what became of the scenes' size; empty where they kept it, or where the bundle does not tell.
    """

    name: str
    title: str
    hash: str
    embedded: bool
    bytes: int
    files: int
    image_shape: tuple[int, int, int]
    bands: str
    precision: str
    opset: int
    sampler: Sampler
    prototypes: Mapping[str, int]
    prompts: Mapping[str, str]
    parity: Mapping[str, Any]
    licences: Mapping[str, str]
    tools: Mapping[str, str]
    data: Mapping[str, Any]
    size: str
    audit: str
    privacy: str
    audit_record: NamedAudit | None
    trusted: bool
    signature: str


@dataclass(frozen=True)
class RunRecord:
    """A run. config: the options that repeat it, or None. samples: what `caption` says.

    images, prototypes: counts per class. noise_levels: error of ẑ0 of each predictor, by timestep.
    size: as of a bundle.
    """

    name: str
    config: Mapping[str, Any] | None
    data: Mapping[str, Any]
    size: str
    images: Mapping[str, float]
    prototypes: Mapping[str, float]
    metrics: Mapping[str, float]
    noise_levels: Mapping[str, Mapping[str, float]]
    versions: Mapping[str, str]
    seconds: float | None
    samples: Picture | None
    caption: str
    audit_record: NamedAudit | None


def read_bundle(path: Path, name: str, trusted: Sequence[PublicKey] | None = None) -> BundleRecord:
    """Read a bundle after checking all its hashes.

    Args:
        trusted: as `load_bundle`.

    Raises:
        BundleError: a bundle that is damaged, changed, incomplete or of a later format version.
    """
    bundle = load_bundle(path, None, trusted, allow_older=True)
    manifest = bundle.manifest
    raw = bundle.files.get("audit.json")
    audit = None
    if raw is not None:
        check_json_size(len(raw), f"{name}: audit.json")
        where = f"{name}: audit.json"
        audit = read_audit(parse_json(raw, where), name, where, claimed=not bundle.trusted)
    return BundleRecord(
        name=name,
        title=hide_paths(manifest.name),
        hash=bundle.hash,
        embedded=path.resolve() == embedded_bundle().resolve(),
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        files=len(manifest.files),
        image_shape=manifest.image_shape,
        bands=hide_paths(described(manifest.bands)) if manifest.bands else "",
        precision=manifest.precision,
        opset=manifest.opset,
        sampler=manifest.sampler,
        prototypes={c.name: len(c.prototypes) for c in bundle.classes},
        prompts={c.name: hide_paths(bundle.prompt(c, 0)) for c in bundle.classes},
        parity=hide_all_paths(manifest.parity),
        licences=hide_all_paths(manifest.licences),
        tools=hide_all_paths(manifest.tools),
        data=hide_all_paths({name: value for name, value in manifest.data.items() if name != SIDES}),
        size="; ".join(_told(manifest.data.get(SIDES), manifest.image_shape[0])),
        audit=hide_paths(str(manifest.audit)),
        privacy="" if manifest.privacy is None else hide_paths(manifest.privacy.describe()),
        audit_record=audit,
        trusted=bundle.trusted,
        signature=hide_paths(bundle.signature.describe()),
    )


def embedded_hash() -> str | None:
    """Return the hash of the embedded bundle; None in a checkout without it."""
    path = embedded_bundle()
    return load_bundle(path).hash if path.is_file() else None


SAMPLED = "Images sampled by the fine-tuned model, before selection"
DECODED = "Decoded codes in false colour, some of each class"  # bands that no denoiser knows


def read_run(folder: Path, name: str) -> RunRecord:
    """Read run.json, samples/final.png and audit.json; nothing in private/ is opened.

    Raises:
        InputError: a damaged run.json.
    """
    where = str(folder / "run.json")
    content = parse_json(read_file(folder / "run.json"), where)
    run = convert(hide_all_paths(content), RunFile, where)
    config, data, metrics = run.get("config", {}), run.get("data", {}), {**run.get("metrics", {})}
    levels, rendering = metrics.pop("noise_levels", {}), data.get("rendering")
    noise_levels = convert(levels, dict[str, dict[str, float]], f"{where}: metrics.noise_levels")
    check_cells(len(noise_levels) * len({step for errors in noise_levels.values() for step in errors}), where)
    known = {option.name for option in fields(TrainConfig)}
    convert({name: value for name, value in config.items() if name in known}, TrainConfig, f"{where}: config")
    sample = folder / "samples" / "final.png"
    pixels = read_pixels(sample, MOST_PIXELS) if sample.is_file() else None
    audit = folder / "audit.json"
    return RunRecord(
        name=name,
        config=_repeatable(config) if config and "federated" not in run else None,
        data={key: value for key, value in _flat(data).items() if not key.startswith(("classes ", f"{SIDES} "))},
        size="" if "crop" in content else "; ".join(_told(data.get(SIDES), config.get("resolution"))),
        images=convert(data.get("classes", {}), dict[str, float], f"{where}: data.classes"),
        prototypes=run.get("prototypes", {}),
        metrics={key: float(value) for key, value in _flat(metrics).items() if _is_number(value)},
        noise_levels=noise_levels,
        versions=run.get("versions", {}),
        seconds=run.get("seconds"),
        samples=None if pixels is None else embed(Image.fromarray(pixels)),
        caption=DECODED if isinstance(rendering, dict) and rendering.get("carried") else SAMPLED,
        audit_record=read_audit(parse_json(read_file(audit), str(audit)), name, str(audit))
        if audit.is_file()
        else None,
    )


def _repeatable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config, with watchers WITHHELD where folders watched: a record has only their last names."""
    return {**config, "watchers": WITHHELD} if names_folders(config.get("watchers", OWN)) else {**config}


def _told(record: object, side: object) -> list[str]:
    """What became of the size of scenes in images of `side` px; nothing where it is not recorded."""
    sides = recorded_sides(record)
    return [] if sides is None or type(side) is not int else size_remarks(sides, side)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten `{"vae": {"psnr": 32}}` to `{"vae psnr": 32}`; lists are omitted."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key} ")
        elif not isinstance(value, list):
            flat[prefix + key] = value
    return flat


# -- Read the given paths. Each is recognised by its content and named without its folder.


SUPPORTED = (
    "a JSON file of dpd evaluate, dpd audit or dpd bench, the folder of a distilled set, "
    "a bundle (.dpd or folder), a run folder, or the folder of dpd distill"
)


@dataclass(frozen=True)
class InputFile:
    """One path as the page lists it. hashed: what the hash was computed of."""

    name: str
    kind: str
    hashed: str
    hash: str


@dataclass(frozen=True)
class Inputs:
    files: tuple[InputFile, ...] = ()
    evaluations: tuple[NamedEvaluation, ...] = ()
    sets: tuple[NamedSet, ...] = ()
    bundles: tuple[BundleRecord, ...] = ()
    runs: tuple[RunRecord, ...] = ()
    audits: tuple[NamedAudit, ...] = ()
    benches: tuple[Timings, ...] = ()


Keys = Sequence[PublicKey] | None
Record = NamedEvaluation | NamedSet | BundleRecord | RunRecord | NamedAudit | Timings


def read_inputs(paths: Sequence[Path], trusted: Keys = None) -> Inputs:
    """Read all paths.

    Args:
        trusted: keys whose signatures of bundles count; None for those in the user's trusted folder.

    Raises:
        InputError: no path, a path given twice, a path that dpd did not write, a file with wrong content, or keys where
            no path is a bundle.
        BundleError: a bundle that does not verify.
    """
    if not paths:
        raise InputError(f"no PATH given: name at least one of {SUPPORTED}")
    resolved = [path.resolve() for path in paths]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise InputError(f"{paths[i]} is given twice; name each input once")
    files: list[InputFile] = []
    records: list[Record] = []
    for path, name in zip(paths, short_names([str(path) for path in resolved]), strict=True):
        file, entries = _read(path, name, trusted)
        files.append(file)
        records += entries
    if trusted is not None and not any(isinstance(record, BundleRecord) for record in records):
        raise InputError("--trusted-key has no effect: none of the paths is a bundle; leave it out")
    audits = [r.audit_record for r in records if isinstance(r, BundleRecord | RunRecord) and r.audit_record]
    return Inputs(
        files=tuple(files),
        evaluations=tuple(r for r in records if isinstance(r, NamedEvaluation)),
        sets=tuple(r for r in records if isinstance(r, NamedSet)),
        bundles=tuple(r for r in records if isinstance(r, BundleRecord)),
        runs=tuple(r for r in records if isinstance(r, RunRecord)),
        audits=(*audits, *(r for r in records if isinstance(r, NamedAudit))),
        benches=tuple(r for r in records if isinstance(r, Timings)),
    )


def _read(path: Path, name: str, trusted: Keys) -> tuple[InputFile, list[Record]]:
    if path.is_dir():
        return _read_folder(path, name, trusted)
    if not path.is_file():  # opening a pipe would wait for its other end
        raise InputError(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}; give {SUPPORTED}")
    if path.suffix == ".json":
        return _read_json(path, name, trusted)
    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix == ".dpd" or magic == b"PK\x03\x04":
        bundle = read_bundle(path, name, trusted)
        return InputFile(name, "bundle", "bundle.json", bundle.hash), [bundle]
    if sealing_of(path):
        raise InputError(f"{path}: is encrypted, and a report shows what it reads; give what dpd decrypt makes of it")
    raise InputError(f"{path}: was not written by dpd; give {SUPPORTED}")


def _read_folder(path: Path, name: str, trusted: Keys) -> tuple[InputFile, list[Record]]:
    if (path / DATASET_NAME).is_file():
        record = read_set(path, name)
        kind = "real subset" if record.real_images else "distilled set"
        return InputFile(name, kind, "pixels (set hash)", record.set_hash), [record]
    if (path / MANIFEST_NAME).is_file():
        bundle = read_bundle(path, name, trusted)
        return InputFile(name, "bundle", "bundle.json", bundle.hash), [bundle]
    if (path / "run.json").is_file():
        digest = hashlib.sha256(read_file(path / "run.json")).hexdigest()
        return InputFile(name, "run", "run.json", digest), [read_run(path, name)]
    if (path / STATE_NAME).is_file():
        raise InputError(f"{path}: the set is unfinished; run the same dpd generate again before the report")
    raise InputError(f"{path}: contains no {DATASET_NAME}, {MANIFEST_NAME} or run.json; give {SUPPORTED}")


def _read_json(path: Path, name: str, trusted: Keys) -> tuple[InputFile, list[Record]]:
    if path.name in (DATASET_NAME, MANIFEST_NAME, "run.json"):
        return _read_folder(path.parent, short_names([str(path.resolve().parent)])[0], trusted)
    if path.resolve().parent.name == "private" and (path.resolve().parents[1] / "run.json").exists():
        raise InputError(f"{path}: is in a run's private folder, which a report must not show")
    raw = read_file(path)
    content, stem = parse_json(raw, str(path)), name.removesuffix(".json")
    digest = hashlib.sha256(raw).hexdigest()
    if "verdict" in content and "tests" in content:
        return InputFile(name, "audit", "file", digest), [read_audit(content, stem, str(path))]
    if "networks" in content and "peak_memory" in content:
        return InputFile(name, "benchmark", "file", digest), [read_bench(content, stem, str(path))]
    if "timings" in content:
        return InputFile(name, "benchmark", "file", digest), [read_timings(content, stem, str(path))]
    evaluations = _evaluations(content, stem, str(path))
    if not evaluations:
        raise InputError(f"{path}: is JSON, but not a result that a report can show; give {SUPPORTED}")
    return InputFile(name, "evaluation", "file", digest), list(evaluations)


def _evaluations(content: dict[str, Any], stem: str, where: str) -> list[NamedEvaluation]:
    """Read the object itself, or the evaluations inside a committed result with its other values as context."""
    if looks_like_evaluation(content):
        return [read_evaluation(content, stem, where, alone=True)]
    inside = [key for key, value in content.items() if looks_like_evaluation(value)]
    context = tuple(_flat_context({key: value for key, value in content.items() if key not in inside}))
    names = [stem if key == "evaluation" else f"{stem}: {hide_paths(key)}" for key in inside]
    pairs = zip(inside, names, strict=True)
    return [read_evaluation(content[key], name, f"{where}: {key}", context) for key, name in pairs]


def _flat_context(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += _flat_context(value, f"{prefix}{key}: ")
        elif not isinstance(value, list):
            rows.append((hide_paths((prefix + key).replace("_", " ")), hide_paths(plain(value))))
    return rows
