"""What is asked of PyTorch before a run is exported: its images, its opinion, and what its parts make of inputs."""

import hashlib
import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from dpd_export.card.card import parameter_counts
from dpd_export.card.content import Record
from dpd_export.graphs.calibration import Calibration, calibrate
from dpd_export.graphs.int8 import check_size
from dpd_export.graphs.parity import INT8, Probes, probe
from dpd_export.graphs.parts import Graph, graphs_of
from dpd_export.graphs.trace import OPSET
from dpd_export.options import Options
from dpd_export.pruning import Pruned, prune
from dpd_export.pruning import check_size as check_prunable
from dpd_export.reference.cases import Scenes, prototype_bytes, read_scenes
from dpd_export.reference.end_to_end import Labels, pytorch_opinion
from dpd_export.reference.layout import layout_files
from dpd_export.reference.reference import Extent, Reference, extent_of, make_reference
from dpd_export.reference.run import sampler_of
from dpd_runtime.annotations import Progress
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.checks.golden import GOLDEN_NAME
from dpd_runtime.sampling.prototype_kinds import PRIVATE_KINDS
from dpd_runtime.sampling.sampler import Sampler, fitted
from dpd_train.bases.base import Base, load_base
from dpd_train.classifiers.network import load_classifier

TOOLS = ("dpd-distill", "torch", "onnx", "onnxscript", "diffusers")
SHIPPED_BASE = "nano"
GRAPHS = 5  # without the VAE's encoder


class Steps:
    """Progress of an export: PyTorch's cases, then graphs, then the bundle's cases, then packing."""

    def __init__(self, extent: Extent, graphs: int, pruning: bool, progress: Progress) -> None:
        """Args: pruning: filters are ranked, the rest is tuned, and the whole UNet's images are made too."""
        cases = 1 + extent.blocks
        self._done, self._progress = 0, progress
        self._total = cases + pruning * (2 + cases) + graphs + max(1, extent.blocks) + 1

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


@dataclass
class Material:
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
    step: Steps
    run_half: bool
    calibration: Calibration | None
    pruned: Pruned | None


def ask_pytorch(run: Path, record: dict[str, Any], options: Options, progress: Progress) -> Material:
    """Sample with PyTorch, and record what each part makes of its inputs: exporting in fp16 uses the modules up."""
    base = load_base(str(run / "pipeline"))
    teacher, judge = load_classifier(run / "classifier"), load_classifier(run / "latent_classifier")
    scenes, sampler = read_scenes(run, base), fitted(options.sampler or sampler_of(run), base.unet.config.sample_size)
    scenes = scenes.for_sampler(sampler)
    extent = extent_of(base, len(scenes.names), sampler)
    if options.precision == INT8:
        check_size(extent.large)
    if options.prune:
        check_prunable(extent.large)
    step = Steps(extent, GRAPHS + options.vae_encoder, options.prune is not None, progress)
    calibration = calibrate(base, scenes, sampler) if options.precision == INT8 or options.prune else None
    whole, pruned = base, None
    if options.prune and calibration:
        base, pruned = prune(whole, scenes, sampler, options.prune, calibration, step)
    graphs = graphs_of(base, teacher, judge, vae_encoder=options.vae_encoder, dynamic_size=options.dynamic_size)
    reference = make_reference(base, scenes, sampler, extent, step)
    opinion = pytorch_opinion(teacher, reference)
    if pruned:
        before = pytorch_opinion(teacher, make_reference(whole, scenes, sampler, extent, step))
        pruned = replace(pruned, teacher_agreement=float((before == opinion).mean()))
    files = layout_files(base, run, vae_encoder=options.vae_encoder)
    files |= {"prompts.safetensors": scenes.prompt_bytes(), "prototypes.safetensors": prototype_bytes(run)}
    return Material(
        record=record,
        graphs=graphs,
        probes=[probe(graph, reference.generated[graph.part], large=extent.large) for graph in graphs],
        reference=reference,
        opinion=opinion,
        scenes=scenes,
        parameters=parameter_counts(graphs),
        files=files | {GOLDEN_NAME: reference.golden.to_bytes()},
        manifest=_manifest(run, record, base, scenes, sampler, options, pruned),
        step=step,
        run_half=not extent.large,
        calibration=calibration if options.precision == INT8 else None,
        pruned=pruned,
    )


def _manifest(
    run: Path,
    record: dict[str, Any],
    base: Base,
    scenes: Scenes,
    sampler: Sampler,
    options: Options,
    pruned: Pruned | None,
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
        training={"config_sha256": config_hash(record["config"]), "versions": record.get("versions", {})}
        | ({"pruned": pruned.entries()} if pruned else {}),
    )


def config_hash(config: dict[str, Any]) -> str:
    """sha256 of run.json's `config` as JSON with sorted keys and no spaces, of the base's path only the last part."""
    named = config | {"base": PurePosixPath(str(config["base"])).name}
    return hashlib.sha256(json.dumps(named, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
