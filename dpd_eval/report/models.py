"""Read run folders and bundles."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dpd_eval.report.audits import AuditRecord, read_audit
from dpd_eval.report.names import hide_all_paths, hide_paths
from dpd_eval.report.pictures import Picture, embed
from dpd_eval.report.reading import Node, parse_json, read_file
from dpd_runtime.bundle.bundle import embedded_bundle, load_bundle
from dpd_runtime.dataset.pictures import MOST_PIXELS, read_pixels
from dpd_runtime.sampling.sampler import Sampler
from dpd_runtime.strict_json import check_json_size


@dataclass(frozen=True)
class BundleRecord:
    """A bundle. prototypes: count per class. parity: largest difference of each graph from PyTorch.

    privacy: the differential privacy that it claims; empty for none.
    """

    name: str
    title: str
    hash: str
    embedded: bool
    bytes: int
    files: int
    image_shape: tuple[int, int, int]
    precision: str
    opset: int
    sampler: Sampler
    prototypes: Mapping[str, int]
    prompts: Mapping[str, str]
    parity: Mapping[str, Any]
    licences: Mapping[str, str]
    tools: Mapping[str, str]
    data: Mapping[str, Any]
    audit: str
    privacy: str
    audit_record: AuditRecord | None
    trusted: bool


@dataclass(frozen=True)
class RunRecord:
    """A run. config: as resolved by `dpd train`, with paths reduced to names. samples: of the fine-tuned model.

    images, prototypes: counts per class. noise_levels: error of ẑ0 of each predictor, by timestep.
    """

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    images: Mapping[str, float]
    prototypes: Mapping[str, float]
    metrics: Mapping[str, float]
    noise_levels: Mapping[str, Mapping[str, float]]
    versions: Mapping[str, str]
    seconds: float | None
    samples: Picture | None
    audit_record: AuditRecord | None


def read_bundle(path: Path, name: str) -> BundleRecord:
    """Read a bundle after checking all its hashes.

    Raises:
        BundleError: a bundle that is damaged, changed, incomplete or of a later format version.
    """
    bundle = load_bundle(path, allow_older=True)
    manifest = bundle.manifest
    raw = bundle.files.get("audit.json")
    audit = None
    if raw is not None:
        check_json_size(len(raw), f"{name}: audit.json")
        audit = read_audit(parse_json(raw, f"{name}: audit.json"), name, claimed=not bundle.trusted)
    return BundleRecord(
        name=name,
        title=hide_paths(manifest.name),
        hash=bundle.hash,
        embedded=path.resolve() == embedded_bundle().resolve(),
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        files=len(manifest.files),
        image_shape=manifest.image_shape,
        precision=manifest.precision,
        opset=manifest.opset,
        sampler=manifest.sampler,
        prototypes={c.name: len(c.prototypes) for c in bundle.classes},
        prompts={c.name: hide_paths(bundle.prompt(c, 0)) for c in bundle.classes},
        parity=hide_all_paths(manifest.parity),
        licences=hide_all_paths(manifest.licences),
        tools=hide_all_paths(manifest.tools),
        data=hide_all_paths(manifest.data),
        audit=hide_paths(str(manifest.audit)),
        privacy="" if manifest.privacy is None else hide_paths(manifest.privacy.describe()),
        audit_record=audit,
        trusted=bundle.trusted,
    )


def embedded_hash() -> tuple[str, Sampler] | None:
    """Return the hash and sampler of the embedded bundle; None in a checkout without it."""
    path = embedded_bundle()
    if not path.is_file():
        return None
    bundle = load_bundle(path)
    return bundle.hash, bundle.manifest.sampler


def read_run(folder: Path, name: str) -> RunRecord:
    """Read run.json, samples/final.png and audit.json; nothing in private/ is opened.

    Raises:
        InputError: a damaged run.json.
    """
    node = parse_json(read_file(folder / "run.json"), f"{folder / 'run.json'}")
    config, data, metrics = (node.child(key) for key in ("config", "data", "metrics"))
    levels = metrics.child("noise_levels") if metrics else None
    sample = folder / "samples" / "final.png"
    pixels = read_pixels(sample, MOST_PIXELS) if sample.is_file() else None
    audit = folder / "audit.json"
    return RunRecord(
        name=name,
        config=_config(config) if config else {},
        data={key: value for key, value in _flat(data).items() if not key.startswith("classes ")} if data else {},
        images=data.numbers_by_name("classes") if data else {},
        prototypes=node.numbers_by_name("prototypes"),
        metrics={
            key: float(value)
            for key, value in (_flat(metrics).items() if metrics else ())
            if _is_number(value) and not key.startswith("noise_levels ")
        },
        noise_levels={} if levels is None else {who: levels.numbers_by_name(who) for who in levels.content},
        versions=node.texts_by_name("versions"),
        seconds=node.maybe_number("seconds"),
        samples=None if pixels is None else embed(Image.fromarray(pixels)),
        audit_record=read_audit(parse_json(read_file(audit), str(audit)), name) if audit.is_file() else None,
    )


def _config(node: Node) -> dict[str, Any]:
    """Keep a base that was a path as a path, because `nano` alone means the shipped base."""
    config = hide_all_paths(node.content)
    if config.get("base") != node.content.get("base"):
        config["base"] = f"./{config['base']}"
    return config


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(node: Node, prefix: str = "") -> dict[str, Any]:
    """Flatten `{"vae": {"psnr": 32}}` to `{"vae psnr": 32}`; lists are omitted."""
    flat: dict[str, Any] = {}
    for key, value in node.content.items():
        if isinstance(value, dict):
            flat |= _flat(Node(value, node.where), f"{prefix}{key} ")
        elif not isinstance(value, list):
            flat[hide_paths(prefix + key)] = hide_paths(value) if isinstance(value, str) else value
    return flat
