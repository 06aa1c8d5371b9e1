"""The planner of `dpd distill`: its arithmetic, what it says about the data, and its measurements."""

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import ViTConfig, ViTForImageClassification

from dpd_distill import kept_speed
from dpd_distill.distillation import networks_for
from dpd_distill.kept_speed import IDLE, share_of_a_core, speed_here
from dpd_distill.plan import (
    AUDIT_HELD,
    AUDIT_STUDENT_VIEWS,
    AUDIT_VIEWS,
    FIXED_SHARE,
    GUIDED,
    LEAST_MATCHING,
    MOST_MATCHING,
    MOST_TUNING,
    PAIRS,
    SEEN_OFTEN,
    SHORTEST,
    STATISTICS_VIEWS,
    STATISTICS_VIEWS_BESIDE_PUBLISHED,
    TOLERANCE,
    WATCHER_VIEWS,
    WATCHER_VIEWS_BESIDE_PUBLISHED,
    DistillPlan,
    Task,
    WorkSpeed,
    estimated,
    fitting_plan,
    full_plan,
    make_plan,
    on_idle_cores,
    plan_remarks,
    remarks,
    shortened,
    spent_by_stage,
    task_of,
)
from dpd_distill.speed import measure_speed, step_seconds
from dpd_eval.attacks import FEWEST
from dpd_runtime.errors import InputError
from dpd_train.bases import load_base
from dpd_train.config import TrainConfig
from dpd_train.matching import BESIDE_PUBLISHED, own_watchers
from dpd_train.networks import AttentionConfig
from tests.tiny import CONFIG, tiny_base
from tests.unit.train.test_published import broken, resnet, saved

seconds = st.floats(1e-5, 0.05)
SPEEDS = st.builds(
    WorkSpeed,
    view=seconds,
    call=seconds,
    decoded=seconds,
    tuning=st.floats(1e-3, 5),
    decoder=st.floats(1e-3, 5),
    perceptual=st.just(0.0) | seconds,
    threads=st.integers(1, 16),
)
TASKS = st.builds(
    lambda classes, smallest, ipc, more: Task(
        classes=classes, images=classes * smallest + more, smallest=smallest, ipc=ipc
    ),
    st.integers(2, 200),
    st.integers(2, 2000),
    st.integers(1, 100),
    st.integers(0, 5000),
)
MINUTES = st.floats(0.1, 1e4)
TWO_CORES = WorkSpeed(view=0.0012, call=0.0025, decoded=0.011, tuning=1.4, decoder=0.2, perceptual=0.0012, threads=2)
AID = Task(classes=10, images=1170, smallest=117, ipc=10)


def is_shortest(plan: DistillPlan, task: Task) -> bool:
    return (
        plan.teacher_steps == shortened(full_plan(), SHORTEST).teacher_steps
        or plan.matching_steps == task.least_matching
    )


@given(TASKS, SPEEDS, MINUTES)
def test_a_plan_fits_into_the_time_or_is_the_shortest(task: Task, speed: WorkSpeed, minutes: float) -> None:
    plan = make_plan(task, speed, minutes)
    assert plan.longest <= 60 * minutes * 1.001 or is_shortest(plan, task) or plan.pairs == 2
    assert plan.total == pytest.approx(sum(plan.seconds.values()))
    assert plan.longest == pytest.approx(plan.total + sum(plan.perhaps.values()))
    assert 0 <= plan.steps <= MOST_TUNING
    assert 1 <= plan.matching_steps <= MOST_MATCHING
    assert all(value > 0 for value in plan.seconds.values()), "a stage that does not run is not in the plan"
    assert set(plan.perhaps) == {"VAE decoder"}, "only a trained teacher can ask for it"
    assert ("matching" in plan.seconds) is (task.smallest >= 20)


@given(TASKS, SPEEDS, MINUTES, st.floats(1, 10))
def test_more_time_never_gives_less(task: Task, speed: WorkSpeed, minutes: float, factor: float) -> None:
    less, more = (asdict(make_plan(task, speed, each)) for each in (minutes, factor * minutes))
    names = ("teacher_steps", "perceptual_steps", "vae_steps", "latent_classifier_steps", "watcher_steps", "pairs")
    for name in names:
        assert less[name] <= more[name], name


@given(TASKS, SPEEDS, MINUTES, st.floats(1, 10))
def test_codes_alone_are_never_matched_less_in_more_time(
    task: Task, speed: WorkSpeed, minutes: float, factor: float
) -> None:
    alone = replace(task, codes_only=True)
    less, more = (make_plan(alone, speed, each) for each in (minutes, factor * minutes))
    assert less.matching_steps <= more.matching_steps


@given(TASKS, SPEEDS, MINUTES, st.integers(1, 6))
def test_a_faster_machine_is_more_time(task: Task, speed: WorkSpeed, minutes: float, power: int) -> None:
    """Powers of two are exact."""
    factor = 2.0**power
    units = {name: value / factor for name, value in asdict(speed).items() if name != "threads"}
    quick = make_plan(task, WorkSpeed(**units, threads=speed.threads), minutes)
    long = make_plan(task, speed, factor * minutes)
    assert replace(quick, seconds={}, perhaps={}) == replace(long, seconds={}, perhaps={})
    assert quick.total == pytest.approx(long.total / factor)
    assert quick.longest == pytest.approx(long.longest / factor)


@given(TASKS, SPEEDS)
def test_estimates_add_up_by_what_they_count(task: Task, speed: WorkSpeed) -> None:
    one, two = (estimated(full_plan(steps, steps), task, speed).seconds for steps in (100, 200))
    assert two["fine-tuning"] == pytest.approx(2 * one["fine-tuning"])
    if task.matched:
        assert two["matching"] == pytest.approx(2 * one["matching"])
        earlier = sum(10 * block for block in range(-(-task.codes // 10)))  # four networks see them in each step
        assert one["matching"] == pytest.approx(
            100 * task.classes * (task.codes * speed.decoded + earlier * 4 * 0.25 * speed.view)
        )


def test_a_published_network_looks_at_the_images_of_earlier_blocks_in_four_views() -> None:
    """Of fifty codes a class the later four blocks see 10, 20, 30 and 40 earlier images of each class."""
    task = replace(AID, ipc=50)
    speed = replace(TWO_CORES, watched=0.06, published=0.02)
    shown = estimated(full_plan(0, 300), task, speed).seconds["matching"]
    steps = 300 * 500 * (2 * speed.decoded + speed.watched) / 3
    steps += 300 * 10 * (10 + 20 + 30 + 40) * 4 * 0.25 * speed.view  # by the run's own networks, in each step
    assert shown == pytest.approx(steps + 4 * 10 * (10 + 20 + 30 + 40) * 0.02)


def test_ninety_minutes_on_two_idle_cores_are_full_stages_and_much_matching() -> None:
    plan = make_plan(AID, TWO_CORES, 90)
    assert 70 * 60 < plan.longest <= 90 * 60
    assert plan.pairs == PAIRS
    assert plan.teacher_steps == full_plan().teacher_steps
    assert plan.matching_steps > 300
    fixed = estimated(full_plan(), AID, TWO_CORES).longest
    assert fixed < FIXED_SHARE * 90 * 60


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1])
def test_watchers_shrink_with_the_other_stages_to_a_quarter(share: float) -> None:
    plan = shortened(full_plan(), share)
    assert plan.watcher_steps == round(150 + share * 450)
    assert shortened(plan, 0).watcher_steps == 150
    assert shortened(replace(plan, watcher_steps=2), share).watcher_steps == 2


def test_a_plan_is_the_config_of_a_training() -> None:
    plan = make_plan(AID, TWO_CORES, 90)
    config = plan.config(ipc=10, seed=3)
    assert (config.steps, config.matching_steps, config.seed) == (plan.steps, plan.matching_steps, 3)
    assert (config.prototypes, config.tune_vae, config.peak_rate) == (None, None, 4e-4)
    with pytest.raises(InputError, match="--ipc is 0"):
        plan.config(ipc=0)


@given(TASKS, SPEEDS, MINUTES)
@example(  # time that the smaller export frees is enough for one more pair of students
    Task(classes=36, images=720, smallest=20, ipc=9),
    WorkSpeed(view=0.046875, call=0.015625, decoded=0.03125, tuning=1.0, decoder=0.0625, perceptual=0.046875),
    1162,
)
def test_codes_alone_need_no_fine_tuning(task: Task, speed: WorkSpeed, minutes: float) -> None:
    alone, usual = (make_plan(replace(task, codes_only=value), speed, minutes) for value in (True, False))
    assert alone.steps == 0
    assert alone.matching_steps >= usual.matching_steps


@pytest.mark.parametrize(
    ("smallest", "ipc", "codes_only", "codes", "alone"),
    [
        (59, None, None, 5, True),
        (60, None, None, 10, False),
        (22, None, None, 5, True),
        (19, None, None, 0, False),
        (59, 10, None, 10, True),
        (59, None, False, 5, False),
        (59, 10, False, 10, False),
        (60, None, True, 10, True),
    ],
)
def test_few_images_make_few_codes_and_nothing_else(
    smallest: int, ipc: int | None, codes_only: bool | None, codes: int, alone: bool
) -> None:
    task = task_of({"Forest": 500, "River": smallest}, ipc, codes_only)
    assert (task.codes, task.codes_only) == (codes, alone)
    assert make_plan(task, TWO_CORES, 5).matching_steps >= (300 if 20 <= smallest < 60 else 1)


def test_a_set_of_codes_alone_is_judged_at_no_more_images_than_codes() -> None:
    assert task_of({"Forest": 500, "River": 30}, 20, True).judged_ipc == 15


def said(counts: dict[str, int], ipc: int | None = 10, minutes: float = 90) -> list[str]:
    task = task_of(counts, ipc)
    return [*remarks(counts, task), *plan_remarks(task, make_plan(task, TWO_CORES, minutes))]


def test_ordinary_data_needs_no_remark() -> None:
    assert said({"Forest": 120, "River": 150}) == []


@pytest.mark.parametrize(
    ("counts", "ipc", "words"),
    [
        ({"Forest": 120, "River": 12}, 10, "1 of 2 classes have fewer than 20 training images, 'River' has 12: "),
        ({"Forest": 120, "River": 30}, None, "class 'River' has 30 training images, fewer than 60: 5 codes per class"),
        ({"Forest": 120, "River": 80}, 50, "class 'River' has 80 training images: 40 matched codes per class"),
        ({"Forest": 120, "River": 7}, 10, "students are compared at IPC 7: class 'River' has no more real images"),
        ({"A": 2000, "B": 2000, "C": 2000, "D": 27}, 10, "classes are uneven, from 27 images in 'D' to 2000 in 'A'"),
    ],
)
def test_unusual_data_are_told_in_one_line(counts: dict[str, int], ipc: int | None, words: str) -> None:
    assert len([line for line in said(counts, ipc) if line.startswith(words)]) == 1


def test_a_short_time_is_told() -> None:
    assert any("stages are shortened" in line for line in said({"Forest": 120, "River": 150}, minutes=15))
    assert not said({"Forest": 120, "River": 150}, minutes=90)


@given(TASKS, SPEEDS, MINUTES)
def test_a_plan_is_kept_or_refused_with_what_would_fit(task: Task, speed: WorkSpeed, minutes: float) -> None:
    """Each way that the message names does fit."""
    try:
        plan = fitting_plan(task, speed, minutes)
    except InputError as error:
        words = str(error)
        least = re.search(r"--minutes (\d+)[,;]", words.split("; give ")[1])
        assert least is not None
        fitting_plan(task, speed, float(least[1]))
        if ipc := re.search(r"--ipc (\d+)", words):
            fitting_plan(replace(task, ipc=int(ipc[1])), speed, minutes)
        if "--codes-only" in words:
            fitting_plan(replace(task, codes_only=True), speed, minutes)
        if "--quick" in words:
            fitting_plan(replace(task, quick=True, codes_only=task.matched), speed, minutes)
    else:
        assert plan.longest <= 60 * minutes * TOLERANCE


def test_five_minutes_for_many_classes_are_refused() -> None:
    task = task_of({str(n): 50 for n in range(45)})
    said = r"--minutes 5: 45 classes need at least \d+ minutes on this machine, of which [a-zA-Z ]+ takes \d+; give"
    with pytest.raises(InputError, match=said):
        fitting_plan(task, TWO_CORES, 5)


def test_a_refusal_names_the_stage_that_takes_longest() -> None:
    watched = replace(TWO_CORES, decoded=100 * TWO_CORES.decoded)  # as with large networks among the watchers
    with pytest.raises(InputError, match=r"of which matching takes (\d+); give") as refused:
        fitting_plan(AID, watched, 90)
    [minutes] = re.findall(r"takes (\d+);", str(refused.value))
    assert int(minutes) == math.ceil(LEAST_MATCHING * AID.classes * AID.codes * watched.decoded / 60)


def test_an_audit_takes_time_by_its_images_and_trains_students_where_the_hold_out_has_enough() -> None:
    assert AUDIT_HELD == 2 * FEWEST, "images in each half of the hold-out"
    few, enough, twice = (
        estimated(full_plan(), replace(AID, images=images, held=held), TWO_CORES).seconds["audit and report"]
        for images, held in ((1000, 99), (1000, 100), (2000, 100))
    )
    assert enough - few == pytest.approx(TWO_CORES.view * (AUDIT_STUDENT_VIEWS + AUDIT_VIEWS))
    assert twice - enough == pytest.approx(TWO_CORES.view * 1000 * AUDIT_VIEWS)


def test_an_audit_of_codes_alone_samples_nothing_and_judges_the_codes() -> None:
    task = Task(classes=5, images=180, smallest=36, ipc=5, held=20)
    costs = []
    for codes_only in (False, True):
        for call in (0.0025, 0.025):
            seconds = make_plan(replace(task, codes_only=codes_only), replace(TWO_CORES, call=call), 90).seconds
            costs.append(seconds["audit and report"])
    assert costs[1] > 5 * costs[0], "images between the codes and AUDIT_IMAGES are sampled"
    assert costs[2] == costs[3] == pytest.approx(AUDIT_VIEWS * (180 + 20 + 25) * TWO_CORES.view)


def test_a_quick_look_compares_one_pair_and_audits_nothing() -> None:
    counts = {str(n): 50 for n in range(5)}
    task = task_of(counts, quick=True)
    plan = fitting_plan(task, TWO_CORES, 10)
    assert task.codes_only
    assert plan.pairs == 1
    assert plan.watcher_steps < full_plan().watcher_steps
    assert "audit and report" not in plan.seconds
    eight = estimated(replace(plan, pairs=8), task, TWO_CORES).seconds["judging"]
    assert plan.seconds["judging"] == pytest.approx(eight / 8), "no features are compared"
    many = estimated(plan, replace(task, images=SEEN_OFTEN + 1), TWO_CORES)
    assert many.seconds["judging"] == pytest.approx(4 / 1.5 * plan.seconds["judging"]), "one thread has the longest"
    sampled = replace(task, codes_only=False, smallest=15)
    more = estimated(plan, sampled, TWO_CORES).seconds["judging"] - plan.seconds["judging"]
    assert more == pytest.approx(5 * 10 * GUIDED * TWO_CORES.call), "the judged set, without codes"
    assert any("one pair of students is compared, and nothing is audited" in line for line in plan_remarks(task, plan))
    assert not task_of({"Forest": 12, "River": 12}, quick=True).codes_only, "no codes can be matched"


def test_a_busy_loop_beside_it_takes_a_share_of_the_core() -> None:
    core = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # inherits the core
    try:
        time.sleep(1)  # until it has started
        assert share_of_a_core() < IDLE
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, before)


def test_the_first_step_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for walls, computed, seconds in (
        ([1.0, 10.0, 12.0, 15.0], [1.0, 9.0, 11.0, 14.0], 2.0),  # the first, which warms up, is not the 1 to 10
        ([1.0, 10.0, 14.0, 18.0], [1.0, 9.0, 11.0, 13.0], 2.0),  # others have the core half of the time
    ):
        wall, alone = iter(walls), iter(computed)
        monkeypatch.setattr("dpd_distill.speed.time.perf_counter", lambda wall=wall: next(wall))
        monkeypatch.setattr("dpd_distill.speed.time.process_time", lambda alone=alone: next(alone))
        assert step_seconds(lambda tell: [tell(step, 4) for step in range(4)]) == seconds


def test_a_tiny_base_is_measured_by_training_steps_alone(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    with caplog.at_level("INFO", "dpd_train.denoiser"):
        speed = measure_speed(load_base(str(tiny_base(folder))), CONFIG, torch.device("cpu"))
    assert all(0 < value < 10 for name, value in asdict(speed).items() if name not in ("published", "judge", "watched"))
    assert speed.published == 0
    assert len(caplog.records) == 1, "a validation after each step made fine-tuning seem 2.4 times as slow"


class Measured:
    """A measurement that is counted and gives the number of the call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: object) -> WorkSpeed:
        self.calls += 1
        return replace(TWO_CORES, view=float(self.calls))


def test_a_measurement_is_kept_for_a_day_and_made_again_where_it_was_made_beside_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, told, share, clock = Measured(), list[str](), [1.0], [1e9]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("dpd_distill.speed.speed_of", measured)
    monkeypatch.setattr(kept_speed, "share_of_a_core", lambda: share[0])
    monkeypatch.setattr(kept_speed.time, "time", lambda: clock[0])

    def view(config: TrainConfig = CONFIG, threads: int = 1) -> float:
        return speed_here(config, threads, lambda done, total: None, told.append)[0].view

    share[0] = 0.5
    assert (view(), view()) == (1, 1)
    share[0] = 1.0
    assert (view(), view()) == (2, 2), "the machine is idle now"
    share[0] = 0.5
    assert view() == 2, "what was measured on idle cores is the better figure"
    assert (view(threads=2), view(replace(CONFIG, resolution=128))) == (3, 4)
    clock[0] += kept_speed.KEPT - 1
    assert view() == 2
    clock[0] += 2
    assert view() == 5
    clock[0] -= 3600
    assert view() == 6, "measured in the future"
    [place] = [file for file in tmp_path.rglob("*.json") if json.loads(file.read_text())["speed"]["view"] == 6]
    for fault in ("", "[]", '{"measured": NaN}', place.read_text().replace("6.0", "-1")):
        place.write_text(fault)
        assert view() == measured.calls
    assert len(told) == measured.calls
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert view() == measured.calls, "a cache that cannot be written costs time alone"


@given(st.floats(0.05, 1), SPEEDS)
def test_other_programs_make_everything_slower_by_their_share(share: float, speed: WorkSpeed) -> None:
    alone, beside = (estimated(full_plan(9, 9), AID, each) for each in (speed, speed.beside_others(share)))
    assert beside.longest * share == pytest.approx(alone.longest)
    assert on_idle_cores(beside.longest, share, speed.threads, speed.threads) == pytest.approx(alone.longest)
    assert on_idle_cores(1, 1, 1, 2) == pytest.approx(1 / 1.6)


def test_what_a_distillation_took_is_counted_by_the_stages_of_its_plan() -> None:
    plan = replace(
        full_plan(), seconds={"reading and encoding": 1, "watchers": 2, "judging": 3}, perhaps={"VAE decoder": 4}
    )
    titles = {"1/4 captions": 5.0, "1/4 perceptual networks": 6.0, "1/4 VAE decoder": 7.0, "1/4 watchers": 8.0}
    titles |= {"1/4 the rest": 9.0, "3/4 training students, %": 10.0, "3/4 the rest": 11.0}
    spent = spent_by_stage(plan, titles, {"1": "reading and encoding", "3": "judging"})
    assert spent == {"reading and encoding": 14, "watchers": 8, "judging": 21, "VAE decoder": 13}


def test_a_published_model_is_timed_and_counted_where_it_watches(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = replace(CONFIG, watchers=f"own,hf:{saved(tmp_path / 'eyes', resnet)}", prototypes="matched")
    speed = measure_speed(load_base(str(tiny_base(tmp_path))), config, torch.device("cpu"))
    assert 0 < speed.published < 10
    assert 0 < speed.watched < 10
    assert 0 < speed.decoder < 10
    assert speed.perceptual == 0, (
        "the published model compares a decoder's images, so that no network is trained for it"
    )
    alone = measure_speed(load_base(str(tiny_base(tmp_path))), replace(config, watchers="own"), torch.device("cpu"))
    assert alone.perceptual == alone.view > 0
    speeds = (replace(TWO_CORES, watched=value) for value in (0.0, 0.05))
    plain, watched = (estimated(full_plan(0, 300), AID, each).seconds["matching"] for each in speeds)
    codes = AID.classes * AID.codes
    assert plain == pytest.approx(300 * codes * TWO_CORES.decoded)
    assert watched == pytest.approx(codes * (200 * TWO_CORES.decoded + 100 * 0.05)), "they watch in the last third"
    for images, seen in ((1170, 3 * 1170), (5000, 3000)):  # 3,000 views at least, in whole passes
        task = replace(AID, images=images)
        plain, watched = (
            estimated(full_plan(), task, replace(TWO_CORES, published=value)).seconds for value in (0.0, 0.05)
        )
        assert watched["watchers"] / plain["watchers"] == pytest.approx(WATCHER_VIEWS_BESIDE_PUBLISHED / WATCHER_VIEWS)
        looked_at = 8000 * TWO_CORES.view  # seven own networks look, of 28: five residual ones, and two of attention
        assert plain["statistics"] == pytest.approx((20 * 0.26 + 8 * 0.21) * looked_at)
        assert watched["statistics"] == pytest.approx((5 * 0.26 + 2 * 0.21) * looked_at + 0.05 * seen)


def test_bands_of_their_own_get_all_steps_of_their_vae_and_neither_samples_nor_tuning() -> None:
    task = task_of({"Cargo": 110, "Other": 25}, own_vae=True)
    plan = make_plan(task, TWO_CORES, 10)
    assert (task.codes_only, task.ipc, plan.steps) == (True, 5, 0)
    assert plan.vae_steps == full_plan().vae_steps > make_plan(replace(task, own_vae=False), TWO_CORES, 10).vae_steps
    assert plan.teacher_steps < full_plan().teacher_steps
    assert plan.seconds["VAE"] > 0
    assert not plan.perhaps
    assert "starting images" not in plan.seconds
    first, line = remarks({"Cargo": 110, "Other": 25}, task)
    assert first.startswith("images keep their bands")
    assert line.endswith("--ipc overrides it")


def test_networks_that_are_found_watch_and_judge_where_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be opened is passed over, and one that can be no student does not judge; a line says why."""
    monkeypatch.setenv("DPD_NETWORKS", str(tmp_path / "networks"))
    good, broken_one, vit_without = (tmp_path / "networks" / name for name in ("a", "b", "c"))
    saved(good, resnet)
    saved(broken_one, broken)
    enough = Task(classes=2, images=200, smallest=100, ipc=10)
    watchers, judge, lines = networks_for(enough)
    assert (watchers, judge) == ("own,hf:a", "a")
    assert any(
        line.startswith("hf:b is on this machine and does not watch: gives numbers that are not") for line in lines
    )
    assert lines[-1] == "hf:a judges the set beside convnet, although it watched, as no other here can judge"
    saved(vit_without, resnet)
    assert networks_for(enough) == ("own,hf:a,hf:c", "a", ANY)
    assert networks_for(enough, "own") == ("own", "a", ["hf:a judges the set beside convnet"])
    relative = "hf:c judges the set beside convnet, of the family of those that watched: networks of another one may "
    assert networks_for(enough, "own,hf:a") == ("own,hf:a", "c", [relative + "learn less from it"])
    for other, expected in {
        replace(enough, own_vae=True): ("own", None, []),
        replace(enough, smallest=5): ("own", "a", ["hf:a judges the set beside convnet"]),
        replace(enough, quick=True, images=SEEN_OFTEN + 1): ("own,hf:a,hf:c", None, ANY),
    }.items():
        assert networks_for(other) == expected
    saved(tmp_path / "networks" / "d", resnet)
    shape = ViTConfig(image_size=32, patch_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    shape.num_attention_heads = 1

    def of_nothing() -> ViTForImageClassification:
        model = ViTForImageClassification(shape)
        model.vit.layernorm.weight.data.fill_(math.nan)
        return model

    saved(tmp_path / "networks" / "e", of_nothing)  # the fourth that nothing spoke against, of another family
    watchers, judge, lines = networks_for(enough)
    assert (watchers, judge) == ("own,hf:a,hf:c", "d")
    assert any(line.startswith("hf:e does not judge: hf:e: gives numbers that are not finite") for line in lines)
    monkeypatch.setattr("dpd_eval.hub.partial_model", headless)
    watchers, judge, lines = networks_for(enough, "own")
    assert judge is None
    assert lines[0].startswith("hf:a does not judge: student hf:a")


def headless(*arguments: object, **options: object) -> tuple[torch.nn.Module, list[str]]:
    """A model whose last layer is not linear."""
    return torch.nn.Conv2d(3, 2, 1), []


def test_a_plan_counts_the_steps_that_own_watchers_take() -> None:
    """A step of an attention shape costs half of a residual one's, as the plan's measurement was."""
    every = own_watchers(10, 0)
    few = [every[number] for number in BESIDE_PUBLISHED]
    for watchers, trained, measured in (
        (every, WATCHER_VIEWS, STATISTICS_VIEWS),
        (few, WATCHER_VIEWS_BESIDE_PUBLISHED, STATISTICS_VIEWS_BESIDE_PUBLISHED),
    ):
        attention = [isinstance(watcher.shape, AttentionConfig) for watcher in watchers]
        steps = [
            (0.37 if own else 0.74) * 64 * watcher.training.steps
            for watcher, own in zip(watchers, attention, strict=True)
        ]
        assert trained == pytest.approx(sum(steps))
        assert measured == pytest.approx(sum(0.21 if own else 0.26 for own in attention))
