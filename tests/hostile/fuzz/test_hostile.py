"""Hostile bundles whose hashes hold: a hundred here, hundreds in .ci/full, thousands in `make fuzz`.

Refused in one line, or harmless.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings

pytest.importorskip("torch")
pytest.importorskip("onnx")

from dpd_runtime import classes as class_table
from dpd_runtime.errors import BundleError
from dpd_runtime.graph_check import check_graph
from tests.hostile.fuzz.campaign import offered_to_openvino, run, summary
from tests.hostile.fuzz.graph_mutations import GRAPHS, add_wild_indices, graph_wire
from tests.hostile.fuzz.material import Material, as_folder, as_zip, read_material
from tests.hostile.fuzz.verdict import generated, judged


@pytest.fixture(scope="session")
def material(tiny_bundle: Path) -> Material:
    return read_material(tiny_bundle)


@pytest.fixture(scope="session")
def untouched(material: Material, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("untouched")
    return generated(as_zip(folder, material.sealed()), folder / "out")


def test_the_bundle_as_it_is_gives_the_same_set(material: Material, untouched: str, tmp_path: Path) -> None:
    for store in (as_zip, as_folder):
        folder = tmp_path / store.__name__
        folder.mkdir()
        assert judged(store(folder, material.sealed()), folder, untouched).outcome == "the same set"


@pytest.mark.parametrize("examples", [100, pytest.param(400, marks=pytest.mark.full)])
def test_hundreds_of_hostile_bundles(tiny_bundle: Path, examples: int) -> None:
    """In processes whose memory and time the kernel bounds; about one in thirty is harmless."""
    results, deaths = run(tiny_bundle, examples, seed=0)
    tally = summary(results, deaths, 0.0)
    assert not deaths
    assert not tally["wrong"]
    assert tally["outcomes"]["refused"] > examples / 2, tally  # the mutations do reach the checks …
    assert tally["outcomes"]["the same set"] > examples / 40, tally  # … and some do no harm
    assert len(tally["kinds"]) == 22 or examples < 400, tally


@pytest.mark.full
@pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")
def test_hostile_graphs_are_hostile(tiny_bundle: Path) -> None:
    """Control: where nobody checks them, some end their process. None of them is accepted without a signature."""
    ends = offered_to_openvino(tiny_bundle, 10, seed=0, changes=(add_wild_indices,))
    assert sum(count for end, count in ends.items() if end.startswith("SIG")) > 0, ends


def test_no_field_written_in_an_unusual_way_is_accepted(material: Material) -> None:
    """In the campaign a graph that a call does not need is not read; here each one is."""

    @settings(max_examples=300, database=None, deadline=None)
    @given(graph_wire(material))
    def one(hostile: Material) -> None:
        (name,) = (name for name in GRAPHS if hostile.files[name] != material.files[name])
        with pytest.raises(BundleError, match="dpd export makes no such graph"):
            check_graph(name, hostile.files[name])

    one()


def test_the_verdict_can_be_guilty(
    material: Material, untouched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the check of class names a set is written outside --out, and that is seen."""
    table = material.json_of("classes.json")
    table["classes"][0]["name"] = "../elsewhere"
    path = as_zip(tmp_path, material.with_json("classes.json", table).sealed())
    assert judged(path, tmp_path, untouched).outcome == "refused"
    monkeypatch.setattr(class_table, "check_class_name", str)
    found = judged(path, tmp_path, untouched)
    assert not found.good
    assert found.outcome == "wrote outside --out"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("sampler", "steps"), 10**9),
        (("sampler", "candidates"), 10**9),
        (("sampler", "compute_batch"), 10**9),
        (("latent_shape",), [2048, 2048, 2048]),
        (("image_shape",), [8192, 8192, 3]),
        (("format_version",), 2),
        (("minimum_runtime",), "99.0.0"),
    ],
    ids=lambda value: str(value),
)
def test_the_command_line_says_one_line(
    material: Material, tmp_path: Path, process_environment: dict[str, str], place: tuple[str, ...], value: object
) -> None:
    """As a user sees it, with memory and time bounded by the kernel."""
    manifest = json.loads(json.dumps(material.manifest))
    at = manifest
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    path = as_zip(tmp_path, Material(material.files, manifest).sealed())
    command = ["bash", "-c", 'ulimit -v 4000000 -t 60; exec "$@"', "-", sys.executable, "-m", "dpd_cli", "generate"]
    command += [str(path), "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, env=process_environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "out").exists()
