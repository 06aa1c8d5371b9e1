"""`dpd export --prune`: the door `dpd.pruning` finds a method, and the bundle and its card say what it removed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import onnx

from dpd_runtime import generate, load_bundle
from dpd_runtime.bundle import Bundle
from tests.commands import Done, dpd

SHORT = "tests.path.short_prune:short_main"


def exported(run: Path, folder: Path, environment: dict[str, str], *words: str, **options: Any) -> tuple[Done, Bundle]:
    done = dpd(["export", str(run), "--out", "small.dpd", *words], environment, folder, **options)
    assert done.returncode == 0, done.stderr
    return done, load_bundle(folder / "small.dpd")


def filters(bundle: Bundle) -> Mapping[str, int]:
    """Filters of each first convolution of a residual block."""
    model = onnx.load_from_string(bundle.files["unet/model.onnx"])
    return {t.name: t.dims[0] for t in model.graph.initializer if "conv1.weight" in t.name and len(t.dims) == 4}


def test_the_command_prunes_and_says_what_was_removed(
    run: Path, bundle: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    """In half precision, as by default: the graph is made of weights that were trained a moment ago."""
    done, small = exported(run, tmp_path, process_environment, "--prune", "pic-pq:0.30", command=SHORT)
    said = small.manifest.training["pruned"]
    assert set(said) == {
        *("method", "ratio", "filters", "filters_kept", "parameters", "parameters_kept"),
        *("error", "error_tuned", "teacher_agreement"),
    }
    assert (said["method"], said["ratio"]) == ("pic-pq", 0.3)
    before, after = (sum(filters(b).values()) for b in (load_bundle(bundle), small))
    assert (said["filters"], said["filters_kept"]) == (before, after)
    assert 0.7 * before <= after < 0.85 * before
    assert re.search(rf"^pruned      {after} of {before} filters, \d\d% of all parameters remain$", done.stdout, re.M)
    assert re.search(r"^ {12}1 thread: \d+ ms, whole \d+ ms \([\d.]+ times as fast\)$", done.stdout, re.M)
    card = small.files["MODEL_CARD.md"].decode()
    assert (
        "dpd export RUN --out BUNDLE --name run --precision fp16 --data-licence unstated --prune pic-pq:0.3\n" in card
    )
    assert f"The UNet was pruned (pic-pq, ratio 0.3): {after} of {before} filters" in card


@pytest.mark.full
@pytest.mark.parametrize("words", [("pic-pq",), ("magnitude", "--precision", "int8", "--allow-worse")])
def test_the_bundle_is_really_smaller_and_tuning_helps(
    words: tuple[str, ...], run: Path, half_bundle: Path, tmp_path: Path, process_environment: dict[str, str]
) -> None:
    method, *rest = words  # random networks may change the teacher's mind in int8
    _, small = exported(run, tmp_path, process_environment, "--prune", f"{method}:0.4", *rest)
    whole, said = load_bundle(half_bundle), small.manifest.training["pruned"]
    before, after = (sum(filters(b).values()) for b in (whole, small))
    assert (said["filters"], said["filters_kept"]) == (before, after)
    assert 0.6 * before <= after < 0.75 * before
    weights = [
        sum(entry.bytes for name, entry in b.manifest.files.items() if name.startswith("unet/")) for b in (whole, small)
    ]
    assert weights[1] < weights[0]
    assert said["error_tuned"] < said["error"]
    assert 0 <= said["teacher_agreement"] <= 1
    assert len(list(generate(small, ipc=1, seed=0, provider="cpu"))) == len(small.classes)
