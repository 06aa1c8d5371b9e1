"""If a call does not fit into memory: fewer rows and the same pixels, or one line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.annotations import Array
from dpd_runtime.engines import LEAST, FewerRows, Provider
from dpd_runtime.errors import MemoryShortError
from tests.drawn import opened


class Small:
    """Doubles its input, at most `most` rows at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.sizes: list[int] = []

    def run(self, **inputs: Array) -> Array:
        assert inputs["moment"].shape == ()
        assert len(inputs["x"]) == len(inputs["context"])
        self.sizes.append(len(inputs["x"]))
        if len(inputs["x"]) > self.most:
            raise MemoryShortError("x.onnx needs more memory than is available (so many bytes)")
        doubled: Array = inputs["x"] * 2 + inputs["context"].sum(axis=1, keepdims=True) + inputs["moment"]
        return doubled


def ask(engine: FewerRows | Small, rows: int) -> Array:
    x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    return engine.run(x=x, context=x[:, :2] ** 2, moment=np.array(7, np.int64))


@given(st.integers(LEAST, 25), st.lists(st.integers(1, 25), min_size=1, max_size=4))
def test_any_number_of_rows_comes_out_whole_and_the_size_that_fits_is_kept(most: int, rows: list[int]) -> None:
    small = Small(most)
    engine = FewerRows(small, "x.onnx")
    for count in rows:
        np.testing.assert_array_equal(ask(engine, count), ask(Small(25), count))
    refused = [size for size in small.sizes if size > most]
    assert refused == sorted(set(refused), reverse=True), "a size that did not fit was tried twice"
    assert min(small.sizes) >= min(LEAST, *rows), "a single row takes other kernels"


def test_each_halving_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    small = Small(6)
    engine = FewerRows(small, "x.onnx")
    ask(engine, 20)
    ask(engine, 20)
    assert small.sizes == [20, 10, *[5] * 8]
    short = "x.onnx needs more memory than is available (so many bytes); continuing with"
    assert [record.getMessage() for record in caplog.records] == [
        f"{short} 10 rows in a call instead of 20",
        f"{short} 5 rows in a call instead of 10",
    ]


def test_what_does_not_fit_at_all_is_said() -> None:
    small = Small(1)
    with pytest.raises(
        MemoryShortError,
        match=r"\(so many bytes\), even with 2 rows in a call; free memory or use a machine with more$",
    ):
        ask(FewerRows(small, "x.onnx"), 20)
    assert small.sizes == [20, 10, 5, 2]


def test_a_row_has_the_same_bits_in_every_call_that_is_ever_made() -> None:
    """ONNX Runtime does not guarantee this, so the shipped networks are checked, from a block's sizes downwards."""
    pytest.importorskip("onnxruntime")
    bundle, cpu = opened(), Provider("cpu", "")
    rows = 2 * bundle.manifest.sampler.compute_batch
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(rows, *bundle.manifest.latent_shape)).astype(np.float32)
    prompts = bundle.prompt_embeddings[rng.permutation(len(bundle.prompts))[:rows]]
    unet = bundle.engine("unet/model.onnx", cpu, 1)
    others = {
        "latent_sample": bundle.engine("vae_decoder/model.onnx", cpu, 1),
        "latents": bundle.engine("latent_classifier/model.onnx", cpu, 1),
    }

    def answers(part: slice) -> list[Array]:
        moment = np.array(500, np.int64)
        found = [unet.run(sample=latents[part], timestep=moment, encoder_hidden_states=prompts[part])]
        return found + [engine.run(**{name: latents[part]}) for name, engine in others.items()]

    whole = answers(slice(None))
    for size in (10, 5, 2):
        parts = [answers(slice(start, start + size)) for start in range(0, rows, size)]
        for network, expected in enumerate(whole):
            np.testing.assert_array_equal(np.concatenate([part[network] for part in parts]), expected)


LIMITED = """
import sys
import dpd_runtime.sessions as engines
import dpd_runtime.generation as generation
from dpd_cli.main import main
memory = int(float(sys.argv.pop(1)) * 2**20)
engines.memory_for_graphs = lambda: int(0.9 * memory)
generation.usable_cores = lambda: 2  # the memory of a call depends on them
main()
"""


def generated(megabytes: float, out: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`dpd generate` in a process whose graphs share an arena of 0.9 times so much."""
    options = ["--steps", "3", "--candidates", "1", "--classes", "Forest", "--ipc", "10", "--provider", "cpu"]
    command = [sys.executable, "-c", LIMITED, str(megabytes), "generate", *options, "--out", str(out), "--json"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_machine_with_little_memory_makes_the_same_set(tmp_path: Path, process_environment: dict[str, str]) -> None:
    pytest.importorskip("onnxruntime")
    plenty = generated(1000, tmp_path / "plenty", process_environment)
    for megabytes in (36, 40, 44):  # kernels of some processors need more
        little = generated(megabytes, tmp_path / "little", process_environment)
        if little.returncode == 0:
            break
    assert (plenty.returncode, little.returncode) == (0, 0), little.stderr
    assert json.loads(little.stdout)["set_hash"] == json.loads(plenty.stdout)["set_hash"]
    assert "rows in a call" not in plenty.stderr
    lines = [line for line in little.stderr.splitlines() if "continuing with" in line]
    assert any(line.startswith("unet/model.onnx needs more memory") for line in lines), little.stderr
    assert any(line.startswith("vae_decoder/model.onnx needs more memory") for line in lines), little.stderr
    records = {name: json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("plenty", "little")}
    assert "call_rows" not in records["plenty"]
    said = {line.split(" ")[0]: int(re.findall(r"continuing with (\d+) rows", line)[0]) for line in lines}
    assert records["little"]["call_rows"] == said  # the last halving of each graph


def test_too_little_memory_is_one_line_and_exit_code_5(tmp_path: Path, process_environment: dict[str, str]) -> None:
    pytest.importorskip("onnxruntime")
    done = generated(16, tmp_path / "none", process_environment)
    assert done.returncode == 5, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dpd: ")
    assert "needs more memory than is available" in last
    assert "even with 2 rows in a call" in last or "Available memory of 0" in last  # which opens no graph
    assert done.stdout == ""
    assert not list((tmp_path / "none").rglob("*.png"))
