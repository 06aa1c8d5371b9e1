"""Gather graphs, prompts, prototypes and configs, prove parity, write the manifest last."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save as tensor_bytes

from dpd_export.card_content import CardContent
from dpd_export.graphs import OPSET, export_graph, graphs_of, halve_weights, to_bytes
from dpd_export.model_card import CARD_NAME, model_card, parameter_counts
from dpd_export.parity import PSNR_LIMITS, check, largest_difference, psnr
from dpd_runtime.archive import write_zip
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.errors import BundleError, InputError, ParityError
from dpd_runtime.generate import BLOCK, Generation, resolve_sampler
from dpd_runtime.manifest import MANIFEST_NAME, BlockGuidance, FileEntry, Manifest, Sampler
from dpd_runtime.noise import NoiseStream
from dpd_runtime.prototype_kinds import PRIVATE_KINDS
from dpd_runtime.sampling import sample
from dpd_runtime.solvers import SOLVERS
from dpd_train.base import TOKENIZER_FILES, Base, decode_images, load_base, torch_denoise
from dpd_train.judges import load_classifier
from dpd_train.prompts import embed

DEFAULT_SAMPLER = Sampler(
    solver="dpm++2m",
    steps=15,
    candidates=3,
    guidance=(
        BlockGuidance(from_block=0, guidance_scale=1.5, prototype_scale=0.1, prototype_until=0.5),
        BlockGuidance(from_block=1, guidance_scale=1.25, prototype_scale=0.1, prototype_until=0.5),
    ),
)
TOOLS = ("dpd-distill", "torch", "onnx", "onnxscript", "diffusers")
Progress = Callable[[int, int], None]


def _json_bytes(content: object) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _read_run(run: Path) -> dict[str, Any]:
    path = run / "run.json"
    if not path.is_file():
        unfinished = (run / "checkpoints").is_dir()
        hint = "finish it with dpd train … --resume" if unfinished else "give a folder that dpd train left"
        raise InputError(f"{run}: no run.json in it; {hint}")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _check_prototypes(run: Path, allow_real: bool) -> bool:
    """Whether the prototypes are real images.

    Raises:
        InputError: they are, and that was not allowed.
    """
    kind = json.loads((run / "classes.json").read_text(encoding="utf-8"))["prototype_kind"]
    if kind in PRIVATE_KINDS and not allow_real:
        raise InputError(
            f"{run}: its prototypes ({kind}) are latents of real images and decode to them; train with --prototypes "
            "centroid or pooled, or pass --allow-real-prototypes where the images may leave"
        )
    return kind in PRIVATE_KINDS


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists; choose another --out, or pass --overwrite")
    try:
        load_bundle(out)
    except BundleError as error:
        raise InputError(f"{out} is no intact bundle ({error}); it is not overwritten, choose another --out") from error


def _config_files(base: Base, run: Path) -> dict[str, bytes]:
    """The layout which optimum's ORTStableDiffusionPipeline opens (DEPLOYMENT §3)."""
    pipeline = run / "pipeline"
    files = {
        "unet/config.json": (pipeline / "unet" / "config.json").read_bytes(),
        "vae_decoder/config.json": (pipeline / "vae" / "config.json").read_bytes(),
        "text_encoder/config.json": (pipeline / "text_encoder" / "config.json").read_bytes(),
        "scheduler/scheduler_config.json": (pipeline / "scheduler" / "scheduler_config.json").read_bytes(),
        "classes.json": (run / "classes.json").read_bytes(),
    }
    for name in (*TOKENIZER_FILES, "tokenizer_config.json", "tokenizer.json"):
        path = pipeline / "tokenizer" / name
        if path.exists():  # transformers before 5 writes no tokenizer.json
            files[f"tokenizer/{name}"] = path.read_bytes()
    special = {"bos_token": base.tokenizer.bos_token, "eos_token": base.tokenizer.eos_token}
    special |= {"pad_token": base.tokenizer.pad_token, "unk_token": base.tokenizer.unk_token}
    files["tokenizer/special_tokens_map.json"] = _json_bytes(special)
    files["model_index.json"] = (pipeline / "model_index.json").read_bytes()
    return files


def _entries(files: dict[str, bytes]) -> dict[str, FileEntry]:
    return {path: FileEntry(hashlib.sha256(raw).hexdigest(), len(raw)) for path, raw in sorted(files.items())}


def _prompts(base: Base, texts: list[str]) -> bytes:
    embeddings = embed(base.text_encoder, base.tokenizer, [*texts, ""]).numpy().astype(np.float16)
    return tensor_bytes({"embeddings": embeddings[:-1], "empty": embeddings[-1]})


def _prototypes(run: Path) -> bytes:
    tensors = load_numpy(run / "prototypes.safetensors")
    return tensor_bytes({name: value.astype(np.float16) for name, value in tensors.items()})


@torch.no_grad()
def end_to_end_psnr(base: Base, bundle: Bundle, seed: int = 0) -> float:
    """PSNR in dB between the bundle's images and PyTorch's own: one block of the first class, one candidate."""
    sampler = resolve_sampler(bundle.manifest.sampler, candidates=1)
    scene = bundle.classes[0]
    chosen = Generation(bundle, ipc=BLOCK, seed=seed, classes=(scene.name,), sampler=sampler, provider="cpu")
    found = np.stack([image.pixels for image in chosen])
    make_steps, advance = SOLVERS[sampler.solver]
    table = embed(base.text_encoder, base.tokenizer, [*bundle.prompts, ""]).numpy()
    rows = [scene.prompt_rows[i % len(scene.prompt_rows)] for i in range(BLOCK)]
    pulls = scene.prototypes[np.arange(BLOCK) % len(scene.prototypes)] if len(scene.prototypes) else None
    latents = sample(
        torch_denoise(base),
        np.stack([NoiseStream(seed, scene.name, i, 0).normal(bundle.manifest.latent_shape) for i in range(BLOCK)]),
        table[rows],
        table[-1],
        pulls,
        make_steps(base.schedule, sampler.steps),
        advance,
        base.schedule.prediction_type,
        sampler.guidance_for(0),
    )
    return psnr(found, decode_images(base, latents))


def export_run(
    run: Path,
    out: Path,
    *,
    precision: str = "fp16",
    name: str | None = None,
    data_licence: str = "unstated",
    sampler: Sampler = DEFAULT_SAMPLER,
    allow_real_prototypes: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Write a bundle (a .dpd file, or a folder) from the run directory `run`.

    Returns:
        out, bytes, bundle_hash, parity.

    Raises:
        InputError: no finished run, something else at `out`, or prototypes that are real images.
        ParityError: a graph, or the images end to end, too far from PyTorch; nothing is left at `out` then.
    """
    record = _read_run(run)
    marks = {"private_prototypes": True} if _check_prototypes(run, allow_real_prototypes) else {}
    _check_target(out, overwrite)
    base = load_base(str(run / "pipeline"))
    graphs = graphs_of(base, load_classifier(run / "classifier"), load_classifier(run / "latent_classifier"))
    files = _config_files(base, run)
    parity: dict[str, float] = {}
    for done, graph in enumerate(graphs):
        model = export_graph(graph)
        if precision == "fp16":
            halve_weights(model)
        content = to_bytes(model)
        parity[graph.path] = largest_difference(graph, content, precision)
        check(graph.path, parity[graph.path], precision)
        files[graph.path] = content
        progress(done + 1, len(graphs) + 1)
    texts = json.loads(files["classes.json"])["prompts"]
    files["prompts.safetensors"] = _prompts(base, texts)
    files["prototypes.safetensors"] = _prototypes(run)
    side = base.unet.config.sample_size
    manifest = Manifest(
        name=name or run.resolve().name,
        image_shape=(base.resolution, base.resolution, 3),
        latent_shape=(base.unet.config.in_channels, side, side),
        scaling_factor=float(base.vae.config.scaling_factor),
        prediction_type=base.schedule.prediction_type,
        sampler=sampler,
        precision=precision,
        opset=OPSET,
        files=_entries(files),
        tools={tool: version(tool).split("+")[0] for tool in TOOLS},
        licences={"base": "Apache-2.0", "data": data_licence},
        data={"images": record["data"]["images"], "fingerprint": record["data"]["sha256"], **marks},
        parity=parity,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    partial = scratch / out.name
    try:
        _write(partial, files | {MANIFEST_NAME: manifest.to_json()}, as_file=out.suffix == ".dpd")
        bundle = load_bundle(partial)
        value = end_to_end_psnr(base, bundle)
        if value < PSNR_LIMITS[precision]:
            raise ParityError(
                f"images differ from PyTorch's: {value:.1f} dB, {precision} needs {PSNR_LIMITS[precision]} dB"
            )
        measured = replace(manifest, parity=parity | {"end_to_end_psnr_db": round(value, 2)})
        table = json.loads(files["classes.json"])
        files[CARD_NAME] = model_card(CardContent(record, measured, table, parameter_counts(graphs)))
        final = replace(measured, files=_entries(files))
        _write(partial, files | {MANIFEST_NAME: final.to_json()}, as_file=out.suffix == ".dpd")
        _move(partial, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress(len(graphs) + 1, len(graphs) + 1)
    raw = final.to_json()
    total = sum(len(content) for content in files.values()) + len(raw)
    return {
        "out": str(out),
        "bytes": total,
        "bundle_hash": hashlib.sha256(raw).hexdigest(),
        "parity": dict(final.parity),
    }


def _write(target: Path, files: dict[str, bytes], *, as_file: bool) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    if as_file:
        write_zip(target, files)
        return
    for name, content in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)


def _move(partial: Path, out: Path) -> None:
    if out.is_dir():
        shutil.rmtree(out)
    partial.replace(out)
