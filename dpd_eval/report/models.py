"""Read run folders and bundles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from dpd_eval.bands import described
from dpd_eval.reading import check_cells, convert, parse_json, read_file
from dpd_eval.report.audits import NamedAudit, read_audit
from dpd_eval.report.names import hide_all_paths, hide_paths
from dpd_eval.report.pictures import Picture, embed
from dpd_runtime.bundle.bundle import embedded_bundle, load_bundle
from dpd_runtime.bundle.signature import PublicKey
from dpd_runtime.images.pictures import MOST_PIXELS, read_pixels
from dpd_runtime.sampling.sampler import Sampler
from dpd_runtime.strict_json import check_json_size
from dpd_train.config import TrainConfig
from dpd_train.remarks import recorded_sides, size_remarks

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
    """A run. config: as resolved by `dpd train`, with paths reduced to names. samples: what `caption` says.

    images, prototypes: counts per class. noise_levels: error of ẑ0 of each predictor, by timestep.
    size: as of a bundle.
    """

    name: str
    config: Mapping[str, Any]
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


def embedded_hash() -> tuple[str, Sampler] | None:
    """Return the hash and sampler of the embedded bundle; None in a checkout without it."""
    path = embedded_bundle()
    if not path.is_file():
        return None
    bundle = load_bundle(path)
    return bundle.hash, bundle.manifest.sampler


SAMPLED = "Images sampled by the fine-tuned model, before selection"
DECODED = "Decoded codes in false colour, some of each class"  # bands that no denoiser knows


@dataclass(frozen=True)
class _RunFile:
    """What the page shows of run.json."""

    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    prototypes: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None


def read_run(folder: Path, name: str) -> RunRecord:
    """Read run.json, samples/final.png and audit.json; nothing in private/ is opened.

    Raises:
        InputError: a damaged run.json.
    """
    where = str(folder / "run.json")
    content = parse_json(read_file(folder / "run.json"), where)
    run = convert(hide_all_paths(content), _RunFile, where)
    levels, rendering = run.metrics.pop("noise_levels", {}), run.data.get("rendering")
    noise_levels = convert(levels, dict[str, dict[str, float]], f"{where}: metrics.noise_levels")
    check_cells(len(noise_levels) * len({step for errors in noise_levels.values() for step in errors}), where)
    known = {option.name for option in fields(TrainConfig)}
    convert({name: value for name, value in run.config.items() if name in known}, TrainConfig, f"{where}: config")
    sample = folder / "samples" / "final.png"
    pixels = read_pixels(sample, MOST_PIXELS) if sample.is_file() else None
    audit = folder / "audit.json"
    base = content.get("config", {}).get("base")
    if run.config.get("base") != base:  # a base that was a path stays one: `nano` alone means the shipped base
        run.config["base"] = f"./{run.config['base']}"
    return RunRecord(
        name=name,
        config=run.config,
        data={key: value for key, value in _flat(run.data).items() if not key.startswith(("classes ", f"{SIDES} "))},
        size="" if "crop" in content else "; ".join(_told(run.data.get(SIDES), run.config.get("resolution"))),
        images=convert(run.data.get("classes", {}), dict[str, float], f"{where}: data.classes"),
        prototypes=run.prototypes,
        metrics={key: float(value) for key, value in _flat(run.metrics).items() if _is_number(value)},
        noise_levels=noise_levels,
        versions=run.versions,
        seconds=run.seconds,
        samples=None if pixels is None else embed(Image.fromarray(pixels)),
        caption=DECODED if isinstance(rendering, dict) and rendering.get("carried") else SAMPLED,
        audit_record=read_audit(parse_json(read_file(audit), str(audit)), name, str(audit))
        if audit.is_file()
        else None,
    )


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
