"""Stages of a distillation, their estimated seconds, and the numbers of steps that fill the time. Loads no PyTorch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dpd_runtime.errors import InputError
from dpd_runtime.html import html_table
from dpd_runtime.remarks import GIVEN_AWAY, SMALL, few_images, network_remarks
from dpd_runtime.sampler import BLOCK, DEFAULT_SAMPLER
from dpd_runtime.text import counted
from dpd_train.config import (  # noqa: TID253 -- loads no PyTorch
    EARLIER_VIEWS,
    PUBLISHED_IMAGES,
    PUBLISHED_PART,
    PUBLISHED_VIEWS,
    WATCHER_STEPS,
    TrainConfig,
)
from dpd_train.run import LEAST_MATCHED, matched_count  # noqa: TID253 -- loads no PyTorch

FIXED_SHARE = 0.6  # of the time that can be allotted; if stages of fixed length would take more, they are shortened
SHORTEST = 0.1  # share of their usual steps that shortened stages keep
TUNING_SHARE = 0.3  # of the time that is left to fine-tuning and matching
MOST_TUNING, MOST_MATCHING, LEAST_MATCHING = 1500, 2000, 100  # steps
"""On AID's validation part the set is worth 1.09 to 1.18 × random with 300 or 850 matching steps, with 2,660 steps of
fine-tuning or none; matchings differ by as much (docs/results.md). Fine-tuning makes better images beyond the
codes, and few matching steps begin nearer to their end with it. Codes alone are made without it."""
SMALL_IPC, SMALL_MATCHING = 5, 300
"""Below SMALL images a class a bundle holds SMALL_IPC codes of each class and nothing else, matched in at least
SMALL_MATCHING steps, which few codes make cheap."""
SHORTEST_WATCHERS = 150
"""Steps of the longest watchers in a quick look, and where time is short: a quarter of the usual ones, which are no
better where matching gets the time instead (docs/results.md)."""
MINUTES, QUICK_MINUTES = 90.0, 10.0
USUAL_IPC = 10
PAIRS, LEAST_PAIRS, QUICK_PAIRS = 8, 2, 1
ARMS = 3  # the set, random images, and herding or, in a quick look, all images
STUDENT_VIEWS = 0.34 * 64 * 1000  # of the quick recipe, in units of `WorkSpeed.view`
SEEN_OFTEN, FULL_TIMES = 3200, 4
"""Training images up to which a student of a first look's arm `full` takes no more steps than the others: it sees each
image twenty times then. With more it takes the recipe's own number, FULL_TIMES as many."""
RESIDUAL_VIEWS, ATTENTION_VIEWS = 0.74 * 64, 0.37 * 64  # of a step of a watcher
WATCHER_VIEWS = RESIDUAL_VIEWS * 5 * 800 + ATTENTION_VIEWS * 2 * 2790  # five residual and two attention shapes
WATCHER_VIEWS_BESIDE_PUBLISHED = RESIDUAL_VIEWS * 1540 + ATTENTION_VIEWS * 2600  # each shape once
STATISTICS_VIEWS = 0.26 * 20 + 0.21 * 8  # for each image that statistics are measured on, without a gradient
STATISTICS_VIEWS_BESIDE_PUBLISHED = 0.26 * 5 + 0.21 * 2
STATISTICS_IMAGES = 8000  # at least
EARLIER_LOOKS = 4 * 0.25  # in each step four own watchers look at the images of earlier blocks
LATENT_CLASSIFIER_VIEWS = 0.32 * 64
PERCEPTUAL_VIEWS = 1.2 * 3 * 64
EXTRACTOR_VIEWS = 64 * 1200  # of evaluation and audit together
EXPORT_VIEWS, CODES_VIEWS = 35_000.0, 5_000.0  # of a whole bundle, and of codes with their decoder
AUDIT_VIEWS = 4.8  # for each image of the training, the hold-out and the set
AUDIT_STUDENT_VIEWS = 6 * 0.6 * STUDENT_VIEWS  # six students of 600 steps, where the hold-out has AUDIT_HELD images
AUDIT_IMAGES, AUDIT_HELD = 500, 100
UNEVEN = 10  # times as many images in the largest class as in the smallest
TOLERANCE = 1.05
GUIDED = 2 * DEFAULT_SAMPLER.steps * DEFAULT_SAMPLER.candidates  # calls of the UNet for a sampled image


@dataclass(frozen=True, kw_only=True)
class WorkSpeed:
    """Seconds of one unit of work on this machine.

    Args:
        view: one image forward and backward through the teacher.
        call: one latent through the UNet.
        decoded: one code through the VAE's decoder and four of the run's own watchers, with its gradient. watched: the
            same with a published model among the four, 0 where none watches.
        published: one image through each published model that watches. judge: one through the one that judges.
        tuning: one fine-tuning step. decoder: one step of tuning the VAE's decoder, 0 for one that is too
            large for it. perceptual: as `view`, for networks that are trained to compare its images; 0 where a
            published one does.
        threads: of PyTorch, from which trainings on one thread are estimated.
    """

    view: float
    call: float
    decoded: float
    tuning: float
    decoder: float
    perceptual: float
    watched: float = 0.0
    published: float = 0.0
    judge: float = 0.0
    threads: int = 1

    def beside_others(self, share: float) -> "WorkSpeed":
        """The speed where each thread gets this share of a core, and other programs the rest."""
        own = {name: value / share for name, value in asdict(self).items() if name != "threads"}
        return WorkSpeed(**own, threads=self.threads)


@dataclass(frozen=True, kw_only=True)
class Task:
    """The size of the data and the images per class that are wanted.

    Args:
        images: of the training part, in all classes. smallest: scenes of its smallest class.
        held: images that the audit compares with. tested: those that students are tested on.
        codes_only: the bundle holds codes and their decoder alone.
        quick: one pair of students is compared, and nothing is audited.
        own_vae: images carry other bands than RGB, for which a VAE is trained, and codes start as noise.
    """

    classes: int
    images: int
    smallest: int
    ipc: int
    held: int = AUDIT_HELD
    tested: int = AUDIT_HELD
    codes_only: bool = False
    quick: bool = False
    own_vae: bool = False

    @property
    def matched(self) -> bool:
        """Whether codes can be matched to all classes."""
        return self.smallest >= LEAST_MATCHED

    @property
    def codes(self) -> int:
        """Matched codes of each class; 0 if none can be matched."""
        return matched_count(self.ipc, self.smallest) if self.matched else 0

    @property
    def judged_ipc(self) -> int:
        """Images per class that students are trained on: the bundle and random real subsets must have so many."""
        return min(self.ipc, self.codes if self.codes_only else self.smallest)

    @property
    def small(self) -> bool:
        """Whether codes are matched to a class of few images."""
        return self.matched and self.smallest < SMALL

    @property
    def least_matching(self) -> int:
        """Steps of matching, at least."""
        return SMALL_MATCHING if self.small and not self.quick else LEAST_MATCHING


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """The numbers of steps of a distillation. Equal plans, seeds and data give equal codes on one machine.

    Args:
        seconds: estimated, by stage, in the order in which they run.
        perhaps: of stages that run only where the images turn out to need them. The time suffices for them, too.
    """

    steps: int
    matching_steps: int
    teacher_steps: int
    latent_classifier_steps: int
    perceptual_steps: int
    vae_steps: int
    watcher_steps: int = WATCHER_STEPS
    pairs: int
    seconds: Mapping[str, float]
    perhaps: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Estimated seconds of the stages that run in any case."""
        return sum(self.seconds.values())

    @property
    def longest(self) -> float:
        """Estimated seconds of all stages."""
        return self.total + sum(self.perhaps.values())

    def _repr_html_(self) -> str:
        """The stages with their seconds, for notebooks."""
        rows = [(name, f"{seconds:.0f}") for name, seconds in self.seconds.items()]
        rows += [(f"{name}, where the images need it", f"{seconds:.0f}") for name, seconds in self.perhaps.items()]
        return html_table(f"Plan: {self.total / 60:.0f} minutes", ("stage", "seconds"), rows)

    def config(self, **others: Any) -> TrainConfig:
        """The config of the training that this plan describes, with values of other fields."""
        own = {name: value for name, value in asdict(self).items() if name not in ("pairs", "seconds", "perhaps")}
        return TrainConfig(**own, **others)


def full_plan(steps: int = 0, matching_steps: int = 0) -> DistillPlan:
    """The stages of fixed length at their usual length, not yet estimated."""
    usual = TrainConfig()
    return DistillPlan(
        steps=steps,
        matching_steps=matching_steps,
        teacher_steps=usual.teacher_steps,
        latent_classifier_steps=usual.latent_classifier_steps,
        perceptual_steps=usual.perceptual_steps,
        vae_steps=usual.vae_steps,
        pairs=PAIRS,
        seconds={},
    )


def shortened(plan: DistillPlan, share: float, own_vae: bool = False) -> DistillPlan:
    """The plan with `share` of what its stages of fixed length, and the pairs, have beyond their least, rounded down.
    A VAE that begins anew keeps its steps, as all else hangs on it."""
    least = {"teacher_steps": 1, "latent_classifier_steps": 1, "perceptual_steps": 1}
    least |= {"watcher_steps": SHORTEST_WATCHERS, "pairs": LEAST_PAIRS} | ({} if own_vae else {"vae_steps": 1})
    fewer: dict[str, Any] = {}
    for name, fewest in least.items():
        usual = getattr(plan, name)
        fewer[name] = int(min(fewest, usual) + share * max(0, usual - fewest))
    return replace(plan, **fewer)


def on_idle_cores(seconds: float, share: float, threads: int, cores: int) -> float:
    """What takes `seconds` with so many threads, each with this share of a core, on idle cores with a thread each."""
    return seconds * share * _together(threads) / _together(cores)


def _together(threads: int) -> float:
    """How many times as fast as one thread so many are."""
    return max(1.0, 0.8 * threads)


def spent_by_stage(plan: DistillPlan, titles: Mapping[str, float], works: Mapping[str, str]) -> dict[str, float]:
    """Seconds that a distillation took, by the stages of its plan.

    Args:
        titles: what was shown while it ran, such as "1/4 watchers" → seconds.
        works: "1" → the stage that everything else in this part of the distillation counts for.
    """
    spent = dict.fromkeys([*plan.seconds, *plan.perhaps], 0.0)
    for title, seconds in titles.items():
        number, _, name = title.partition(" ")
        name = "VAE decoder" if name == "perceptual networks" else name
        stage = name if name in spent else works[number.partition("/")[0]]
        spent[stage] = round(spent.get(stage, 0.0) + seconds, 1)
    return spent


def estimated(plan: DistillPlan, task: Task, speed: WorkSpeed) -> DistillPlan:
    """The plan with the seconds of its stages."""
    seconds, perhaps = _seconds(plan, task, speed), _perhaps(plan, task, speed)
    return replace(plan, seconds={name: spent for name, spent in seconds.items() if spent}, perhaps=perhaps)


def make_plan(task: Task, speed: WorkSpeed, minutes: float) -> DistillPlan:
    """The plan that fills `minutes`, or the shortest one if that takes longer. Codes alone need no fine-tuned denoiser.

    Stages of fixed length come first. Some work never shrinks, such as the export; of the time beside it these stages
    take at most FIXED_SHARE, and what the fewest steps of matching leave; they are shortened for it. What is left goes
    to fine-tuning and matching. What rounding down leaves, less than a pair of students takes, stays free: given to
    matching, it would make a plan that has more time match less, where it has one more pair.
    """
    budget, plan = 60 * minutes, full_plan()
    if task.quick:
        plan = replace(plan, watcher_steps=SHORTEST_WATCHERS, pairs=QUICK_PAIRS)
    fixed, rest = (estimated(shortened(plan, share, task.own_vae), task, speed).longest for share in (1, 0))
    a_step = _matching(1, task, speed)
    least = task.least_matching * a_step
    share = min(FIXED_SHARE * (budget - rest), budget - rest - least) / (fixed - rest)
    if share < 1:
        share = max(SHORTEST, share)
        plan = shortened(plan, share, task.own_vae)
        fixed = rest + share * (fixed - rest)
    left = max(0.0, budget - fixed)
    tuning = min(MOST_TUNING, int(max(0.0, min(TUNING_SHARE * left, left - least) if a_step else left) / speed.tuning))
    if task.codes_only:
        tuning = 0
    matching = 0
    if a_step:
        matching = int((left - tuning * speed.tuning) / a_step)
        matching = max(task.least_matching, min(MOST_MATCHING, matching))
    return estimated(replace(plan, steps=tuning, matching_steps=max(1, matching)), task, speed)


def fitting_plan(task: Task, speed: WorkSpeed, minutes: float) -> DistillPlan:
    """The plan that fills `minutes`.

    Raises:
        InputError: the shortest one takes longer; the message says how long, with which stage, and what would fit.
    """

    def fits(other: Task) -> bool:
        return make_plan(other, speed, minutes).longest <= 60 * minutes * TOLERANCE

    if fits(task):
        return make_plan(task, speed, minutes)
    shortest = make_plan(task, speed, 0)
    stages = {**shortest.seconds, **shortest.perhaps}
    least, longest = math.ceil(shortest.longest / 60), max(stages, key=stages.__getitem__)
    ways = [f"--minutes {least}"]
    ways += [f"--ipc {ipc}" for ipc in range(task.ipc - 1, 0, -1) if fits(replace(task, ipc=ipc))][:1]
    if task.matched and not task.codes_only and fits(replace(task, codes_only=True)):
        ways.append("--codes-only")
    if not task.quick and fits(replace(task, quick=True, codes_only=task.matched)):
        ways.append("--quick, which audits nothing")
    ways.append("fewer classes")
    raise InputError(
        f"--minutes {minutes:g}: {counted(task.classes, 'class')} need at least {counted(least, 'minute')} on this "
        f"machine, of which {longest} takes {math.ceil(stages[longest] / 60)}; give {', or '.join(ways)}"
    )


def task_of(
    counts: Mapping[str, int],
    ipc: int | None = None,
    codes_only: bool | None = None,
    quick: bool = False,
    held: int = AUDIT_HELD,
    own_vae: bool = False,
    *,
    images: int | None = None,
    tested: int | None = None,
) -> Task:
    """The task of data with these numbers of training scenes by class.

    Args:
        held, tested: as in `Task`; as many are tested as the audit compares with, where nothing else is said.
        images: of the training part; as many as there are scenes, where nothing else is said.
        own_vae: whether images carry other bands than RGB.
        ipc, codes_only: as asked for; None for what suits the number of images. A quick look makes codes alone.
    """
    task = Task(
        classes=len(counts),
        images=sum(counts.values()) if images is None else images,
        smallest=min(counts.values()),
        ipc=ipc or USUAL_IPC,
        held=held,
        tested=held if tested is None else tested,
        quick=quick,
        own_vae=own_vae,
    )
    suited = task.small or (quick and task.matched) if codes_only is None else codes_only
    return replace(task, ipc=ipc or (SMALL_IPC if task.small else USUAL_IPC), codes_only=own_vae or suited)


def remarks(counts: Mapping[str, int], task: Task) -> list[str]:
    """What is unusual about the data, one line each.

    Args:
        counts: training images by class.
    """
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    lines = []
    if task.own_vae:
        lines.append("images keep their bands: a codes-only bundle, with a VAE that is trained for them")
    if not task.matched:
        few = sum(count < LEAST_MATCHED for count in counts.values())
        lines.append(
            f"{few} of {task.classes} classes have fewer than {LEAST_MATCHED} training images, {least!r} has "
            f"{task.smallest}: prototypes are pooled and images are sampled, which is worth less than matched codes"
        )
    elif task.small and task.codes_only and not task.quick:
        more = " overrides" if task.own_vae else " and --no-codes-only override"
        lines.append(
            f"{few_images(counts)}: {counted(task.codes, 'code')} per class in a codes-only bundle, as {GIVEN_AWAY}; "
            f"--ipc{more} it"
        )
    elif task.codes < task.ipc:
        lines.append(
            f"class {least!r} has {counted(task.smallest, 'training image')}: {counted(task.codes, 'matched code')} "
            "per class, further images are re-noised"
        )
    if task.judged_ipc < task.ipc and not task.codes_only and not task.quick:
        lines.append(f"students are compared at IPC {task.judged_ipc}: class {least!r} has no more real images")
    if not task.codes_only:
        lines += network_remarks(counts, matched=task.matched)
    if counts[most] >= UNEVEN * task.smallest:
        lines.append(
            f"classes are uneven, from {counted(task.smallest, 'image')} in {least!r} to {counts[most]} in {most!r}: "
            "every class gets equally many codes, and those of small classes rest on few images"
        )
    return lines


def plan_remarks(task: Task, plan: DistillPlan) -> list[str]:
    """What is unusual about the plan, one line each."""
    if task.quick:
        return ["a quick look: stages are short, one pair of students is compared, and nothing is audited"]
    if plan.pairs < PAIRS:
        pairs = counted(plan.pairs, "pair")
        return [f"little time: stages are shortened, and {pairs} of students are compared, not {PAIRS}"]
    return []


def _probes(plan: DistillPlan, task: Task, processes: int) -> int:
    """Images that the judging network sees: those that students are tested on, once in each process, and each arm's."""
    if task.quick and task.images > SEEN_OFTEN:
        return 0
    arms = plan.pairs * task.classes * task.judged_ipc * 2 + (task.images if task.quick else 0)
    return arms + min(processes, plan.pairs * ARMS) * task.tested


def _beyond_codes(task: Task) -> int:
    """Images of the judged set that are sampled, not decoded; re-noised blocks, which take less, among them."""
    if task.codes_only:
        return 0
    return task.classes * BLOCK * max(0, -(-task.judged_ipc // BLOCK) - -(-task.codes // BLOCK))


def _matching(steps: int, task: Task, speed: WorkSpeed) -> float:
    part = PUBLISHED_PART if speed.watched else 0.0
    of_block = task.codes * ((1 - part) * speed.decoded + part * speed.watched)
    earlier = sum(range(0, task.codes, BLOCK)) * EARLIER_LOOKS * speed.view
    return steps * task.classes * (of_block + earlier)


def _earlier_blocks(task: Task, speed: WorkSpeed) -> float:
    """Seconds in which published networks look at the images of earlier blocks."""
    images = sum(range(0, task.codes, BLOCK)) * task.classes
    return images * EARLIER_VIEWS * speed.published


def _perhaps(plan: DistillPlan, task: Task, speed: WorkSpeed) -> dict[str, float]:
    """Estimated seconds of tuning the decoder, which only a trained teacher can ask for."""
    if task.own_vae or not speed.decoder:
        return {}
    networks = PERCEPTUAL_VIEWS * plan.perceptual_steps * speed.perceptual
    return {"VAE decoder": networks + plan.vae_steps * speed.decoder}


def _seconds(plan: DistillPlan, task: Task, speed: WorkSpeed) -> dict[str, float]:
    """Estimated seconds of each stage that runs in any case; stages of matching only where codes can be matched."""
    view, one_thread = speed.view, speed.view * _together(speed.threads)
    seconds = {
        "reading and encoding": task.images * (speed.decoded / 2 + view),
        "teacher": 64 * plan.teacher_steps * view,
        "VAE": plan.vae_steps * speed.decoder if task.own_vae else 0,
        "latent classifier": LATENT_CLASSIFIER_VIEWS * plan.latent_classifier_steps * view,
        "fine-tuning": plan.steps * speed.tuning,
    }
    if task.matched:
        trained, measured = WATCHER_VIEWS, STATISTICS_VIEWS
        if speed.published:
            trained, measured = WATCHER_VIEWS_BESIDE_PUBLISHED, STATISTICS_VIEWS_BESIDE_PUBLISHED
        shown = min(PUBLISHED_IMAGES * task.classes, task.images)
        shown *= -(-PUBLISHED_VIEWS // shown)  # whole passes over them
        seconds |= {
            "watchers": trained * plan.watcher_steps / WATCHER_STEPS * view,
            "starting images": 0 if task.own_vae else task.classes * task.codes * GUIDED * speed.call,
            "statistics": measured * max(STATISTICS_IMAGES, task.images) * view + shown * speed.published,
            "matching": _matching(plan.matching_steps, task, speed) + _earlier_blocks(task, speed),
        }
    seconds["export and verification"] = (CODES_VIEWS if task.codes_only else EXPORT_VIEWS) * view
    longest = FULL_TIMES if task.quick and task.images > SEEN_OFTEN else 1  # of trainings, which have one thread each
    arms = ARMS + longest - 1
    trainings = max(longest, plan.pairs * arms / speed.threads) * STUDENT_VIEWS * one_thread
    trainings += _probes(plan, task, speed.threads) * speed.judge * _together(speed.threads) / speed.threads
    trainings += _beyond_codes(task) * GUIDED * speed.call
    if task.quick:
        return seconds | {"judging": trainings}
    decoded = task.classes * -(-task.codes // BLOCK) * BLOCK
    sampled = 0 if task.codes_only else max(0, AUDIT_IMAGES - decoded)
    judged = task.classes * task.codes if task.codes_only else AUDIT_IMAGES  # a bundle of codes alone makes no others
    compared = AUDIT_VIEWS * (task.images + task.held + min(judged, AUDIT_IMAGES))
    students = AUDIT_STUDENT_VIEWS if task.held >= AUDIT_HELD else 0
    return seconds | {
        "judging": EXTRACTOR_VIEWS * one_thread + trainings,
        "audit and report": (compared + students) * view + sampled * GUIDED * speed.call,
    }
