"""Export a run, or codes: compute with PyTorch, compile and check the graphs, compare images, write the bundle."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from dpd_export.card import CARD_NAME, CardContent, Record, model_card, private_card
from dpd_export.compile import Compiled, Probes, compile_graph, precision_of, probe
from dpd_export.graphs import OPSET, Calibration, Graph, decoder_graph, graphs_of
from dpd_export.int8 import Speed, check_size
from dpd_export.options import INT8, ExportOptions, check_export
from dpd_export.packing import entries, place, write_files, write_manifest
from dpd_export.pruned import Prune, Pruned
from dpd_export.reference import (
    ImageParity,
    RunCases,
    calibrate,
    cases_of,
    check_agreement,
    codes_only_files,
    compare_codes,
    decode_codes,
    end_to_end,
    extent_of,
    layout_files,
    make_reference,
    teacher_labels,
)
from dpd_runtime.annotations import Float32, Progress
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.files import naming
from dpd_runtime.golden import GOLDEN_NAME
from dpd_runtime.graph_facts import bundle_facts
from dpd_runtime.manifest import BANDS_VERSION, CODES_ONLY_VERSION, PRIVACY_VERSION, Manifest, PrivacyClaim
from dpd_runtime.sampler import PRIVATE_KINDS, Sampler, decoding_sampler, fitted, largest_ipc, sampler_schedule
from dpd_runtime.trust import Signature
from dpd_train.base_files import SHIPPED_BASE, hub_id
from dpd_train.bases import Base
from dpd_train.context import LoadedRun, load_run
from dpd_train.doors import open_named
from dpd_train.run import Run, open_run, told_of_size

# -- Gather what a bundle is made from: the run's networks, pruned if asked, reference images, files, manifest.


TOOLS = ("dpd-distill", "torch", "onnx", "onnxscript", "diffusers")
GRAPHS = 5  # without the VAE's encoder


class Steps:
    """Counts the steps of an export: PyTorch's cases, graphs, the bundle's cases, packing."""

    def __init__(self, cases: int, compared: int, graphs: int, progress: Progress, pruning: bool = False) -> None:
        """Pruning adds steps: filters are removed, the rest is fine-tuned, and the whole UNet is sampled too."""
        self._done, self._progress = 0, progress
        self._total = cases + pruning * (2 + cases) + graphs + compared + 1

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


@dataclass
class ExportInputs:
    """What an export needs from the run and from PyTorch; `graphs` and `probes` shrink while graphs are compiled.

    Args:
        probes: inputs and PyTorch's outputs of each graph.
        compare: makes the reference's images with the bundle; raises ParityError where they differ too much.
        parameters: number of parameters of each graph, by its path.
        files: content of the bundle's other files, by path.
        manifest: without files and parity.
        run_half: whether PyTorch is compared with its own half precision.
        calibration: for int8, else None.
    """

    graphs: list[Graph]
    probes: list[Probes]
    compare: Callable[[Bundle], ImageParity]
    cases: RunCases
    parameters: dict[str, int]
    files: dict[str, bytes]
    manifest: Manifest
    step: Steps
    run_half: bool
    calibration: Calibration | None
    pruned: Pruned | None


def gather_inputs(run: Run, sampler: Sampler, options: ExportOptions, progress: Progress) -> ExportInputs:
    """Sample with PyTorch and record each part's outputs, before fp16 export changes the modules."""
    opened = load_run(run)
    cases = cases_of(opened, fitted(sampler, opened.latent_shape[1]))
    extent = extent_of(opened.base, len(cases.names), cases.sampler)
    if options.precision == INT8:
        check_size(extent.large)
    step = Steps(
        1 + extent.blocks,
        max(1, extent.blocks),
        GRAPHS + options.vae_encoder,
        progress,
        options.prune is not None,
    )
    calibration = calibrate(opened.base, cases) if options.precision == INT8 else None
    base, pruned = opened.base, None
    if options.prune is not None:
        prune: Prune = open_named("dpd.pruning", options.prune, "--prune")
        base, pruned = prune(opened.base, cases, step)
    graphs = graphs_of(
        base,
        opened.teacher,
        opened.latent_classifier,
        vae_encoder=options.vae_encoder,
        dynamic_size=options.dynamic_size,
    )
    reference = make_reference(base, cases, extent, step)
    labels = teacher_labels(opened.teacher, reference)
    if pruned:
        before = teacher_labels(opened.teacher, make_reference(opened.base, cases, extent, step))
        pruned = replace(pruned, teacher_agreement=float((before == labels).mean()))

    def compare(bundle: Bundle) -> ImageParity:
        measured = end_to_end(bundle, reference, labels, step)
        if options.precision == INT8 and not options.allow_worse:
            check_agreement(measured)
        return measured

    return ExportInputs(
        graphs=graphs,
        probes=[probe(graph, reference.generated[graph.part], large=extent.large) for graph in graphs],
        compare=compare,
        cases=cases,
        parameters={graph.path: graph.weights for graph in graphs},
        files=layout_files(opened, vae_encoder=options.vae_encoder) | {GOLDEN_NAME: reference.golden.to_bytes()},
        manifest=_manifest(opened, cases.sampler, options, pruned),
        step=step,
        run_half=not extent.large,
        calibration=calibration,
        pruned=pruned,
    )


def gather_codes(run: Run, sampler: Sampler, options: ExportOptions, progress: Progress) -> ExportInputs:
    """Decode the codes with PyTorch, and gather what a codes-only bundle holds."""
    opened = load_run(run)
    cases = cases_of(opened, fitted(sampler, opened.latent_shape[1]))
    plain = _manifest(opened, cases.sampler, options, None)
    version = BANDS_VERSION if plain.bands else CODES_ONLY_VERSION
    manifest = replace(plain, codes_only=True, format_version=version)
    files = codes_only_files(run.path / "pipeline", run.table, opened.stored_prototypes)
    return _of_codes(opened.base, cases, files, manifest, progress)


@dataclass(frozen=True, kw_only=True)
class PrivateSet:
    """Codes with differential privacy, and the base that decodes them.

    Args:
        pipeline: folder of the base in diffusers' layout, at the codes' size. shipped: whether it is our own base.
        counts: class → number of private images, which are public.
        codes: [classes, K, C, h, w], scaled.
    """

    base: Base
    pipeline: Path
    shipped: bool
    counts: Mapping[str, int]
    codes: Float32
    claim: PrivacyClaim


def gather_private(made: PrivateSet, options: ExportOptions, progress: Progress) -> ExportInputs:
    """Decode the codes with PyTorch, and gather what their bundle holds: of the private images only the codes."""
    entries = [
        {"name": name, "prompt_rows": [], "prototype_counts": [count] * made.codes.shape[1]}
        for name, count in made.counts.items()
    ]
    table = {"prototype_kind": "matched", "prompts": [], "classes": entries}
    stored = {f"class.{label}": codes for label, codes in enumerate(made.codes)}
    channels, *side = made.codes.shape[2:]
    sampler = fitted(decoding_sampler(), side[0])
    cases = RunCases(
        table=table,
        prompts=np.zeros((0, 0, 0), np.float32),
        prototypes=tuple(codes.astype(np.float16).astype(np.float32) for codes in made.codes),
        latent_shape=(channels, side[0], side[1]),
        schedule=sampler_schedule(made.base.schedule, sampler),
        sampler=sampler,
    )
    manifest = Manifest(
        name=options.name or "private",
        image_shape=(made.base.resolution, made.base.resolution, 3),
        latent_shape=cases.latent_shape,
        scaling_factor=float(made.base.vae.config.scaling_factor),
        prediction_type=made.base.schedule.prediction_type,
        sampler=sampler,
        precision=options.precision,
        opset=OPSET,
        files={},
        tools=_tools(),
        licences=_licences(made.shipped, options),
        data={"images": sum(made.counts.values())},
        codes_only=True,
        privacy=made.claim,
        format_version=PRIVACY_VERSION,
    )
    return _of_codes(made.base, cases, codes_only_files(made.pipeline, table, stored), manifest, progress)


def _of_codes(
    base: Base, cases: RunCases, files: dict[str, bytes], manifest: Manifest, progress: Progress
) -> ExportInputs:
    extent, graph = extent_of(base, len(cases.names), cases.sampler), decoder_graph(base)
    step = Steps(1 + extent.blocks, 1, 1, progress)
    decoded = decode_codes(base, cases.prototypes, extent, step)
    generated = torch.from_numpy(decoded.golden_codes / np.float32(base.vae.config.scaling_factor))
    return ExportInputs(
        graphs=[graph],
        probes=[probe(graph, [(generated,)], large=extent.large)],
        compare=lambda bundle: compare_codes(bundle, decoded, step),
        cases=cases,
        parameters={graph.path: graph.weights},
        files=files | {GOLDEN_NAME: decoded.golden.to_bytes()},
        manifest=manifest,
        step=step,
        run_half=not extent.large,
        calibration=None,
        pruned=None,
    )


def _manifest(opened: LoadedRun, sampler: Sampler, options: ExportOptions, pruned: Pruned | None) -> Manifest:
    plain, record = opened.manifest(sampler), opened.run.record
    marks = {"private_prototypes": True} if opened.run.table.get("prototype_kind") in PRIVATE_KINDS else {}
    sides = {"scene_sides": record["data"]["scene_sides"]} if told_of_size(record) else {}
    return replace(
        plain,
        name=options.name or plain.name,
        precision=options.precision,
        opset=OPSET,
        tools=_tools(),
        licences=_licences(record["config"]["base"] == SHIPPED_BASE, options),
        data={"images": record["data"]["images"], "fingerprint": record["data"]["sha256"], **marks, **sides},
        training={"config_sha256": config_hash(record["config"]), "versions": record.get("versions", {})}
        | ({"pruned": pruned.entries()} if pruned else {})
        | ({"watchers": record["watchers"]} if "watchers" in record else {}),
    )


def _tools() -> dict[str, str]:
    return {tool: version(tool).split("+")[0] for tool in TOOLS}


def _licences(shipped: bool, options: ExportOptions) -> dict[str, str]:
    return {
        "base": options.base_licence or ("Apache-2.0" if shipped else "unstated"),
        "data": options.data_licence,
    }


def config_hash(config: dict[str, Any]) -> str:
    """sha256 of run.json's `config` as JSON with sorted keys and no spaces; of the base's path only the last part."""
    named = config | {"base": PurePosixPath(str(config["base"])).name}
    return hashlib.sha256(
        json.dumps(named, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


# -- Export a run, or codes: compute with PyTorch, compile and check the graphs, compare images, write the bundle.


Tell = Callable[[str], None]
OURS = Signature(trusted_as="this export")
"""Of a bundle whose graphs were made in this process a moment ago."""


def _nothing(*_: object) -> None:
    pass


def export_run(
    run: Path | Run,
    out: Path,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = _nothing,
    tell: Tell = _nothing,
) -> dict[str, Any]:
    """Write a bundle (a .dpd file, or a folder) from a run.

    Args:
        run: its directory, or the run opened.
        overwrite: replace an existing bundle at `out`.
        tell: called with one line for each compiled graph.

    Returns:
        out, bytes, bundle_hash, parity, graphs, largest_ipc (None for no limit). For int8 and pruned UNets also their
        size and speed before and after; times are not in the bundle, so that its bytes are the same each time.

    Raises:
        InputError: no finished run, something else at `out`, prototypes of a private kind, int8 or pruning for a large
            base, or a codes-only bundle of a run without matched codes.
        ParityError: a graph, or the images end to end, are too far from PyTorch. Nothing is left at `out` then.
    """
    options = options or ExportOptions()
    finished = run if isinstance(run, Run) else open_run(run)
    options = replace(options, name=options.name or finished.path.resolve().name)
    sampler = check_export(finished, out, options, overwrite=overwrite)
    gather = gather_codes if options.codes_only else gather_inputs
    inputs = gather(finished, sampler, options, progress)

    def card(manifest: Manifest) -> bytes:
        return model_card(_content(inputs, finished.record, manifest, options))

    compiled, manifest = _write(inputs, card, out, options, tell)
    return _size(manifest, out) | {
        "parity": dict(manifest.parity),
        "graphs": {
            one.path: {"bytes": one.bytes, "seconds": one.seconds, "peak_memory": one.peak_memory} for one in compiled
        },
        "int8": {one.path: _int8(one.whole_bytes, one.speed) for one in compiled if one.speed},
        "pruned": asdict(inputs.pruned) if inputs.pruned else None,
        "largest_ipc": largest_ipc([*map(len, inputs.cases.prototypes)]) if options.codes_only else None,
    }


def export_private(
    made: PrivateSet, out: Path, options: ExportOptions, *, progress: Progress = _nothing, tell: Tell = _nothing
) -> dict[str, Any]:
    """Write a codes-only bundle that claims differential privacy. Of the private images only the codes are in it.

    Its card and its manifest have no figure, hash or text from the private images but the codes' own parity.

    Returns:
        out, bytes, bundle_hash, largest_ipc.

    Raises:
        ParityError: the decoder's graph is too far from PyTorch. Nothing is left at `out` then.
    """
    inputs = gather_private(made, options, progress)

    def card(manifest: Manifest) -> bytes:
        return private_card(_content(inputs, {"data": {"classes": dict(made.counts)}}, manifest, options))

    _, manifest = _write(inputs, card, out, options, tell)
    return _size(manifest, out) | {"largest_ipc": largest_ipc([*map(len, inputs.cases.prototypes)])}


def _content(inputs: ExportInputs, record: Record, manifest: Manifest, options: ExportOptions) -> CardContent:
    asked = options.of_the_card() | {"prune": inputs.pruned.pruning if inputs.pruned else None}
    base = record.get("config", {}).get("base", SHIPPED_BASE)
    return CardContent(record, manifest, inputs.cases.table, inputs.parameters, hub_id(base), asked)


def _size(manifest: Manifest, out: Path) -> dict[str, Any]:
    raw = manifest.to_json()
    return {
        "out": str(out),
        "bytes": sum(entry.bytes for entry in manifest.files.values()) + len(raw),
        "bundle_hash": hashlib.sha256(raw).hexdigest(),
    }


def _write(
    inputs: ExportInputs, card: Callable[[Manifest], bytes], out: Path, options: ExportOptions, tell: Tell
) -> tuple[list[Compiled], Manifest]:
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        with naming(out):
            compiled, manifest = _assemble(inputs, card, scratch / "bundle", options, tell)
            place(scratch / "bundle", out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    inputs.step()
    return compiled, manifest


def _assemble(
    inputs: ExportInputs, card: Callable[[Manifest], bytes], folder: Path, options: ExportOptions, tell: Tell
) -> tuple[list[Compiled], Manifest]:
    """Write all files into `folder`, the manifest last.

    Args:
        card: makes the model card from the manifest with the final parity and all other files.
    """
    compiled = _compile_all(inputs, folder, options, tell)
    write_files(folder, inputs.files)
    manifest = replace(inputs.manifest, files=entries(folder))
    write_manifest(folder, manifest)
    measured = inputs.compare(replace(load_bundle(folder), signature=OURS))
    manifest = replace(manifest, parity=_parity(compiled, measured))
    write_files(folder, {CARD_NAME: card(manifest)})
    manifest = replace(manifest, files=entries(folder))
    write_manifest(folder, manifest)
    return compiled, manifest


def _compile_all(inputs: ExportInputs, folder: Path, options: ExportOptions, tell: Tell) -> list[Compiled]:
    """Compile one graph after the other; each module is released before the next one is traced."""
    done = []
    while inputs.graphs:
        graph = inputs.graphs.pop(0)
        facts = bundle_facts(graph.path, inputs.manifest, inputs.cases.names)
        done.append(
            compile_graph(
                replace(graph, facts=facts),
                inputs.probes.pop(0),
                precision_of(graph.part, options.precision),
                folder,
                run_half=inputs.run_half,
                largest_file=options.largest_file,
                calibration=inputs.calibration,
            )
        )
        del graph
        tell(done[-1].line())
        inputs.step()
    return done


def _parity(compiled: list[Compiled], measured: ImageParity) -> dict[str, float]:
    figures: dict[str, float] = {}
    for one in compiled:
        figures |= one.entries()
    return figures | measured.entries()


def _int8(whole_bytes: int, speed: Speed) -> dict[str, Any]:
    return {
        "fp32_bytes": whole_bytes,
        "batch": speed.batch,
        "fp32_ms": speed.whole_ms,
        "int8_ms": speed.small_ms,
    }
