"""Replication and nearness on Gaussian features with known shares."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_eval.attacks import Scores, membership_tests, widened
from dpd_eval.nearness import (
    exceedance,
    expected_exceedance,
    holds_one,
    nearer_share,
    nearer_test,
    own_share,
    replication_test,
)
from dpd_eval.verdict import Outcome, control, decide, not_run, overall, power
from dpd_runtime.annotations import Float32
from dpd_train.symmetry import closeness, similarities, unit
from dpd_train.too_near import Nearest, thresholds

WIDTH = 24


def gaussian(count: int, seed: int) -> Float32:
    return unit(np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32))


def nearest(images: Float32, train: Float32, classes: int = 2) -> Nearest:
    values = closeness(similarities(images[:, None], train).max(axis=1))
    return Nearest(values, np.arange(len(images)) % classes)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_planted_copies_are_the_exceedance(share: float) -> None:
    train, first, second, ours = (gaussian(n, s) for n, s in ((3000, 0), (2000, 1), (2000, 2), (1500, 3)))
    copies = round(share * len(ours))
    ours[:copies] = train[:copies] + 0.02 * gaussian(copies, 4)
    parts = [nearest(unit(x), train) for x in (ours, first, second)]
    found = replication_test("replication", *parts, 2)
    limits = thresholds(parts[1], 2)
    # all copies are above the threshold, and one per cent of the rest
    assert exceedance(parts[0], limits) == pytest.approx(share + 0.01 * (1 - share), abs=0.015)
    assert found.value == pytest.approx(0.99 * share, abs=0.025)
    assert found.verdict == ("PASS" if share == 0 else "FAIL")


def test_a_class_of_a_hundred_has_its_own_threshold_and_smaller_ones_share_a_margin() -> None:
    rng = np.random.default_rng(0)
    large, small, tiny = rng.normal(5, 1, 200), rng.normal(0, 2, 60), rng.normal(-7, 2, 40)
    values, labels = np.concatenate([large, small, tiny]), np.repeat([0, 1, 2], (200, 60, 40))
    limits = thresholds(Nearest(values, labels), 4)
    ordered = np.sort(large)  # a new value exceeds the 199th of 200 with a probability of 2 / 201
    assert limits[0] == pytest.approx(ordered[197] + 0.99 * (ordered[198] - ordered[197]))
    rest = np.concatenate([x - np.median(x) for x in (large, small, tiny)])
    margin = np.quantile(rest, 0.99, method="weibull")
    assert limits[1:3] == pytest.approx([np.median(small) + margin, np.median(tiny) + margin])
    assert limits[3] == pytest.approx(np.median(values) + margin), "a class without images in H1"


@pytest.mark.parametrize("counts", [(150, 150), (25,) * 10, (5,) * 10])
def test_innocent_images_exceed_the_threshold_as_often_as_expected(counts: tuple[int, ...]) -> None:
    rng, labels = np.random.default_rng(3), np.repeat(np.arange(len(counts)), counts)
    shares = []
    for _ in range(300):
        first, second = (Nearest(rng.normal(labels, 1.0), labels) for _ in range(2))
        shares.append(exceedance(second, thresholds(first, len(counts))))
    error = np.std(shares) / 300**0.5
    assert expected_exceedance(counts) == pytest.approx(np.mean(shares), abs=4 * error)
    if min(counts) > 100:
        assert expected_exceedance(counts) == pytest.approx(0.01, abs=0.001)


@pytest.mark.full
def test_the_interval_of_the_exceedance_holds_the_truth_as_often_as_it_says() -> None:
    """40 random repetitions; the true value is a share of 0.15 above the threshold, minus 0.01."""
    normal = np.random.default_rng(5)
    held = 0
    for seed in range(40):
        first, second = (Nearest(normal.normal(size=500), np.zeros(500, np.int64)) for _ in range(2))
        values = normal.normal(size=500)
        values[normal.random(500) < 0.15 / 0.99 - 0.01 / 0.99] = 9.0
        found = replication_test("x", Nearest(values, np.zeros(500, np.int64)), first, second, 1, seed=seed)
        assert found.interval is not None
        held += found.interval[0] <= 0.14 <= found.interval[1]
    assert held >= 34, "95 % of 40 are 38, and 33 or fewer come up once in two hundred times"


def test_h2_is_tested_against_the_one_per_cent_that_its_threshold_promises() -> None:
    train, first, second = gaussian(2000, 0), gaussian(1000, 1), gaussian(1000, 2)
    found = replication_test("H2", nearest(second, train), nearest(first, train), None, 2)
    assert found.verdict == "PASS"
    assert found.value == pytest.approx(0.0, abs=0.015)


@pytest.mark.full
def test_few_hold_out_images_are_no_reason_to_fail_and_too_few_set_no_threshold() -> None:
    """Ten classes with 13 innocent hold-out images each, as in AID's validation part; then with 8."""
    verdicts = []
    for seed in range(6):
        values, labels = np.random.default_rng(seed).normal(size=130), np.arange(130) % 10
        first, second = Nearest(values[:60], labels[:60]), Nearest(values[60:], labels[60:])
        verdicts.append(replication_test("H2", second, first, None, 10).verdict)
        copies = Nearest(np.full(200, 9.0), np.arange(200) % 10)
        assert replication_test("copies", copies, first, second, 10).verdict == "FAIL"
    assert set(verdicts) <= {"PASS", "WARN"}
    few = Nearest(values[:40], labels[:40])
    found = replication_test("copies", copies, few, few, 10)
    assert found.verdict == "NOT RUN"
    assert "40" in found.note


@given(st.integers(1, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_the_chance_that_a_draw_holds_one_is_the_hypergeometric(total: int, data: st.DataObject) -> None:
    drawn, nearer = data.draw(st.integers(1, total)), data.draw(st.integers(0, total))
    exact = 1 - math.comb(total - nearer, drawn) / math.comb(total, drawn)
    assert holds_one(np.array([nearer]), drawn, total)[0] == pytest.approx(exact, abs=1e-12)


def test_the_share_is_the_mean_over_random_halves_of_t() -> None:
    rng = np.random.default_rng(0)
    to_train, to_held = rng.random((30, 50)).astype(np.float32), rng.random((30, 12)).astype(np.float32)
    drawn = [rng.permutation(50)[:12] for _ in range(4000)]
    counted = np.mean([to_train[:, rows].max(axis=1) > to_held.max(axis=1) for rows in drawn], axis=0)
    assert nearer_share(to_train, to_held) == pytest.approx(counted, abs=0.04)
    assert nearer_share(to_held, to_train) == pytest.approx(1 - counted, abs=0.04), "the other way round"


def test_half_for_what_was_never_seen_and_more_for_copies() -> None:
    train, held, ours = gaussian(800, 0), gaussian(400, 1), gaussian(500, 2)
    plain = nearer_test("x", *(similarities(ours[:, None], side) for side in (train, held)))
    assert plain.value == pytest.approx(0.5, abs=0.07)
    assert plain.verdict == "PASS"
    copied = nearer_test("x", *(similarities(train[:500, None], side) for side in (train, held)))
    # half of T is sampled: it includes a copy's original with probability ½
    assert copied.value == pytest.approx(0.75, abs=0.05)
    assert copied.verdict == "FAIL"


def test_the_limit_is_above_the_share_that_the_hold_out_has_itself() -> None:
    """A network that was trained on T moves its images away from all others, and the neutral point with them."""
    train, first, second, ours = (gaussian(n, seed) for n, seed in ((800, 0), (300, 1), (300, 2), (500, 3)))
    moved = unit(train + 0.6 * gaussian(1, 4))
    own = own_share(*(similarities(second[:, None], side) for side in (moved, first)))
    assert own.interval[1] < 0.5
    held = np.concatenate([first, second])
    fresh = nearer_test("x", *(similarities(ours[:, None], side) for side in (moved, held)), own=own)
    assert fresh.value == pytest.approx(own.value, abs=0.05)
    assert fresh.threshold == pytest.approx(own.value + 0.05)
    assert fresh.verdict != "FAIL"
    assert fresh.interval is not None
    assert fresh.interval[1] - fresh.interval[0] > own.interval[1] - own.interval[0]
    some = np.concatenate([ours[:400], moved[:100]])  # a fifth are copies: below 0.55, and above the limit
    copied = nearer_test("x", *(similarities(some[:, None], side) for side in (moved, held)), own=own)
    assert copied.value > fresh.value + 0.05


def test_a_warning_says_how_many_images_would_decide() -> None:
    assert decide("x", 0.5, (0.4, 0.6), 0.55).note == "about 4.0 times as many images would decide"
    assert decide("x", 0.5, (0.4, 0.6), 0.55, note="seen").note == "seen; about 4.0 times as many images would decide"
    assert decide("x", 0.549, (0.4, 0.6), 0.55).note == ""  # no number of images would
    assert decide("x", 0.56, (0.4, 0.6), 0.55).note == ""
    assert decide("x", 0.5, (0.45, 0.55), 0.55).note == ""


def test_tests_say_what_copies_would_score() -> None:
    """Of 12,000 and 3,000 images a quarter of the originals is in T′, and half of the others is nearer."""
    train, held, ours = gaussian(2400, 0), gaussian(600, 1), gaussian(300, 2)
    sides = [similarities(ours[:, None], side) for side in (train, held)]
    copied = float(nearer_share(*(similarities(train[:500, None], side) for side in (train, held))).mean())
    nearer = nearer_test("x", *sides, copied=copied).power
    assert nearer is not None
    assert nearer.all_copied == pytest.approx(0.625, abs=0.01)
    assert nearer.few_copied == pytest.approx(0.95 * 0.5 + 0.05 * nearer.all_copied)
    first, second, copies = (nearest(x, train) for x in (held[:300], held[300:], train[:500]))
    found = replication_test("x", nearest(ours, train), first, second, 2, copies=copies).power
    assert found is not None
    assert found.all_copied == pytest.approx(0.99, abs=0.02), "all are beyond, and about 1 % of H2"
    assert found.few_copied == pytest.approx(found.all_copied / 20)
    assert nearer_test("x", *sides).power is None
    assert power(0.625, 0.5, (0.4, 0.55)).most_copied == pytest.approx(0.4), "a PASS at 55 % excludes two fifths"
    assert power(0.625, 0.5, (0.3, 0.49)).most_copied == 0
    assert power(0.5, 0.5, (0.4, 0.5)).most_copied == 1, "a test without power excludes nothing"


@pytest.mark.parametrize(("hits", "count", "end"), [(0, 20, 0.1684), (0, 100, 0.0362), (5, 100, 0.1128)])
def test_the_far_end_is_at_least_clopper_and_pearsons(hits: int, count: int, end: float) -> None:
    assert widened((0.0, 0.0), hits, count) == pytest.approx((0.0, end), abs=1e-4)
    assert widened((0.0, 0.0), hits, count, 0.01) == pytest.approx((0.0, end - 0.01), abs=1e-4)
    assert widened((0.1, 0.3), hits, count) == (0.1, 0.3)


def test_ten_images_pass_no_test_of_a_share() -> None:
    train, first, second, ours = (gaussian(n, s) for n, s in ((600, 0), (300, 1), (300, 2), (10, 3)))
    parts = [nearest(x, train) for x in (ours, first, second)]
    assert replication_test("x", *parts, 2).verdict == "WARN"
    rates = [t for t in membership_tests("x", {"s": Scores(np.zeros(20), np.arange(1.0, 201))}) if "TPR" in t.name]
    assert [t.verdict for t in rates] == ["WARN"]


@pytest.mark.full
def test_the_interval_of_the_share_holds_a_half() -> None:
    held = 0
    for seed in range(40):
        train, other, ours = gaussian(300, 3 * seed), gaussian(150, 3 * seed + 1), gaussian(150, 3 * seed + 2)
        found = nearer_test("x", *(similarities(ours[:, None], side) for side in (train, other)), seed=seed)
        assert found.interval is not None
        held += found.interval[0] <= 0.5 <= found.interval[1]
    assert held >= 34


def test_verdicts() -> None:
    assert decide("x", 0.05, (0.03, 0.07), 0.02).verdict == "FAIL"
    assert decide("x", 0.05, (0.01, 0.07), 0.02).verdict == "WARN"
    assert decide("x", 0.01, (0.00, 0.07), 0.02).verdict == "WARN", "harm is not excluded"
    assert decide("x", 0.01, (0.00, 0.02), 0.02).verdict == "PASS"
    assert decide("x", 0.53, (0.50, 0.56), 0.6, harmless=0.55).verdict == "WARN"
    assert decide("x", 0.53, (0.50, 0.55), 0.6, harmless=0.55).verdict == "PASS"
    assert decide("x", 0.58, (0.56, 0.63), 0.6, harmless=0.55).verdict == "WARN"
    good, warned, bad = (Outcome(v, 0.0, None, None, v) for v in ("PASS", "WARN", "FAIL"))  # type: ignore[arg-type]
    came = [control(bad, "FAIL"), control(good, "PASS")]
    assert overall([good], came) == "PASS"
    assert overall([good, warned], came) == "WARN"
    assert overall([good, not_run("x", "why")], came) == "WARN"
    assert overall([good], [*came, control(not_run("x", "why"), "FAIL")]) == "WARN"
    assert overall([good, bad], came) == "FAIL"
    assert overall([good], [*came, control(good, "FAIL")]) == "FAIL", "a control that does not come out"
    assert overall([good], [*came, control(warned, "FAIL")]) == "FAIL", "copies that a test does not see"
    assert overall([good], [*came, control(bad, "PASS")]) == "FAIL", "a test that fails innocent images"
    assert overall([good], [*came, control(warned, "PASS")]) == "WARN", "a control that is undecided"
    assert overall([good], []) == "WARN", "an audit without controls proves nothing"
