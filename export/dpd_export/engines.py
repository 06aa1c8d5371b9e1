"""What `dpd export --trt` builds, for which cards, and all that is in its way, before anything is computed."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_export.builder import (
    CARDS,
    Flavour,
    Plan,
    build_engine,
    check_capabilities,
    check_parts,
    cuda_major,
    flavour_of,
    import_flavour,
    known_capabilities,
    named_cards,
    sources_of,
)
from dpd_export.options import INT8
from dpd_runtime.annotations import Progress
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.engine_files import (
    ENGINE_FOLDER,
    ENGINE_SUFFIX,
    RECORD_SUFFIX,
    EngineRecord,
    keep_model,
    kept_model,
    record_json,
    working_folder,
)
from dpd_runtime.engines import NAMES, Provider
from dpd_runtime.errors import DpdError, InputError, MissingExtraError, ProviderError
from dpd_runtime.files import size_of
from dpd_runtime.machine import nvidia_driver
from dpd_runtime.sealing import check_target, write_changed
from dpd_runtime.tensorrt import Profile, context_model, profile_of, row_shapes, this_os

TURING, FIRST_OF_PLUGIN = 75, 80
"""Turing has no float32 matrix products in TensorRT for RTX, and the plugin that loads engines begins above it."""
ELSEWHERE = {
    72: "Jetson Xavier: dpd runs on its CPU",
    87: "Jetson Orin: dpd runs on its CPU",
    90: "H100: --flavour tensorrt builds for it, on that GPU",
    100: "B200: --flavour tensorrt builds for it, on that GPU",
    101: "Jetson Thor: dpd runs on its CPU",
    110: "Jetson Thor: dpd runs on its CPU",
}
"""Compute capabilities that tensorrt-rtx does not build for, and what does."""


@dataclass(frozen=True)
class WantedEngines:
    """Engines to build.

    Args:
        portable: one engine for all compute capabilities instead of one for each.
        faults: why none can be built here, each with what mends it; empty if they can.
    """

    flavour: Flavour
    capabilities: tuple[int, ...]
    portable: bool
    faults: tuple[str, ...]

    def describe(self) -> str:
        """What is built for which cards."""
        where = named_cards(self.capabilities) if self.capabilities else "the GPU of this machine"
        return f"{self.flavour.name} for {where}" + (", in one engine for all" if self.portable else "")

    @property
    def options(self) -> list[str]:
        """Options of `dpd engines` that ask for the same."""
        if not self.flavour.ahead_of_time:
            return ["--flavour", self.flavour.name]
        listed = ",".join(map(str, self.capabilities))
        return ["--compute-capability", listed, *(["--portable"] if self.portable else [])]


def wanted_engines(flavour: str, named: tuple[int, ...], precision: str) -> WantedEngines:
    """Find out what to build: for the cards that are named, else for the GPU that is here, else for all in one engine.

    Args:
        named: compute capabilities, 10 · major + minor.

    Raises:
        InputError: an unknown flavour, or an int8 bundle, of which there are no engines.
    """
    kind, faults, trt = flavour_of(flavour), list[str](), None
    check_precision(precision)
    try:
        trt = import_flavour(kind)
    except (MissingExtraError, ProviderError) as error:
        faults.append(str(error))
    if kind.ahead_of_time:
        return _ahead_of_time(kind, trt, named, precision, faults)
    try:
        capabilities = check_capabilities(kind, trt, named)
    except DpdError as error:
        capabilities = ()
        faults.append(str(error))
    return WantedEngines(kind, capabilities, False, tuple(faults))


def _ahead_of_time(kind: Flavour, trt: Any, named: tuple[int, ...], precision: str, faults: list[str]) -> WantedEngines:
    known = known_capabilities(trt)
    strangers = [one for one in named if one not in known]
    listed = named_cards(known)
    for one in strangers:
        faults.append(f"{one} is " + ELSEWHERE.get(one, f"no card that {kind.name} builds for, which are {listed}"))
    half = precision == "fp16"
    if TURING in named and not half:
        faults.append(f"{named_cards((TURING,))} has no float32 matrix products: leave it out, or --precision fp16")
    if rest := tuple(one for one in named if one in known and (half or one != TURING)):
        return WantedEngines(kind, rest, False, tuple(faults))
    all_usual = tuple(one for one in known if one >= FIRST_OF_PLUGIN and one in CARDS)
    here = [gpu.compute_capability for gpu in nvidia_driver().gpus[:1]]
    if here and here[0] in all_usual and not named:
        return WantedEngines(kind, (here[0],), False, tuple(faults))
    return WantedEngines(kind, all_usual, True, tuple(faults))


# -- Build engines for a bundle and write a new, unsigned bundle that holds them.


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


# -- Build engines of a bundle for this machine's GPU, into the cache from which the runtime loads them.
#
# Only `tensorrt` needs this. ONNX Runtime's provider of it builds networks whose types it may change; these are
# strongly typed. The plugin of TensorRT for RTX compiles strongly typed networks itself. No GPU has run either.


def build_for_this_machine(bundle: Bundle, provider: Provider, progress: Progress) -> None:
    """Build the engines of all graphs that every `dpd generate` calls, unless the cache has them.

    They are in this process's working folder then; `dpd_runtime.golden.compile_here` tries and keeps them.

    Raises:
        InputError: another GPU than the first, or a graph that the builder refuses.
        BundleError: as `Bundle.check_graph`.
        MissingExtraError: TensorRT is not installed.
        ProviderError: there is no GPU, or no trusted key signed the bundle.
    """
    if not bundle.trusted:  # the parser and the builder run in this process
        raise ProviderError(
            f"provider {provider.name}: engines are built here only of a bundle that a trusted key signed, and this "
            f"one is {bundle.signature.describe()}; use --provider cpu, or have it signed"
        )
    if provider.device:
        raise InputError(
            f"--device {provider.device}: {provider.name} builds on the first GPU; choose it by CUDA_VISIBLE_DEVICES"
        )
    kind = flavour_of(provider.name)
    check_precision(bundle.manifest.precision)
    trt = import_flavour(kind)
    here = check_capabilities(kind, trt, ())
    folder, parts = working_folder(bundle.engine_cache(bundle.site(provider))), check_parts(None, bundle.files)
    for done, part in enumerate(parts):
        progress(done, len(parts))
        name = f"{part}/model.onnx"
        graph = bundle.files[name]
        if kept_model(folder, graph) is None:
            bundle.check_graph(name)
            plan, record = built(Build(part, profile_of(part, bundle.manifest), here), kind, trt, bundle)
            keep_model(folder, graph, context_model(record, bytes(plan.content), NAMES[provider.name]))
    progress(len(parts), len(parts))
