"""What is said of classes of few images, by one rule in every command."""

import pytest

from dpd_distill.plan import remarks, task_of
from dpd_runtime import embedded_bundle, load_bundle
from dpd_runtime.classes import images_behind
from dpd_runtime.remarks import SMALL, bundle_remarks, network_remarks
from dpd_train.run import told_of_networks

AWAY = "networks trained on so few give them away"


def test_networks_of_few_images_are_warned_of_below_the_limit_alone() -> None:
    assert network_remarks({"Forest": 500, "River": SMALL}, matched=True) == []
    (line,) = network_remarks({"Forest": 500, "River": SMALL - 1}, matched=True)
    assert (
        line == f"class 'River' has 59 training images, fewer than 60: {AWAY}; dpd export --codes-only leaves them out"
    )
    (line,) = network_remarks({"Forest": 500, "River": 12}, matched=False)
    assert line.endswith(f"{AWAY}; add images"), "there are no codes that could leave alone"


@pytest.mark.parametrize(
    ("record", "few"),
    [
        ({"data": {"classes": {"A": 36, "B": 70}}, "config": {"prototypes": "matched"}}, "'A' has 36"),
        ({"data": {"classes": {"A": 90, "B": 70}}, "config": {"prototypes": "matched"}}, None),
        ({"data": {"classes": {"A": 90, "B": 70}}, "scenes": {"A": 90, "B": 7}, "config": {}}, "'B' has 7"),
    ],
)
def test_a_run_tells_by_its_distinct_scenes(record: dict[str, object], few: str | None) -> None:
    told = told_of_networks(record)
    assert len(told) == (few is not None)
    assert few is None or few in told[0]


@pytest.mark.parametrize(("codes_only", "warned"), [(None, False), (False, True), (True, False)])
def test_a_plan_whose_bundle_holds_networks_of_few_images_says_so(codes_only: bool | None, warned: bool) -> None:
    """With --no-codes-only nothing was said."""
    counts = {"Forest": 500, "River": 40}
    lines = remarks(counts, task_of(counts, codes_only=codes_only))
    assert any(AWAY in line and "leaves them out" in line for line in lines) is warned
    assert any("5 codes per class in a codes-only bundle" in line for line in lines) is (codes_only is not False)


def test_a_plan_without_matched_codes_says_so_too() -> None:
    counts = {"Forest": 500, "River": 12}
    assert any(line.endswith(f"{AWAY}; add images") for line in remarks(counts, task_of(counts)))


def test_the_bundle_in_the_package_is_of_many_images() -> None:
    opened = load_bundle(embedded_bundle())
    assert min(scene.training_images or 0 for scene in opened.classes) > 1000
    assert bundle_remarks(opened) == []


@pytest.mark.parametrize("counts", [None, [], 5, ["36"], [36.0], [True], [-1], {"a": 1}])
def test_strange_counts_of_a_bundle_tell_nothing(counts: object) -> None:
    assert images_behind("matched", counts) is None


def test_images_stand_behind_matched_codes_all_together() -> None:
    assert images_behind("matched", [36, 36]) == 36
    assert images_behind("pooled", [10, 12]) is None, "a cluster may have been left out"
