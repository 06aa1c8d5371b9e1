"""Build engines for a bundle and write a new, unsigned bundle that holds them."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_export.engines.builder import Plan, build_engine
from dpd_export.engines.flavours import Flavour, check_capabilities, cuda_major, flavour_of, import_flavour
from dpd_export.engines.network import sources_of
from dpd_export.engines.profiles import check_parts
from dpd_export.options import INT8
from dpd_runtime.bundle.bundle import Bundle, load_bundle
from dpd_runtime.bundle.engine_fit import this_os
from dpd_runtime.bundle.profiles import Profile, profile_of, row_shapes
from dpd_runtime.engines.record import ENGINE_FOLDER, ENGINE_SUFFIX, RECORD_SUFFIX, EngineRecord, record_json
from dpd_runtime.errors import InputError
from dpd_runtime.files import size_of
from dpd_runtime.sealing.reseal import check_target, write_changed


@dataclass(frozen=True)
class Build:
    """One engine to build."""

    part: str
    profile: Profile
    capabilities: tuple[int, ...]

    def path(self, flavour: Flavour) -> str:
        folder = f"{flavour.name}-{'-'.join(map(str, self.capabilities))}"
        return f"{ENGINE_FOLDER}{folder}/{self.part}-batch{self.profile.low}to{self.profile.high}{ENGINE_SUFFIX}"


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built.

    Args:
        seconds: of the whole build.
        peak_memory: most bytes that the process held meanwhile.
    """

    path: str
    bytes: int
    seconds: float
    peak_memory: int


BuildProgress = Callable[[int, int, str, BuiltEngine | None], None]
"""Called with done, total, the path of the next engine or "", and the engine just built."""


def _silent(done: int, total: int, coming: str, built: BuiltEngine | None) -> None:
    return None


def build_engines(
    bundle: Path,
    out: Path,
    *,
    flavour: str,
    compute_capabilities: tuple[int, ...] = (),
    parts: tuple[str, ...] | None = None,
    portable: bool = False,
    overwrite: bool = False,
    progress: BuildProgress = _silent,
) -> dict[str, Any]:
    """Build engines of a bundle's graphs and write a new bundle with them and all other files.

    Args:
        bundle, out: a .dpd file, or a folder.
        parts: graphs to build; None for all that every `dpd generate` calls.
        compute_capabilities: 10 · major + minor; required for tensorrt-rtx, the local GPU's for tensorrt.
        portable: build one engine for all of them (hardly larger) instead of one for each.

    Returns:
        out, bundle_hash, bytes, flavour, builder_version, engines [{path, bytes, seconds, peak_memory}].

    Raises:
        InputError: unknown names, something at `out`, or a graph that the builder refuses. Nothing is left then.
        BundleError: as `Bundle.check_graph`.
        MissingExtraError, ProviderError: TensorRT is not installed, or there is no GPU for `tensorrt`.
    """
    kind = flavour_of(flavour)
    check_target(out, overwrite)
    opened = load_bundle(bundle)
    check_precision(opened.manifest.precision)
    trt = import_flavour(kind)
    wanted = check_capabilities(kind, trt, compute_capabilities)
    chosen = check_parts(parts, opened.files)
    for part in chosen:
        opened.check_graph(f"{part}/model.onnx")  # before TensorRT's parser, which runs in this process, sees it
    groups = [wanted] if portable else [(one,) for one in wanted]
    builds = [Build(part, profile_of(part, opened.manifest), group) for group in groups for part in chosen]
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        added: dict[str, Path] = {}
        engines: list[BuiltEngine] = []
        for done, build in enumerate(builds):
            progress(done, len(builds), build.path(kind), engines[-1] if engines else None)
            engines.append(_build(build, kind, trt, opened, scratch / "built", added))
        progress(len(builds), len(builds), "", engines[-1])
        tools = dict(opened.manifest.tools) | {kind.name: trt.__version__}
        bundle_hash = write_changed(opened, out, added, tools=tools)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {
        "out": str(out),
        "bundle_hash": bundle_hash,
        "bytes": size_of(out),
        "flavour": kind.name,
        "builder_version": trt.__version__,
        "engines": [vars(engine) for engine in engines],
    }


def check_precision(precision: str) -> None:
    """Refuse bundles whose graphs are not for TensorRT.

    Raises:
        InputError: an int8 bundle.
    """
    if precision == INT8:  # uint8 activations, which TensorRT does not take
        raise InputError("int8 graphs are for ONNX Runtime on a CPU; export with --precision fp16 for TensorRT engines")


def built(build: Build, flavour: Flavour, trt: Any, bundle: Bundle) -> tuple[Plan, EngineRecord]:
    """Build one engine of a bundle.

    Raises:
        InputError, CheckError: as `build_engine`.
    """
    graph, manifest = f"{build.part}/model.onnx", bundle.manifest
    plan = build_engine(
        trt,
        flavour,
        bundle.files,
        graph,
        build.profile,
        row_shapes(manifest, bundle.empty_embedding.shape),
        build.capabilities,
        tf32=manifest.precision != "fp32",
    )
    return plan, _record(plan, bundle.files, graph, flavour, trt.__version__, build.capabilities, manifest.precision)


def _build(
    build: Build, flavour: Flavour, trt: Any, bundle: Bundle, folder: Path, added: dict[str, Path]
) -> BuiltEngine:
    """Build one engine, write it and its record under `folder`, and add both paths to `added`."""
    plan, record = built(build, flavour, trt, bundle)
    path, beside = build.path(flavour), build.path(flavour).removesuffix(ENGINE_SUFFIX) + RECORD_SUFFIX
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(plan.content)
    (folder / beside).write_bytes(record_json(record))
    added |= {path: folder / path, beside: folder / beside}
    return BuiltEngine(path, plan.bytes, round(plan.seconds, 1), plan.peak_memory)


def _record(
    plan: Plan,
    files: Mapping[str, bytes],
    graph: str,
    flavour: Flavour,
    version: str,
    capabilities: tuple[int, ...],
    precision: str,
) -> EngineRecord:
    """What the engine was built from, by what and for what: the JSON beside it."""
    return EngineRecord(
        flavour=flavour.name,
        builder_version=version,
        compute_capabilities=capabilities,
        os=this_os(),
        cuda=cuda_major(flavour),
        graph=graph,
        sources={path: hashlib.sha256(files[path]).hexdigest() for path in sources_of(files, graph)},
        precision=precision,
        arithmetic=plan.arithmetic,
        tf32=plan.tf32,
        layers=plan.layers,
        inputs=plan.inputs,
        outputs=plan.outputs,
        sha256=plan.sha256,
        bytes=plan.bytes,
    )
