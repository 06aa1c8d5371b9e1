"""A verified bundle in memory. All hashes are checked before a graph is loaded."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath

from dpd_runtime.annotations import Float32
from dpd_runtime.archive import FolderFiles, Key, ZipFiles, check_entry_name, open_files
from dpd_runtime.budget import check_budget
from dpd_runtime.classes import SceneClass, read_class_table, read_code_table
from dpd_runtime.engine_files import ENGINE_FOLDER, engine_records, is_engine, kept_model, working_folder
from dpd_runtime.engines import FLAVOURS, NAMES, Compilation, Engine, Provider
from dpd_runtime.errors import (
    BundleError,
    BundleHashError,
    BundleSizeError,
    InputError,
    MemoryShortError,
    ProviderError,
)
from dpd_runtime.files import check_json_size, equal_names, parse_json, spare_cache
from dpd_runtime.graph_check import WEIGHTS_NAME, CheckedGraph, read_graph
from dpd_runtime.graph_facts import bundle_facts
from dpd_runtime.machine import usable_memory
from dpd_runtime.manifest import AUDIT_NAME, MANIFEST_NAME, UNAUDITED, FileEntry, Manifest, check_noise, parse_manifest
from dpd_runtime.sampler import largest_ipc, sampler_schedule
from dpd_runtime.sessions import HERE, Host, OpenVinoEngine
from dpd_runtime.solvers import SOLVERS, Schedule, schedule_from_config
from dpd_runtime.tensorrt import Site, choose_engine, context_model, largest_batch, output_row, shape_ranges, this_site
from dpd_runtime.text import counted, joined
from dpd_runtime.trust import (
    SIGNATURE_NAME,
    UNSIGNED,
    PublicKey,
    Signature,
    check_fresh,
    check_signature,
    remember,
    trusted_keys,
)
from dpd_runtime.untrusted import apart

USUAL_IPC = 10
EMBEDDED_BUNDLE = "eurosat64.dpd"
EMBEDDED_HASH = "a09ecf4a556cd86a4efa984af387d4b2a89e7bfd3e94687be56e918425cd9481"
"""Of the embedded bundle, which is trusted as this package is."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bundle:
    """The content of a verified bundle.

    Args:
        hash: sha256 of bundle.json's bytes. It identifies the bundle. raw: these bytes.
        prompt_embeddings: [P, L, D]; empty_embedding: [L, D]. P, L and D are 0 in a codes-only bundle.
        files: content of all files but the engines, which are hashed in pieces and stay on the disk.
        graphs: its graphs that were read so far.
        signature: who signed it, by the keys that were trusted when it was opened.
        key: the key with which it was decrypted; None if it is not encrypted.
        remembered: whether this site refuses older bundles of its name from now on.
    """

    path: Path
    manifest: Manifest
    hash: str
    schedule: Schedule
    classes: tuple[SceneClass, ...]
    prompts: tuple[str, ...]
    prompt_embeddings: Float32
    empty_embedding: Float32
    files: Mapping[str, bytes]
    graphs: dict[str, CheckedGraph] = field(default_factory=dict, repr=False, compare=False)
    signature: Signature = UNSIGNED
    key: Key | None = field(default=None, repr=False)
    remembered: bool = False
    raw: bytes = field(default=b"", repr=False)

    def __repr__(self) -> str:
        height, width, _ = self.manifest.image_shape
        return (
            f"Bundle({self.manifest.name!r}, {counted(len(self.classes), 'class')}, {width} × {height} pixels, "
            f"{self.signature.describe()}, audit {self.manifest.audit}, hash {self.hash[:12]}…)"
        )

    def engine(self, graph: str, provider: Provider, threads: int | None = None, *, halves: bool = False) -> Engine:
        """Load one of the bundle's graphs, for example "unet/model.onnx".

        Args:
            threads: of one call; None for all usable cores.
            halves: let ONNX Runtime make each call as two simultaneous ones, with so many threads each.

        Raises:
            BundleError: there is no such graph, `check_graph` refuses it, it cannot be run, or the bundle's images do
                not fit into this process (`check_budget`).
            MissingExtraError, ProviderError: the provider is not installed, or does not work here.
        """
        if graph not in self.files:
            way_out = "without --codes-only" if self.manifest.codes_only else "again"
            raise BundleError(f"{self.path}: this bundle holds no {graph}; export the run {way_out}")
        check_budget(self, self.manifest.sampler)
        self.check_graph(graph)
        content, weights = self.files[graph], self.files.get(weights_of(graph))
        if provider.name == "openvino":
            if not self.trusted:
                raise ProviderError(
                    f"provider openvino: it does not check indices, so it runs graphs only of a bundle that a trusted "
                    f"key signed, and this one is {self.signature.describe()}; use --provider cpu, or have it signed"
                )
            if weights is not None:  # it would open the file of this name in the working folder
                raise ProviderError(f"provider openvino: {graph} has weights in a file beside it; use --provider cpu")
            return OpenVinoEngine(content, provider, threads, name=graph)
        compilation = Compilation()
        if provider.name in FLAVOURS:
            site = self.site(provider)
            folder = working_folder(self.engine_cache(site))
            built = self._compiled(graph, site)
            if built is None and provider.name == "tensorrt" and self.manifest.precision == "fp16":
                raise ProviderError(
                    f"provider tensorrt: compiled by ONNX Runtime, {graph} would lose the float32 parts of this fp16 "
                    f"bundle; run dpd engines {self.path} --flavour tensorrt first"
                )
            shapes = shape_ranges(graph, self.manifest, self.empty_embedding.shape) if built is None else {}
            content, weights = (content, weights) if built is None else (built, None)
            compilation = Compilation(shapes, folder)
        beside = None if weights is None else {WEIGHTS_NAME: weights}
        row = output_row(graph, self.manifest, len(self.classes))
        return self.host.load(content, provider, threads, beside, graph, compilation, halves=halves, row=row)

    def check_graph(self, graph: str) -> None:
        """Read a graph, once, and check that it may run.

        Raises:
            BundleError: as `read_graph`; its metadata contradict the bundle; or it needs a trusted signature, which the
                bundle has not.
        """
        if graph not in self.graphs:
            self.graphs[graph] = read_graph(graph, self.files[graph], weights_size(graph, self.files))
        names = [scene.name for scene in self.classes]
        self.graphs[graph].require_facts(bundle_facts(graph, self.manifest, names))
        if not self.trusted:
            self.graphs[graph].require_usual()

    def check_graphs(self) -> None:
        """Check all graphs, those too that nothing here runs and other tools open.

        Raises:
            BundleError: as `check_graph`.
        """
        for name in self.files:
            if name.endswith(".onnx"):
                self.check_graph(name)

    @property
    def trusted(self) -> bool:
        """Whether its graphs may do what others may not: a trusted key signed it, or it is the embedded one."""
        return self.signature.trusted or self.hash == EMBEDDED_HASH

    @property
    def host(self) -> Host:
        """The process in which its graphs run."""
        return HERE if self.trusted else apart(self.hash)

    def site(self, provider: Provider) -> Site:
        """The properties of this machine for a provider that compiles graphs.

        Raises:
            MissingExtraError, ProviderError: as `this_site`.
        """
        return this_site(provider.name, self.host.flavour_version(provider.name), provider.device)

    def engine_cache(self, site: Site) -> Path | None:
        """The file in the user's cache with what a provider compiled of this bundle here; None without a cache."""
        folder = spare_cache("engines")
        return None if folder is None else folder / self.hash / f"{site.folder}.cache"

    def engine_hashes(self, provider: Provider, graphs: Collection[str]) -> dict[str, str | None]:
        """sha256 of the compiled models of these graphs on this machine; None for one that each start compiles anew.

        Raises:
            MissingExtraError, ProviderError: as `site`.
        """
        site = self.site(provider)
        found = {graph: self._compiled(graph, site) for graph in graphs}
        return {graph: None if model is None else hashlib.sha256(model).hexdigest() for graph, model in found.items()}

    def _compiled(self, graph: str, site: Site) -> bytes | None:
        """A model around the engine of a graph, the bundle's own or one compiled here; None without either."""
        return self._built_engine(graph, site) or kept_model(working_folder(self.engine_cache(site)), self.files[graph])

    def _built_engine(self, graph: str, site: Site) -> bytes | None:
        """A model around the bundle's own engine of a graph, if a trusted key signed it and it fits this machine."""
        listed, largest = self.manifest.files, largest_batch(graph.partition("/")[0], self.manifest)
        chosen = choose_engine(self.files, listed, graph, largest, site, self.signature)
        if chosen.path is None:
            _log.info("%s is compiled here: %s", graph, chosen.reason)
            return None
        record = engine_records(self.files, listed)[chosen.path]
        return context_model(record, self.read_engine(chosen.path), NAMES[site.flavour])

    @property
    def largest_ipc(self) -> int | None:
        """The most images of a class that a codes-only bundle makes; None for other bundles, which make any number."""
        return largest_ipc([len(scene.prototypes) for scene in self.classes]) if self.manifest.codes_only else None

    @property
    def usual_ipc(self) -> int:
        """The images of a class that are made where nobody says how many: 10, or all that a codes-only bundle makes."""
        return min(USUAL_IPC, self.largest_ipc or USUAL_IPC)

    def prompt(self, scene: SceneClass, index: int) -> str:
        """Return the prompt of image `index` of a class; an empty text if the bundle is codes-only."""
        return self.prompts[scene.prompt_rows[index % len(scene.prompt_rows)]] if scene.prompt_rows else ""

    def read_engine(self, name: str) -> bytes:
        """Read an engine from the disk and check its hash again.

        Raises:
            BundleError: no such engine, or the bundle was changed after it was opened.
        """
        files = open_files(self.path, self.key)
        if not is_engine(name) or name not in self.manifest.files or name not in files:
            raise BundleError(f"{self.path}: no engine {name} in the bundle")
        content = bytes(files[name])
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.manifest.files[name].sha256:
            raise BundleHashError(name, digest, self.manifest.files[name].sha256)
        return content

    def select_classes(self, names: Sequence[str] | None) -> tuple[SceneClass, ...]:
        """The classes with these names, in the bundle's order; all classes for None.

        Raises:
            InputError: a text instead of a list of names, an unknown name, or one that stands twice.
        """
        if names is None:
            return self.classes
        if isinstance(names, str):
            raise InputError(f"classes is the text {names!r}; give a list of names, such as [{names!r}]")
        names = list(names)
        known = [c.name for c in self.classes]
        for name in names:
            if name not in known:
                have = ", ".join(joined([one]) for one in known)
                raise InputError(f"class {name!r} is not in the bundle, which has {have}")
            if names.count(name) > 1:
                raise InputError(f"class {name!r} is named twice: name it once")
        return tuple(c for c in self.classes if c.name in names)


def _signature(files: FolderFiles | ZipFiles, manifest: bytes, trusted: Sequence[PublicKey] | None) -> Signature:
    if SIGNATURE_NAME not in files:
        return UNSIGNED
    return check_signature(manifest, bytes(files[SIGNATURE_NAME]), trusted_keys() if trusted is None else trusted)


def _manifest_bytes(path: Path, files: FolderFiles | ZipFiles) -> bytes:
    """A copy of bundle.json, so that the same bytes are parsed, hashed and checked against the signature."""
    if MANIFEST_NAME not in files:
        raise BundleError(f"{path}: it has no {MANIFEST_NAME}, so it is not a dpd bundle")
    for name in (MANIFEST_NAME, SIGNATURE_NAME):
        if name in files:
            check_json_size(files.size(name), f"{path}: {name}")
            if isinstance(files, ZipFiles):
                files.check_crc(name)
    return bytes(files[MANIFEST_NAME])


def _schedule(files: Mapping[str, bytes], manifest: Manifest) -> Schedule:
    """The schedule, checked to work with the manifest's sampler."""
    name, sampler = "scheduler/scheduler_config.json", manifest.sampler
    config = parse_json(files[name], name)
    try:
        schedule = sampler_schedule(schedule_from_config(config), sampler)
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise BundleError(f"{name}: {str(error)[:300]}; export the bundle again") from error
    if schedule.prediction_type != manifest.prediction_type:
        raise BundleError(
            f"prediction_type is {manifest.prediction_type} in {MANIFEST_NAME} and {schedule.prediction_type} "
            "in the scheduler's config; export the bundle again"
        )
    if sampler.solver not in SOLVERS:
        raise BundleError(f"{MANIFEST_NAME}: solver {sampler.solver!r} is unknown: upgrade dpd-distill or export again")
    try:
        steps = SOLVERS[sampler.solver][0](schedule, sampler.steps)
        check_noise(manifest.latent_shape, sampler.candidates, sum(step.noise > 0 for step in steps))
    except (ValueError, ArithmeticError) as error:
        raise BundleError(f"{MANIFEST_NAME}: sampler: {str(error)[:300]}; export the bundle again") from error
    return schedule


def _check_audit(files: Mapping[str, bytes], manifest: Manifest) -> None:
    """Check that the manifest's verdict is the one of audit.json, and that neither is there without the other."""
    if AUDIT_NAME not in files:
        if manifest.audit != UNAUDITED:
            raise BundleError(
                f"{MANIFEST_NAME}: audit is {manifest.audit}, but there is no {AUDIT_NAME}; run dpd audit again"
            )
        return
    if manifest.privacy is not None:
        raise BundleError(
            f"{AUDIT_NAME} stands beside a claim of differential privacy, which figures from the images would end; "
            "do not use this bundle"
        )
    record = parse_json(files[AUDIT_NAME], AUDIT_NAME)
    verdict = record.get("verdict") if isinstance(record, dict) else None
    if verdict != manifest.audit:
        raise BundleError(
            f"{AUDIT_NAME}: its verdict is not {manifest.audit}, as {MANIFEST_NAME} says; run dpd audit again"
        )


def load_bundle(
    path: str | Path | None = None,
    key: Key | None = None,
    trusted: Sequence[PublicKey] | None = None,
    *,
    allow_older: bool = False,
) -> Bundle:
    """Open and verify a bundle. If a trusted key signed it, the trusted folder remembers its serial.

    Args:
        path: a .dpd file or a bundle folder; None for the embedded EuroSAT bundle.
        key: of an encrypted bundle, which is decrypted into memory: the passphrase, the 32 bytes of the key file, or an
            identity of age (AGE-SECRET-KEY-1…).
        trusted: keys whose signatures count; None for those in the user's trusted folder.
        allow_older: accept a bundle that has expired, or is older than the newest of its name seen here.

    Raises:
        OldBundleError: such a bundle without `allow_older`.
        BundleError: the bundle is missing, damaged, changed, incomplete or too new, the signature of a trusted key does
            not match, or the key is wrong. No graph has been loaded then.
        InputError: a key for a bundle that is not encrypted, or a trusted key that cannot be read.
        MemoryShortError: it does not fit into memory.
    """
    path = embedded_bundle() if path is None else Path(path)
    try:
        return _load(path, key, trusted, allow_older)
    except BundleError as error:
        if not str(error).startswith(str(path)):  # it names a file of the bundle
            error.args = (f"{path}: {error}",)
        raise
    except MemoryError as error:
        raise MemoryShortError(
            f"{path}: reading this bundle needs more memory than this process may use; close other programs, "
            "raise the limit (ulimit -v, the container's) or use a machine with more"
        ) from error


def _load(path: Path, key: Key | None, trusted: Sequence[PublicKey] | None, allow_older: bool) -> Bundle:
    files = open_files(path, key)
    raw = _manifest_bytes(path, files)
    signature = _signature(files, raw, trusted)
    manifest = parse_manifest(raw)
    if not allow_older:
        check_fresh(path, manifest, signature)
    verified = verified_files(files, manifest)
    _check_audit(verified, manifest)
    schedule = _schedule(verified, manifest)
    read_table = read_code_table if manifest.codes_only else read_class_table
    table = read_table(verified, manifest.latent_shape)
    return Bundle(
        path=path,
        manifest=manifest,
        hash=hashlib.sha256(raw).hexdigest(),
        schedule=schedule,
        classes=table.classes,
        prompts=table.prompts,
        prompt_embeddings=table.prompt_embeddings,
        empty_embedding=table.empty_embedding,
        files=verified,
        graphs=read_graphs(verified),
        signature=signature,
        key=key,
        remembered=remember(manifest, signature),
        raw=raw,
    )


def embedded_bundle() -> Path:
    """Path of the EuroSAT bundle that is part of the package."""
    return Path(str(resources.files("dpd_runtime") / "data" / EMBEDDED_BUNDLE))


# -- Check of a bundle's files: exactly those in the manifest, with the same sizes and hashes.


TENSORS = ".safetensors"
"""These files need four times their bytes: twice for the file and its tensors, twice for float16 widened to float32.
All others need twice their bytes, because ONNX Runtime copies the weights."""
REQUIRED = (
    "unet/model.onnx",
    "vae_decoder/model.onnx",
    "latent_classifier/model.onnx",
    "scheduler/scheduler_config.json",
    "prompts.safetensors",
    "prototypes.safetensors",
    "classes.json",
)
CODES_ONLY_REQUIRED = (
    "vae_decoder/model.onnx",
    "scheduler/scheduler_config.json",
    "prototypes.safetensors",
    "classes.json",
)
CODES_ONLY_OPTIONAL = (
    f"vae_decoder/{WEIGHTS_NAME}",
    "vae_decoder/config.json",
    "golden.safetensors",
    "audit.json",
    "MODEL_CARD.md",
)


def verified_files(files: FolderFiles | ZipFiles, manifest: Manifest) -> dict[str, bytes]:
    """Read and check the files that the manifest lists. Engines are checked but not returned.

    Files are copied before they are hashed, so that the checked bytes are the ones that run.

    Raises:
        BundleError: a file is missing, unlisted or changed; or all of them are too large for this machine's memory.
    """
    listed = set(manifest.files) | {MANIFEST_NAME, SIGNATURE_NAME}
    for name in files:
        if name not in listed:
            raise BundleError(
                f"{name} is in the bundle but not in {MANIFEST_NAME}; the bundle was changed, fetch it again"
            )
    _check_sizes(files, manifest)
    verified = {}
    for name, entry in manifest.files.items():
        if is_engine(name):
            _check_engine(files, name, entry)
            continue
        content = files.read(name)
        digest = hashlib.sha256(content).hexdigest()
        if len(content) != entry.bytes or digest != entry.sha256:
            raise BundleHashError(name, digest, entry.sha256)
        verified[name] = content
    _check_complete(verified, codes_only=manifest.codes_only)
    return verified


def _check_complete(verified: Mapping[str, bytes], *, codes_only: bool) -> None:
    """Check that all required files are there, and nothing else in a codes-only bundle."""
    required = CODES_ONLY_REQUIRED if codes_only else REQUIRED
    for name in required:
        if name not in verified:
            raise BundleError(f"{name} is not listed in {MANIFEST_NAME}; the bundle is incomplete, export it again")
    if not codes_only:
        return
    for name in verified:
        if name not in (*required, *CODES_ONLY_OPTIONAL) and not name.startswith(ENGINE_FOLDER):
            raise BundleError(f"{name} does not belong in a codes-only bundle; do not use this bundle")


def _check_sizes(files: FolderFiles | ZipFiles, manifest: Manifest) -> None:
    """Check, before any file is read, that all have plain names and the listed sizes, and fit into memory."""
    equal, needed = equal_names(manifest.files), 0
    if equal is not None:
        raise BundleError(f"{equal[0]!r} and {equal[1]!r} are one file on some systems; do not use this bundle")
    for name, entry in manifest.files.items():
        check_entry_name(name)
        if name.casefold() in (MANIFEST_NAME, SIGNATURE_NAME):
            raise BundleError(f"{MANIFEST_NAME} lists {name}, which has no hash there; do not use this bundle")
        if name not in files:
            raise BundleError(f"{name} is missing from the bundle; fetch or export it again")
        if files.size(name) != entry.bytes:
            raise BundleSizeError(name, files.size(name), entry.bytes)
        needed += 0 if is_engine(name) else entry.bytes * (4 if name.endswith(TENSORS) else 2)
    memory = usable_memory()
    if memory is not None and needed > memory:
        raise BundleError(
            f"the bundle needs {needed / 1e9:.1f} GB of memory, this process may use {memory / 1e9:.1f} GB; "
            "use a machine with more"
        )


def _check_engine(files: FolderFiles | ZipFiles, name: str, entry: FileEntry) -> None:
    """Check an engine's hash without holding it in memory."""
    digest, size = hashlib.sha256(), 0
    for piece in files.pieces(name):
        digest.update(piece)
        size += len(piece)
    if size != entry.bytes or digest.hexdigest() != entry.sha256:
        raise BundleHashError(name, digest.hexdigest(), entry.sha256)


MOST_GRAPHS = 32


def weights_of(graph: str) -> str:
    """The path of the file that may hold the weights of `graph`."""
    return str(PurePosixPath(graph).with_name(WEIGHTS_NAME))


def read_graphs(files: Mapping[str, bytes]) -> dict[str, CheckedGraph]:
    """Read the graphs of a bundle that may name another file, which has no part in it. Others are read when they run.

    A protobuf keeps a text in one piece, so a graph without the word `location` names no file.

    Raises:
        BundleError: as `read_graph`.
    """
    graphs = [name for name in files if name.endswith(".onnx")]
    if len(graphs) > MOST_GRAPHS:
        raise BundleError(f"it holds {len(graphs)} graphs, and a bundle has a handful; do not use it")
    found = [name for name in graphs if b"location" in files[name]]
    return {name: read_graph(name, files[name], weights_size(name, files)) for name in found}


def weights_size(graph: str, files: Mapping[str, bytes]) -> int:
    """Bytes of the file beside `graph` that may hold its weights; 0 without one."""
    return len(files.get(weights_of(graph), b""))
