"""The distilled set on disk: images with their metadata, resumable after a kill at any moment (DESIGN §8)."""

import errno
import hashlib
import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpd_runtime.atomic import write_atomically
from dpd_runtime.completion import Completed, Label, complete
from dpd_runtime.errors import DiskError
from dpd_runtime.finished import begin_again, finished_set, remove_unfinished
from dpd_runtime.formats import PNG, Encoding, Output, folder_name
from dpd_runtime.generate import Generation, Image
from dpd_runtime.resume import DATASET_NAME, STATE_NAME, State, check_output_folder
from dpd_runtime.set_digest import SetDigest
from dpd_runtime.soft_labels import load_teacher

Pixels = npt.NDArray[np.uint8]
PLAIN = Output()


@dataclass(frozen=True)
class DistilledSet:
    """What `write_set` leaves."""

    out: Path
    images: int
    classes: int
    computed: int
    set_hash: str


def file_name(class_name: str, index: int) -> str:
    """The name of an image of a set in PNG files."""
    return folder_name(class_name, 0, index, PNG.suffix)


def set_hash(images: Iterable[tuple[str, int, Pixels]]) -> str:
    """The set hash (DESIGN §8) of (class name, index, uint8 [H, W, 3]) in any order."""
    digest = SetDigest()
    for entry in sorted(images, key=lambda entry: (entry[0].encode(), entry[1])):
        digest.update(*entry)
    return digest.hexdigest()


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


def _header(generation: Generation, output: Output) -> dict[str, Any]:
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


def _record(image: Image, name: str, seed: int) -> dict[str, Any]:
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


def _disk_error(error: OSError, out: Path) -> DiskError:
    reason = {errno.ENOSPC: "the disk is full", errno.EROFS: "the disk is read-only"}.get(
        error.errno or 0, error.strerror or str(error)
    )
    return DiskError(f"{out}: {reason}; finished images are kept, run the same command again to go on")


def write_set(
    generation: Generation,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    output: Output = PLAIN,
) -> DistilledSet:
    """Write every missing image of `generation` under `out`, then the metadata. A second call does only what is left.

    Raises:
        OutputFolderError: `out` holds something else, or a set made with other settings.
        MissingExtraError, InputError: what `output` needs is not there.
        DiskError: the disk is full, read-only or gone; what was finished stays.
    """
    output.check()
    check_output_folder(out)
    generation.load()  # what cannot run is said before anything is written
    label = None
    if output.soft_labels:
        label = load_teacher(generation.bundle, generation.provider, generation.threads)
    try:
        return _write_set(generation, out, progress, output, label)
    except OSError as error:
        raise _disk_error(error, out) from error


def _write_set(
    generation: Generation, out: Path, progress: Callable[[int, int], None], output: Output, label: Label | None
) -> DistilledSet:
    out.mkdir(parents=True, exist_ok=True)
    header = _header(generation, output)
    finished = None if output.direct else finished_set(out, header, generation.ipc, output)
    if finished is not None:
        progress(len(generation), len(generation))
        return DistilledSet(out, len(generation), len(generation.classes), 0, finished["set_hash"])
    state = State(out, header, generation.ipc)
    begin_again(out, output)
    computed = _write_blocks(generation, output.block_folder(out), output.block_encoding, state, progress)
    completed = complete(generation, out, output, state, label)
    dataset = _describe(generation, output, completed) | {"made_with": header, "state": "complete"}
    write_atomically(out / DATASET_NAME, (json.dumps(dataset, indent=1) + "\n").encode())
    (out / STATE_NAME).unlink()
    remove_unfinished(out)
    return DistilledSet(out, completed.images, len(generation.classes), computed, completed.set_hash)


def _write_blocks(
    generation: Generation, folder: Path, encoding: Encoding, state: State, progress: Callable[[int, int], None]
) -> int:
    """Write the image files of every block which is not whole; how many images were computed."""
    for scene in generation.classes:
        (folder / scene.name).mkdir(parents=True, exist_ok=True)
    done, computed = 0, 0
    for block in generation.blocks():
        scene = block.scene_class
        indices = [i for i in block.indices if i < generation.ipc]
        names = {i: folder_name(scene.name, scene.label, i, encoding.suffix) for i in indices}
        if not all(state.intact(folder, name) for name in names.values()):
            images = generation.compute(block)
            for image in images:
                write_atomically(folder / names[image.index], encoding.encode(image.pixels))
            state.append([_record(image, names[image.index], generation.seed) for image in images])
            computed += len(images)
        done += len(names)
        progress(done, len(generation))
    return computed


def _describe(generation: Generation, output: Output, completed: Completed) -> dict[str, Any]:
    manifest = generation.bundle.manifest
    files = {"files": completed.files} if completed.files else {}
    return {
        "set_hash": completed.set_hash,
        "bundle_hash": generation.bundle.hash,
        "bundle_name": manifest.name,
        "signature": "unsigned",
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
