"""What is said of a set and of its images: the header that two runs share, a line of metadata, dataset.json."""

import hashlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dpd_runtime.blocks import Image
from dpd_runtime.completion import Completed
from dpd_runtime.formats import Output
from dpd_runtime.generate import Generation


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("dpd-distill", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_flags() -> list[str]:
    """The vector extensions which choose kernels, and so last bits."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return sorted(f for f in flags.split() if f.startswith(("avx", "amx", "fma")))


def header_of(generation: Generation, output: Output) -> dict[str, Any]:
    """What must be equal for two runs to write into the same folder, as JSON gives it back."""
    header: dict[str, Any] = {
        "bundle": generation.bundle.hash,
        "seed": generation.seed,
        "sampler": asdict(generation.sampler),
        "provider": generation.provider.name,
        "classes": [c.name for c in generation.classes],
        "machine": {"versions": versions(), "cpu_flags": cpu_flags()},  # other ones may differ in the last bits
        **output.header(),
    }
    return dict(json.loads(json.dumps(header)))


def record_of(image: Image, name: str, seed: int) -> dict[str, Any]:
    return {
        "file_name": name,
        "label": image.label,
        "class": image.class_name,
        "index": image.index,
        "prototype": image.prototype,
        "prompt": image.prompt,
        "candidate": image.candidate,
        "margin": round(image.margin, 4),
        "seed": seed,
        "pixels_sha256": hashlib.sha256(image.pixels.tobytes()).hexdigest(),
    }


def describe(generation: Generation, output: Output, completed: Completed) -> dict[str, Any]:
    manifest = generation.bundle.manifest
    files = {"files": completed.files} if completed.files else {}
    return {
        "set_hash": completed.set_hash,
        "bundle_hash": generation.bundle.hash,
        "bundle_name": manifest.name,
        "signature": generation.bundle.signature.describe(),
        "audit": manifest.audit,
        "seed": generation.seed,
        "ipc": generation.ipc,
        "images": completed.images,
        "counts": {scene.name: generation.ipc for scene in generation.classes},
        **output.describe(),
        **files,
        "provider": generation.provider.name,
        "threads": generation.threads,
        "cpu_flags": cpu_flags(),
        "versions": versions(),
    }
