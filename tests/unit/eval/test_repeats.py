"""What an interval counts as a repetition: the same training again is none."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save

from dpd_eval.evaluation import differences
from dpd_eval.results import Repeats
from dpd_eval.sets import Set, read_record
from tests.drawn_results import CLASSES, arm

PROBE = "probe:swimdiff:encoder"
OF_SETS = (0.62, 0.65)  # a probe of each of two sets, and herding's
HERDING = 0.618


@pytest.mark.parametrize(
    ("student", "reference", "repeated"),
    [(PROBE, "herding", 2), (PROBE, "full", 2), (PROBE, "random", 8), ("convnet", "herding", 8)],
)
def test_a_probe_of_one_set_counts_once_beside_images_that_no_seed_chose(
    student: str, reference: str, repeated: int
) -> None:
    ours = replace(arm("set", student, 10, 8, CLASSES), oa_runs=OF_SETS * 4)
    other = replace(arm(reference, student, 10, 8, CLASSES), oa_runs=(HERDING,) * 8)
    (found,) = differences([ours, other], Repeats(("", "")))
    assert found.difference.n == repeated
    assert found.difference.mean == pytest.approx(sum(OF_SETS) / 2 - HERDING)


def test_one_set_and_a_probe_have_no_interval() -> None:
    ours = replace(arm("set", PROBE, 10, 8, CLASSES), oa_runs=(0.621,) * 8)
    other = replace(arm("herding", PROBE, 10, 8, CLASSES), oa_runs=(HERDING,) * 8)
    (found,) = differences([ours, other], Repeats(("",)))
    assert (found.difference.n, found.difference.low) == (1, None)


def test_bundles_without_prototypes_are_told_apart_by_their_own_hash(tmp_path: Path) -> None:
    none = hashlib.sha256(save({})).hexdigest()
    records = [
        {"prototypes_sha256": none, "bundle_hash": "a"},
        {"prototypes_sha256": none, "bundle_hash": "b"},
        {"prototypes_sha256": "c", "bundle_hash": "d"},
        {},
    ]
    sets = [tmp_path / str(number) for number in range(len(records))]
    for path, record in zip(sets, records, strict=True):
        path.mkdir()
        (path / "dataset.json").write_text(json.dumps(record))
    matched = tuple(Set(None, read_record(path)).matching for path in sets)  # type: ignore[arg-type]
    assert matched == ("a", "b", "c", "")
    assert Repeats(matched[:3]).unit == "bundles"
