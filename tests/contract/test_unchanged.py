"""Bytes which a move of modules must not change, beside those recorded in unchanged.json.

Record anew, after a change that means to alter them: `python -m tests.contract.test_unchanged --record` in the root
of the checkout, with PYTHONPATH=.:export:cli where the package is not installed. The fp16 and int8 exports are slow:
`pytest -m ""`.

What differs with more than our code is compared only where that is equal, else skipped with the reason:

- pixels and trained weights: same packages, CPU flags and architecture (docs/architecture.md). All on the CPU provider.
- graphs without their weights, names of files, keys: same packages.

Left out:

- of dataset.json: `versions`, `provider_version`, `device`, `threads`, `cpu_flags`, `made_with.machine`; of the tiny
  set the bundle's hash, the card and croissant.json, which quote it;
- of bundle.json: `tools`, `training.versions`, `parity` (measured), the entry of MODEL_CARD.md;
- MODEL_CARD.md, which is text;
- the build of the tokenizer: learning merges breaks ties at random, so that the embedded bundle's is used;
- noise (test_noise.py has vectors), pruned UNets, CUDA and TensorRT, sealed bundles, folders of runs.
"""

import hashlib
import json
import platform
import sys
import tempfile
import zipfile
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from dpd_runtime import Bundle, Generation, Output, embedded_bundle, load_bundle, write_set
from dpd_runtime.generation import resolve_sampler
from dpd_runtime.versions import __version__, cpu_flags

RECORDED = Path(__file__).with_name("unchanged.json")
SET_PACKAGES = ("numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "pyarrow")
EXPORT_PACKAGES = (*SET_PACKAGES, "torch", "onnx", "onnxscript", "diffusers", "transformers", "tokenizers")
EXPORT_PACKAGES += ("safetensors", "scikit-learn", "scipy")
SETS: dict[str, dict[str, Any]] = {
    "decoded": {"ipc": 10},
    "sampled": {"ipc": 2, "classes": ("AnnualCrop", "SeaLake"), "steps": 4, "candidates": 2},
    "guided": {"ipc": 1, "classes": ("River",), "steps": 3, "solver": "dpm++2m", "guidance_scale": 2.0},
}
OUTPUTS: dict[str, dict[str, Any]] = {
    "webdataset": {"format": "webdataset"},
    "parquet": {"format": "parquet"},
    "npz": {"format": "npz"},
    "soft_labels": {"soft_labels": True},
}
EXPORTS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "fp16": {"precision": "fp16", "vae_encoder": True, "dynamic_size": True, "largest_file": 100_000},
    "int8": {"precision": "int8", "allow_worse": True},
}
Values = dict[str, Any]


# What a value depends on beside our code.


def packages(names: tuple[str, ...]) -> dict[str, str]:
    def found(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "absent"

    return {name: found(name) for name in names}


def this_type_of_machine() -> Values:
    return {"architecture": platform.machine(), "cpu_flags": cpu_flags()}


# What is recorded.


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


RELEASE = "0.2.0"
"""Which the cards of the recorded sets name."""


def as_recorded(path: Path) -> bytes:
    """The bytes of a file of a set, with that release in the place of this version."""
    return path.read_bytes().replace(f"by dpd {__version__} ".encode(), f"by dpd {RELEASE} ".encode())


def written(bundle: Bundle, out: Path, output: Output, *, ipc: int, classes: Any = None, **asked: Any) -> Values:
    sampler = resolve_sampler(bundle.manifest.sampler, **asked)
    generation = Generation(bundle, ipc=ipc, seed=0, classes=classes, sampler=sampler, provider="cpu")
    result = write_set(generation, out, output=output)
    dataset = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    keys = {"dataset.json": list(dataset), "made_with": list(dataset["made_with"])}
    for name in ("versions", "threads", "cpu_flags", "device", "provider_version"):
        del dataset[name]
    del dataset["made_with"]["machine"]
    paths = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    files = {name: sha256(as_recorded(path)) for name, path in paths.items() if name != "dataset.json"}
    if len(files) > 20:
        listed = json.dumps(files).encode()
        files = {f"{len(files)} files": sha256(listed), "metadata.jsonl": files["metadata.jsonl"]}
    return {"set_hash": result.set_hash, "keys": keys, "dataset.json": dataset, "files": files}


def embedded_set(name: str, folder: Path) -> Values:
    return written(load_bundle(embedded_bundle()), folder, Output(), **SETS[name])


def embedded_output(name: str, folder: Path) -> Values:
    bundle = load_bundle(embedded_bundle())
    return written(bundle, folder, Output(**OUTPUTS[name]), ipc=2, classes=("AnnualCrop", "SeaLake"))


def without_weights(path: Path) -> str:
    """Hash of a graph: nodes, names, types and shapes, without the numbers of its initializers."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "external_data"):
            tensor.ClearField(field)
    return sha256(model.SerializeToString(deterministic=True))


def stable_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "bundle.json":
        manifest = json.loads(content)
        del manifest["tools"], manifest["parity"], manifest["training"]["versions"], manifest["files"]["MODEL_CARD.md"]
        return json.dumps(manifest, sort_keys=True).encode()
    return content


def exported(out: Path) -> tuple[Values, Values]:
    """What is equal on every machine, and what on this type of machine."""
    paths = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    manifest = json.loads(paths["bundle.json"].read_text(encoding="utf-8"))
    everywhere = {
        "graphs": {path: without_weights(at) for path, at in paths.items() if at.suffix == ".onnx"},
        "files": list(paths),
        "manifest": {key: sorted(value) if isinstance(value, dict) else None for key, value in manifest.items()},
        "classes.json": list(json.loads(paths["classes.json"].read_text(encoding="utf-8"))),
    }
    return everywhere, {path: sha256(stable_bytes(at)) for path, at in paths.items() if path != "MODEL_CARD.md"}


def tiny_set(bundle: Path, out: Path) -> Values:
    found = written(load_bundle(bundle), out, Output(), ipc=2, steps=3, candidates=2)
    del found["dataset.json"]["bundle_hash"], found["dataset.json"]["made_with"]["bundle"]
    for name in ("README.md", "croissant.json"):  # they quote the bundle's hash
        del found["files"][name]
    return found


# Comparing and recording.


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def compare(name: str, now: Values) -> None:
    """Fail where a value is another one than that recorded under `name`; skip where it may be.

    Args:
        now: `where`, what the value depends on, and `what`, a function that makes it.
    """
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
    then, here = recorded["where"], plain(now["where"])
    others = [
        f"{key}: {value} here, recorded with {then.get(key)}" for key, value in here.items() if value != then.get(key)
    ]
    if others:
        pytest.skip("; ".join(others))
    assert plain(now["what"]()) == recorded["what"]


def set_parts(folder: Path) -> dict[str, Values]:
    where = packages(SET_PACKAGES) | this_type_of_machine()
    parts = {f"set {name}": partial(embedded_set, name, folder / name) for name in SETS}
    parts |= {f"output {name}": partial(embedded_output, name, folder / name) for name in OUTPUTS}
    return {name: {"where": where, "what": make} for name, make in parts.items()}


def export_parts(name: str, bundle: Path, folder: Path) -> dict[str, Values]:
    """What is compared of an export, a folder."""
    everywhere, here = exported(bundle)
    where = packages(EXPORT_PACKAGES)
    parts = {
        f"graphs {name}": {"where": where, "what": lambda: everywhere},
        f"files {name}": {"where": where | this_type_of_machine(), "what": lambda: here},
    }
    if name == "fp32":
        make = partial(tiny_set, bundle, folder / "set")
        parts["set tiny"] = {"where": where | this_type_of_machine(), "what": make}
    return parts


def record() -> None:
    from tests.tiny import tiny_export, tiny_run

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts = set_parts(folder)
        run = tiny_run(folder)
        for name in EXPORTS:
            tiny_export(run, folder / name, **EXPORTS[name])
            parts |= export_parts(name, folder / name, folder)
        found = {name: {"where": part["where"], "what": part["what"]()} for name, part in parts.items()}
    RECORDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@pytest.mark.parametrize("part", [*(f"set {name}" for name in SETS), *(f"output {name}" for name in OUTPUTS)])
def test_sets_of_the_embedded_bundle(part: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    if part == "output parquet":
        pytest.importorskip("pyarrow")
    compare(part, set_parts(tmp_path)[part])


@pytest.fixture(scope="module")
def parts(
    request: pytest.FixtureRequest, tiny_trained: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Values]:
    folder, name = tmp_path_factory.mktemp("unchanged"), request.param
    if name == "fp32":  # what the other tests use
        zipfile.ZipFile(tiny_bundle).extractall(folder / name)
    else:
        from tests.tiny import tiny_export

        tiny_export(tiny_trained, folder / name, **EXPORTS[name])
    return export_parts(name, folder / name, folder)


SLOW = [pytest.param(name, marks=pytest.mark.full) for name in EXPORTS if name != "fp32"]


@pytest.mark.parametrize("parts", ["fp32", *SLOW], indirect=True)
@pytest.mark.parametrize("kind", ["graphs", "files"])
def test_bundles_of_a_tiny_run(kind: str, parts: dict[str, Values]) -> None:
    (part,) = (name for name in parts if name.startswith(kind))
    compare(part, parts[part])


@pytest.mark.parametrize("parts", ["fp32"], indirect=True)
def test_a_set_of_the_tiny_bundle(parts: dict[str, Values]) -> None:
    compare("set tiny", parts["set tiny"])


def test_another_byte_is_found(tmp_path: Path) -> None:
    """The control."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["set decoded"]
    other = recorded["what"] | {"set_hash": "0" * 64}
    with pytest.raises(AssertionError):
        compare("set decoded", {"where": recorded["where"], "what": lambda: other})
    with pytest.raises(pytest.skip.Exception, match="numpy: 0 here"):
        compare("set decoded", {"where": recorded["where"] | {"numpy": "0"}, "what": lambda: other})


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("python -m tests.contract.test_unchanged --record")
    record()
