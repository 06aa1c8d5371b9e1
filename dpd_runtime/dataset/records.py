"""The JSON records of a set: its header, a line of metadata.jsonl, dataset.json."""

import hashlib
import json
from typing import Any

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.dataset.finish import Completed
from dpd_runtime.dataset.formats import Output
from dpd_runtime.engines.engine import Provider
from dpd_runtime.engines.execution_providers import FLAVOURS, RTX_PACKAGE
from dpd_runtime.engines.openvino import gpu_of_openvino
from dpd_runtime.generation.block import Image
from dpd_runtime.generation.generate import Generation
from dpd_runtime.machine.driver import gpu_name, nvidia_driver
from dpd_runtime.machine.versions import cpu_flags, processor, versions


def header_of(generation: Generation, output: Output) -> dict[str, Any]:
    """The settings that must be equal for two runs to write into one folder, after a round trip through JSON."""
    header: dict[str, Any] = {
        "bundle": generation.bundle.hash,
        "seed": generation.seed,
        "sampler": generation.sampler.to_dict(),
        **_choice(generation.provider),
        "classes": [c.name for c in generation.classes],
        "machine": {"versions": versions(), "cpu_flags": cpu_flags(), **_gpu(generation)},  # on others bits may differ
        **output.header(),
    }
    return dict(json.loads(json.dumps(header, allow_nan=False)))


def record_of(image: Image, name: str, seed: int) -> dict[str, Any]:
    """The image's line of metadata.jsonl. The margin of a decoded image is null."""
    return {
        "file_name": name,
        "label": image.label,
        "class": image.class_name,
        "index": image.index,
        "prototype": image.prototype,
        "prompt": image.prompt,
        "candidate": image.candidate,
        "margin": None if image.margin is None else round(image.margin, 4),
        "seed": seed,
        "pixels_sha256": hashlib.sha256(image.pixels.tobytes()).hexdigest(),
    }


def describe(generation: Generation, output: Output, completed: Completed) -> dict[str, Any]:
    """The content of dataset.json, without the header."""
    manifest = generation.bundle.manifest
    files = {"files": completed.files} if completed.files else {}
    return {
        "set_hash": completed.set_hash,
        "bundle_hash": generation.bundle.hash,
        "bundle_name": manifest.name,
        "prototypes_sha256": manifest.files["prototypes.safetensors"].sha256,
        "signature": generation.bundle.signature.describe(),
        "audit": manifest.audit,
        **_watchers(generation.bundle),
        "seed": generation.seed,
        "sampler": generation.sampler.to_dict(),
        "ipc": generation.ipc,
        "images": completed.images,
        "counts": {scene.name: generation.ipc for scene in generation.classes},
        **output.describe(),
        **files,
        **_where(generation),
        "precision": generation.provider.computes_in(manifest.precision),
        **({"call_rows": rows} if (rows := generation.call_rows) else {}),
        "threads": generation.threads,
        "cpu_flags": cpu_flags(),
        "versions": versions(),
    }


def _watchers(bundle: Bundle) -> dict[str, Any]:
    """The further networks that watched while codes were matched to images; nothing for other bundles."""
    matched = any(scene.prototype_kind == "matched" for scene in bundle.classes)
    return {"watchers": list(bundle.manifest.watchers)} if matched and bundle.manifest.privacy is None else {}


def _choice(provider: Provider) -> dict[str, Any]:
    """The provider as options name it. Only openvino has more than one kind of device and precision."""
    own = {"precision": provider.precision, "gpu": provider.gpu} if provider.name == "openvino" else {}
    return {"provider": provider.name, **own}


def _gpu(generation: Generation) -> dict[str, Any]:
    """GPU, driver and engines, all of which decide on the last bits; nothing where a CPU or openvino computes."""
    provider = generation.provider
    if provider.on_cpu or provider.name == "openvino":
        return {}
    engines = {}
    if provider.name in FLAVOURS:
        engines = {"engines": generation.bundle.engine_hashes(provider, generation.graphs)}
    return {"gpu": gpu_name(provider.device), "driver": nvidia_driver().version, **engines}


def _where(generation: Generation) -> dict[str, Any]:
    """What computed the images: provider, its package and version, and the processor or GPU."""
    provider, installed = generation.provider, versions()
    of_onnxruntime = "onnxruntime-gpu" if provider.name != "cpu" and "onnxruntime-gpu" in installed else "onnxruntime"
    package = {"openvino": "openvino", "tensorrt-rtx": RTX_PACKAGE}.get(provider.name, of_onnxruntime)
    gpu = gpu_of_openvino if provider.name == "openvino" else gpu_name
    return {
        "provider": provider.name,
        "provider_version": f"{package} {installed.get(package, installed.get('onnxruntime-gpu', 'unknown'))}",
        "device": processor() if provider.on_cpu else gpu(provider.device),
    }
