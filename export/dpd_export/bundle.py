"""Export a run, or codes: compute with PyTorch, compile and check the graphs, compare images, write the bundle."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dpd_export.card.card import CARD_NAME, model_card
from dpd_export.card.content import CardContent, Record
from dpd_export.card.private import private_card
from dpd_export.graphs.compile import Compiled, compile_graph, precision_of
from dpd_export.graphs.int8 import Speed
from dpd_export.inputs import ExportInputs, PrivateSet, gather_codes, gather_inputs, gather_private
from dpd_export.options import ExportOptions, check_export
from dpd_export.packing import entries, place, write_files, write_manifest
from dpd_export.reference.end_to_end import ImageParity
from dpd_runtime.annotations import Progress
from dpd_runtime.bundle.bundle import load_bundle
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.bundle.signature import Signature
from dpd_runtime.files import naming
from dpd_runtime.sampling.sampler import largest_ipc

Tell = Callable[[str], None]
OURS = Signature(trusted_as="this export")
"""Of a bundle whose graphs were made in this process a moment ago."""


def _nothing(*_: object) -> None:
    pass


def export_run(
    run: Path,
    out: Path,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = _nothing,
    tell: Tell = _nothing,
) -> dict[str, Any]:
    """Write a bundle (a .dpd file, or a folder) from the run directory `run`.

    Args:
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
    options = replace(options, name=options.name or run.resolve().name)
    finished, sampler = check_export(run, out, options, overwrite=overwrite)
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
    return CardContent(record, manifest, inputs.cases.table, inputs.parameters, options.of_the_card())


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
        done.append(
            compile_graph(
                graph,
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
