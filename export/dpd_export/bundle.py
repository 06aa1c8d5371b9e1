"""From a run to a bundle: PyTorch's own images, graphs, parity, the bundle's images, the manifest last."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dpd_export.card.card import CARD_NAME, GENERATED, HALF, model_card
from dpd_export.card.content import CardContent
from dpd_export.graphs.compile import Compiled, check_precision, compile_graph, precision_of, told
from dpd_export.graphs.files import LARGEST_FILE, write_graph
from dpd_export.graphs.int8 import Speed
from dpd_export.graphs.parity import INT8
from dpd_export.graphs.step import step_graph
from dpd_export.options import Options
from dpd_export.packing import entries, place, write_files, write_manifest
from dpd_export.pruning import parse_pruning
from dpd_export.reference.end_to_end import EndToEnd, check_agreement, end_to_end
from dpd_export.reference.inputs import Material, ask_pytorch
from dpd_export.reference.run import check_prototypes, read_run
from dpd_runtime.annotations import Progress
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.errors import InputError
from dpd_runtime.sampling.sampler import Sampler
from dpd_runtime.sampling.step_table import GRAPH as STEP
from dpd_runtime.sealing.reseal import check_target

Tell = Callable[[str], None]
SMALLER = "#smaller"
"""Ending of a graph's path in the manifest's parity: how many times smaller int8 made it than float32."""


def _nothing(*_: object) -> None:
    pass


def _compile_all(material: Material, folder: Path, options: Options, tell: Tell) -> list[Compiled]:
    """One after the other; each module is released before the next one is traced."""
    done = []
    while material.graphs:
        graph = material.graphs.pop(0)
        done.append(
            compile_graph(
                graph,
                material.probes.pop(0),
                precision_of(graph.part, options.precision),
                folder,
                run_half=material.run_half,
                largest_file=options.largest_file,
                calibration=material.calibration,
            )
        )
        del graph
        tell(told(done[-1]))
        material.step()
    return done


def _parity(compiled: list[Compiled], measured: EndToEnd) -> dict[str, float]:
    figures: dict[str, float] = {}
    for one in compiled:
        figures |= {one.path: one.random, one.path + GENERATED: one.generated}
        figures |= {one.path + HALF: one.half} if one.half is not None else {}
        figures |= {f"{one.path}{SMALLER}": round(one.whole_bytes / one.bytes, 2)} if one.speed else {}
    return figures | measured.entries()


def _assemble(material: Material, folder: Path, options: Options, tell: Tell) -> tuple[list[Compiled], Manifest]:
    """Everything into `folder`, the manifest last."""
    compiled = _compile_all(material, folder, options, tell)
    scenes, step = material.scenes, material.step
    write_graph(step_graph(scenes.latent_shape, scenes.block_factor), folder / STEP)
    write_files(folder, material.files)
    manifest = replace(material.manifest, files=entries(folder))
    write_manifest(folder, manifest)
    measured = end_to_end(load_bundle(folder), material.reference, material.opinion, step)
    if options.precision == INT8 and not options.allow_worse:
        check_agreement(measured)
    manifest = replace(manifest, parity=_parity(compiled, measured))
    content = CardContent(material.record, manifest, scenes.table, material.parameters, options.of_the_card())
    write_files(folder, {CARD_NAME: model_card(content)})
    manifest = replace(manifest, files=entries(folder))
    write_manifest(folder, manifest)
    return compiled, manifest


def _int8(whole_bytes: int, speed: Speed) -> dict[str, Any]:
    return {
        "fp32_bytes": whole_bytes,
        "batch": speed.batch,
        "fp32_ms": speed.whole_ms,
        "int8_ms": speed.small_ms,
    }


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
    allow_worse: bool = False,
    prune: str | None = None,
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
        allow_worse: write an int8 bundle whatever the teacher says of its images.
        prune: which share of the UNet's filters goes, and how it is chosen: `pic-pq:0.3`, `magnitude:0.3`.
        largest_file: bytes of weights in a graph's own file; more lie beside it.
        tell: is given a line for each graph.

    Returns:
        out, bytes, bundle_hash, parity, graphs. For int8 and pruned UNets also what they were made from and how fast
        both are: times are not in the bundle, which has the same bytes each time.

    Raises:
        InputError: no finished run, something else at `out`, prototypes that are real images, or int8 for a base of
            which only one image is compared.
        ParityError: a graph, or the images end to end, too far from PyTorch; nothing is left at `out` then.
    """
    check_precision(precision)
    if allow_worse and precision != INT8:
        raise InputError(f"--allow-worse has no effect with --precision {precision}: it is for int8")
    pruning = parse_pruning(prune) if prune else None
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
        allow_worse=allow_worse,
        prune=pruning,
        largest_file=largest_file,
    )
    material = ask_pytorch(run, record, options, progress)
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
        "int8": {one.path: _int8(one.whole_bytes, one.speed) for one in compiled if one.speed},
        "pruned": asdict(material.pruned) if material.pruned else None,
    }
