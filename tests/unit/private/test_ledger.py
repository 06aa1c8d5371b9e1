"""The ledger of releases: what several of them cost together, and what it does where it cannot be trusted."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("dp_accounting")
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

from dpd_private.budget import Budget, mu_of, spent
from dpd_private.ledger import (
    DIGITS,
    Entry,
    alone,
    cost_of,
    entry_of,
    ledger_folder,
    open_ledger,
    read_ledger,
    write_entry,
)
from dpd_runtime.errors import DiskError, InputError

DELTA = 1e-5


def entry(identity: str, mu: float, *images: str) -> Entry:
    return entry_of(identity, mu, [image * 64 for image in images])


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_two_equal_releases_cost_what_the_accountant_composes(epsilon: float) -> None:
    mu = mu_of(Budget(epsilon=epsilon, delta=DELTA))
    found = cost_of(entry("second", mu, "a", "b"), [entry("first", mu, "b", "c")], DELTA)
    composed = from_gaussian_mechanism(1 / mu, value_discretization_interval=1e-4).self_compose(2)
    assert found.epsilon == pytest.approx(composed.get_epsilon_for_delta(DELTA), rel=2e-3)
    assert found.epsilon > epsilon
    assert (found.earlier, found.shared) == (1, 1)


def test_one_release_costs_its_own_epsilon() -> None:
    mu = mu_of(Budget(epsilon=3.0, delta=DELTA))
    found = cost_of(entry("only", mu, "a"), [entry("other", 5.0, "b")], DELTA)
    assert (found.epsilon, found.earlier, found.shared) == (pytest.approx(3.0, abs=1e-3), 0, 0)


def test_a_distillation_that_goes_on_is_not_counted_twice() -> None:
    before = entry("same", 1.0, "a")
    assert cost_of(entry("same", 1.0, "a"), [before], DELTA).earlier == 0


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 2.0), st.sets(st.sampled_from("abcd"), min_size=1)), max_size=4))
def test_the_image_that_was_released_most_decides(releases: list[tuple[float, set[str]]]) -> None:
    known = [entry(str(number), mu, *images) for number, (mu, images) in enumerate(releases)]
    own = entry("own", 0.5, "a", "b")
    squares = [sum(mu**2 for mu, images in releases if image in images) for image in "ab"]
    expected = spent(1.0, 1 / math.sqrt(0.25 + max(squares)), DELTA)
    assert cost_of(own, known, DELTA).epsilon == pytest.approx(expected, abs=2e-4)


def test_entries_are_kept_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = ledger_folder()
    assert folder == tmp_path / "dpd" / "releases"
    assert read_ledger(folder) == []
    first, second = entry("first", 1.0, "a", "b"), entry("second", 0.5, "c")
    for one in (first, second):
        with alone(folder):
            write_entry(folder, one)
    assert sorted(read_ledger(folder), key=lambda one: one.identity) == [first, second]
    assert folder.stat().st_mode & 0o077 == 0
    assert set(first.images) == {"a" * DIGITS, "b" * DIGITS}
    with pytest.raises(RuntimeError, match="the ledger of releases has first"):
        write_entry(folder, first)
    assert [path.name for path in sorted(folder.iterdir())] == ["first.json", "second.json"], "no lock is left"


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        "{}",
        json.dumps({"identity": "x", "date": "2026-11-27", "mu": 0, "images": []}),
        json.dumps({"identity": "x", "date": "2026-11-27", "mu": "1", "images": []}),
        json.dumps({"identity": "another", "date": "2026-11-27", "mu": 1.0, "images": []}),
        json.dumps({"identity": "x", "date": "2026-11-27", "mu": 1.0, "images": [], "more": 1}),
    ],
)
def test_a_damaged_entry_is_not_passed_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=r"ledger of releases: .*x\.json.*backup"):
        read_ledger(tmp_path)


def test_a_ledger_that_cannot_be_written_stops_the_release(tmp_path: Path) -> None:
    (tmp_path / "dpd").write_text("a file")
    for write in (open_ledger, lambda folder: alone(folder).__enter__()):
        with pytest.raises(DiskError, match=r"cannot be written .*so nothing was released; get the permission, or set"):
            write(tmp_path / "dpd" / "releases")
