"""From a run to a bundle: PyTorch's own images, graphs, parity, the bundle's images, the manifest last."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpd_export.card_content import CardContent, Record
from dpd_export.compiling import Compiled, check_precision, compile_graph, told
from dpd_export.end_to_end import EndToEnd, Labels, end_to_end, pytorch_opinion
from dpd_export.graphs import Graph, graphs_of
from dpd_export.layout import layout_files
from dpd_export.model_card import CARD_NAME, GENERATED, HALF, model_card, parameter_counts
from dpd_export.onnx_files import LARGEST_FILE, write_graph
from dpd_export.options import DEFAULT_SAMPLER, Options, fitted
from dpd_export.packing import entries, place, write_files, write_manifest
from dpd_export.parity import Probes, probe
from dpd_export.reference import Extent, Reference, extent_of, make_reference
from dpd_export.run_checks import check_prototypes, check_target, read_run
from dpd_export.scenes import Scenes, prototype_bytes, read_scenes
from dpd_export.step_graph import step_graph
from dpd_export.tracing import OPSET
from dpd_runtime.bundle import load_bundle
from dpd_runtime.golden import GOLDEN_NAME
from dpd_runtime.manifest import Manifest, Sampler
from dpd_runtime.prototype_kinds import PRIVATE_KINDS
from dpd_runtime.step_table import GRAPH as STEP
from dpd_train.base import Base, load_base
from dpd_train.judges import load_classifier

TOOLS = ("dpd-distill", "torch", "onnx", "onnxscript", "diffusers")
SHIPPED_BASE = "nano"
Progress = Callable[[int, int], None]
Tell = Callable[[str], None]


def _nothing(*_: object) -> None:
    pass


class _Steps:
    """Progress of an export: PyTorch's cases, then graphs, then the bundle's cases, then packing."""

    def __init__(self, extent: Extent, graphs: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, 1 + extent.blocks + graphs + max(1, extent.blocks) + 1, progress

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


@dataclass
class _Material:
    """What is left of a run when PyTorch has been asked: `graphs` and `probes` shrink while graphs are compiled.

    Args:
        manifest: without files and parity. opinion: of PyTorch's teacher on PyTorch's images.
    """

    record: Record
    graphs: list[Graph]
    probes: list[Probes]
    reference: Reference
    opinion: Labels
    scenes: Scenes
    parameters: dict[str, int]
    files: dict[str, bytes]
    manifest: Manifest
    step: _Steps
    run_half: bool


def _ask_pytorch(run: Path, record: dict[str, Any], options: Options, progress: Progress) -> _Material:
    """Sample with PyTorch, and record what each part makes of its inputs: exporting in fp16 uses the modules up."""
    base = load_base(str(run / "pipeline"))
    teacher, judge = load_classifier(run / "classifier"), load_classifier(run / "latent_classifier")
    scenes, sampler = read_scenes(run, base), options.sampler or fitted(DEFAULT_SAMPLER, base.unet.config.sample_size)
    graphs = graphs_of(base, teacher, judge, vae_encoder=options.vae_encoder, dynamic_size=options.dynamic_size)
    extent = extent_of(base, len(scenes.names), sampler)
    step = _Steps(extent, len(graphs), progress)
    reference = make_reference(base, scenes, sampler, extent, step)
    files = layout_files(base, run, vae_encoder=options.vae_encoder)
    files |= {"prompts.safetensors": scenes.prompt_bytes(), "prototypes.safetensors": prototype_bytes(run)}
    return _Material(
        record=record,
        graphs=graphs,
        probes=[probe(graph, reference.generated[graph.part], large=extent.large) for graph in graphs],
        reference=reference,
        opinion=pytorch_opinion(teacher, reference),
        scenes=scenes,
        parameters=parameter_counts(graphs),
        files=files | {GOLDEN_NAME: reference.golden.to_bytes()},
        manifest=_manifest(run, record, base, scenes, sampler, options),
        step=step,
        run_half=not extent.large,
    )


def _manifest(
    run: Path, record: dict[str, Any], base: Base, scenes: Scenes, sampler: Sampler, options: Options
) -> Manifest:
    shipped = "Apache-2.0" if record["config"]["base"] == SHIPPED_BASE else "unstated"
    marks = {"private_prototypes": True} if scenes.table.get("prototype_kind") in PRIVATE_KINDS else {}
    return Manifest(
        name=options.name or run.resolve().name,
        image_shape=(base.resolution, base.resolution, 3),
        latent_shape=scenes.latent_shape,
        scaling_factor=float(base.vae.config.scaling_factor),
        prediction_type=base.schedule.prediction_type,
        sampler=sampler,
        precision=options.precision,
        opset=OPSET,
        files={},
        tools={tool: version(tool).split("+")[0] for tool in TOOLS},
        licences={"base": options.base_licence or shipped, "data": options.data_licence},
        data={"images": record["data"]["images"], "fingerprint": record["data"]["sha256"], **marks},
    )


def _compile_all(material: _Material, folder: Path, options: Options, tell: Tell) -> list[Compiled]:
    """One after the other; each module is released before the next one is traced."""
    done = []
    while material.graphs:
        done.append(
            compile_graph(
                material.graphs.pop(0),
                material.probes.pop(0),
                options.precision,
                folder,
                run_half=material.run_half,
                largest_file=options.largest_file,
            )
        )
        tell(told(done[-1]))
        material.step()
    return done


def _parity(compiled: list[Compiled], measured: EndToEnd) -> dict[str, float]:
    figures: dict[str, float] = {}
    for one in compiled:
        figures |= {one.path: one.random, one.path + GENERATED: one.generated}
        figures |= {one.path + HALF: one.half} if one.half is not None else {}
    return figures | measured.entries()


def _assemble(material: _Material, folder: Path, options: Options, tell: Tell) -> tuple[list[Compiled], Manifest]:
    """Everything into `folder`, the manifest last."""
    compiled = _compile_all(material, folder, options, tell)
    scenes, step = material.scenes, material.step
    write_graph(step_graph(scenes.latent_shape, scenes.block_factor), folder / STEP)
    write_files(folder, material.files)
    manifest = replace(material.manifest, files=entries(folder))
    write_manifest(folder, manifest)
    measured = end_to_end(load_bundle(folder), material.reference, material.opinion, step)
    manifest = replace(manifest, parity=_parity(compiled, measured))
    content = CardContent(material.record, manifest, scenes.table, material.parameters, options.of_the_card())
    write_files(folder, {CARD_NAME: model_card(content)})
    manifest = replace(manifest, files=entries(folder))
    write_manifest(folder, manifest)
    return compiled, manifest


def export_run(
    run: Path,
    out: Path,
    *,
    precision: str = "fp16",
    name: str | None = None,
    data_licence: str = "unstated",
    base_licence: str | None = None,
    sampler: Sampler | None = None,
    vae_encoder: bool = False,
    dynamic_size: bool = False,
    allow_real_prototypes: bool = False,
    overwrite: bool = False,
    largest_file: int = LARGEST_FILE,
    progress: Progress = _nothing,
    tell: Tell = _nothing,
) -> dict[str, Any]:
    """Write a bundle (a .dpd file, or a folder) from the run directory `run`.

    Args:
        base_licence: of the base; known for `nano` alone.
        sampler: the bundle's defaults; without it ours, fitted to the size of the latents.
        vae_encoder: ship the VAE's encoder too.
        dynamic_size: UNet and VAE take any height and width.
        largest_file: bytes of weights in a graph's own file; more lie beside it.
        tell: is given a line for each graph.

    Returns:
        out, bytes, bundle_hash, parity, graphs.

    Raises:
        InputError: no finished run, something else at `out`, or prototypes that are real images.
        ParityError: a graph, or the images end to end, too far from PyTorch; nothing is left at `out` then.
    """
    check_precision(precision)
    record = read_run(run)
    check_prototypes(run, allow_real_prototypes)
    check_target(out, overwrite)
    options = Options(
        precision=precision,
        name=name,
        data_licence=data_licence,
        base_licence=base_licence,
        sampler=sampler,
        vae_encoder=vae_encoder,
        dynamic_size=dynamic_size,
        allow_real_prototypes=allow_real_prototypes,
        largest_file=largest_file,
    )
    material = _ask_pytorch(run, record, options, progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        compiled, manifest = _assemble(material, scratch / "bundle", options, tell)
        place(scratch / "bundle", out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    material.step()
    raw = manifest.to_json()
    return {
        "out": str(out),
        "bytes": sum(entry.bytes for entry in manifest.files.values()) + len(raw),
        "bundle_hash": hashlib.sha256(raw).hexdigest(),
        "parity": dict(manifest.parity),
        "graphs": {
            one.path: {"bytes": one.bytes, "seconds": one.seconds, "peak_memory": one.peak_memory} for one in compiled
        },
    }
