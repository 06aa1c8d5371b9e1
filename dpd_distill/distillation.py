"""`dpd distill`: what was asked for, the plan, and the stages, without the command line."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dpd_runtime.errors import DataError, InputError
from dpd_runtime.files import check_writable, dumps, loads, size_of, write_atomically
from dpd_runtime.settings import setting
from dpd_runtime.text import LONGEST_NAME, counted, is_readable, option, printable, shown
from dpd_train.config import AUTO, HUB, WATCHERS_HELP, extra_watchers  # noqa: TID253 -- loads no PyTorch
from dpd_train.reading import ImageOptions  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_distill.plan import DistillPlan, Task
    from dpd_eval.recipe import Recipe
    from dpd_eval.results import Evaluation
    from dpd_eval.subject import Words
    from dpd_eval.verdict import Audit
    from dpd_runtime.bundle import Bundle
    from dpd_runtime.sampler import PrototypeKind
    from dpd_train.config import TrainConfig
    from dpd_train.run import Run
    from dpd_train.scene_set import SceneSet
    from dpd_train.scenes import Counted, Scenes


# -- What `dpd distill` is asked for: its options, as the command line reads them and as a distillation stores them.


R = TypeVar("R", bound="Request")


@dataclass(frozen=True, kw_only=True)
class Request(ImageOptions):
    """What every distillation is asked for.

    Args:
        data, out: absolute paths. Fields with a help text are options; those that name a place are `places`.
    """

    places: ClassVar[tuple[str, ...]] = ()

    data: str
    out: str
    seed: int = setting(0, "Running", "Random seed.")
    base: str = setting("nano", "Data", "Base model: nano, a diffusers folder or a hub id.")
    resolution: int | None = setting(None, "Images", "Image side in pixels. Default: the base's own.")
    threads: int | None = setting(None, "Running", "PyTorch threads. Default: the cores that are idle.")

    def __post_init__(self) -> None:
        """Raises:
        InputError: a value out of range.
        TypeError: a stored path that is no text.
        """
        if not all(isinstance(value, str) for value in (self.data, self.out, self.base)):
            raise TypeError("a place that is no text")
        at_least_one("threads", self.threads)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class Asked(Request):
    """What a planned distillation is asked for."""

    places: ClassVar[tuple[str, ...]] = ("holdout", "plan")

    ipc: int | None = setting(
        None,
        "Images",
        "Images per class. Default: 10, or 5 where a class has fewer than 60 training images.",
    )
    minutes: float | None = setting(
        None,
        "Running",
        "Time that the plan may take. Default: 90, or 10 with --quick, or what this machine needs at least.",
    )
    quick: bool = setting(
        False, "Running", "A first look: a bundle of codes, a picture and one pair of students, without an audit."
    )
    holdout: str | None = setting(
        None, "Data", "Images that are not in DATA, for the audit. Default: the validation part of DATA.", "<path>"
    )
    plan: str | None = setting(
        None,
        "Running",
        "Folder of an earlier distillation, whose plan is repeated: the same seed and watchers give the same codes.",
        "<path>",
    )
    watchers: str = setting(AUTO, "Images", WATCHERS_HELP)
    codes_only: bool | None = setting(
        None,
        "Images",
        "Leave out whatever samples or judges images: an eighth of the size, and no more images than codes. Default: "
        "where a class has fewer than 60 training images.",
    )

    def __post_init__(self) -> None:
        at_least_one("ipc", self.ipc)
        if self.minutes is not None and not 0 < self.minutes < 1e5:
            raise InputError(f"--minutes is {self.minutes:g}: give a number above 0")
        if self.quick and self.holdout:
            raise InputError("--holdout has no effect with --quick, which audits nothing: leave it out")
        super().__post_init__()
        if self.codes_only is False and self.reading.carries:
            raise InputError(
                f"--no-codes-only samples red, green and blue, and --bands {self.bands} carries other bands: leave it "
                "out, or give three --bands"
            )


def request_of(kind: type[R], data: Path, out: Path, given: Mapping[str, Any]) -> R:
    """Make a request of the options that were given; paths become absolute.

    Raises:
        InputError: a value out of range, or an option that this kind of distillation does not have.
    """
    from dpd_train.data_card import read_card

    known, card = {one.name for one in fields(kind)}, read_card(data)
    given = given if card is None else card.with_options(given)
    for name in given:
        if name not in known:
            raise InputError(f"{option(name)} is no option of this distillation: leave it out")
    places = {name: str(Path(given[name]).absolute()) for name in kind.places if name in given}
    if "base" in given:
        places["base"] = _placed(given["base"])
    if "watchers" in given:
        from dpd_train.run import placed_watchers

        places["watchers"] = placed_watchers(given["watchers"])
    try:
        return kind(**{**given, **places}, data=str(data.absolute()), out=str(out.absolute()))
    except InputError as error:
        if card is None:
            raise
        raise InputError(f"{error} ({card.path} says {' and '.join(card.values)})") from None


def _placed(base: str) -> str:
    """The folder of a base, absolute; a name or an id as it is."""
    from dpd_train.base_files import SHIPPED_BASE

    return base if base == SHIPPED_BASE or not Path(base).is_dir() else str(Path(base).absolute())


def repeating(request: Asked, given: Collection[str]) -> tuple[Asked, "Distillation | None"]:
    """The request with what the run of --plan decides, and that run; as it is and None without --plan.

    Args:
        given: names of the options that were given.

    Raises:
        InputError: no such run, or an option that it decides.
    """
    if request.plan is None:
        return request, None
    folder = Path(request.plan)
    if not (folder / STORED).is_file():
        raise InputError(f"--plan {folder}: holds no distillation; give the folder NAME-run of one, or leave it out")
    repeated = read_distillation(folder, "leave --plan out")
    decided = {"minutes", "ipc", "threads", "quick"} | ({"holdout"} if repeated.asked.quick else set())
    if useless := decided & set(given):
        raise InputError(f"--{min(useless)} has no effect with --plan, whose run decides it: leave it out")
    same = {name: getattr(repeated, name) for name in ("ipc", "codes_only", "threads") if name not in given}
    same |= {"watchers": repeated.asked.watchers} if "watchers" not in given else {}
    if request.reading.carries:
        same |= {"codes_only": None}  # decided by the bands
    return replace(request, quick=repeated.asked.quick, **same), repeated


def at_least_one(name: str, value: int | None) -> None:
    """Check the value of an option that counts something; None is not given.

    Raises:
        InputError: it is below 1.
    """
    if value is not None and value < 1:
        raise InputError(f"--{name} is {value}: it must be at least 1")


def folder_of(out: Path) -> Path:
    """The folder of the distillation of the bundle `out`: `site-run` beside `site.dpd`."""
    return beside(out, "run")


def beside(out: Path, what: str) -> Path:
    """What lies beside the bundle `out` and is named after it."""
    place = out if out.name else out.absolute()  # of "."
    return place.with_name(f"{place.name.removesuffix('.dpd')}-{what}")


# -- A planned distillation: what was asked for and its plan, as they are stored in its folder.


STORED = "plan.json"
BEGUN = {STORED: "distill", "private.json": "private"}
"""File with what a distillation was asked for → the command that stores it, and continues the distillation."""
Tell = Callable[[str], None]
Update = Callable[[int, int], None]
"""(done, total) → None: as `dpd_runtime.annotations.Progress`, which would load numpy."""
Bar = Callable[[str], AbstractContextManager[Update]]
"""Title → a progress bar while the context lasts."""


def without_bar(title: str) -> AbstractContextManager[Update]:
    return nullcontext(lambda done, total: None)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A planned distillation.

    Args:
        ipc, codes_only: as asked for, or what suits the number of scenes. notes: lines about data and plan.
        prototypes: what the plan has time for: matched codes alone, or pooled ones; None for matched if the base can.
        judge: published network that judges beside the student from nothing, as `hf:` names it; None without one.
        idle: seconds that the plan takes on idle cores; None for one that another distillation had.
        opened: the images, if they are open already. They are not stored.
    """

    folder: Path
    asked: Asked
    threads: int
    ipc: int
    codes_only: bool
    images: int
    classes: int
    judged_ipc: int
    notes: tuple[str, ...]
    plan: "DistillPlan"
    prototypes: "PrototypeKind | None" = None
    judge: str | None = None
    idle: float | None = None
    opened: "Inputs | None" = field(default=None, repr=False, compare=False)

    @property
    def out(self) -> Path:
        return Path(self.asked.out)

    @property
    def training(self) -> Path:
        """The run directory of `dpd train`."""
        return self.folder / "training"

    @property
    def unaudited(self) -> Path:
        return self.folder / "unaudited.dpd"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.json"

    @property
    def results(self) -> dict[str, Path]:
        """What its report shows, by what it is."""
        return {
            "evaluation": self.folder / "evaluation.json",
            "set": self.folder / "set",
            "bundle": self.out,
            "training run": self.training,
        }

    @cached_property
    def inputs(self) -> "Inputs":
        """The images that it is made from and audited with, opened when a stage first needs them."""
        return self.opened or open_inputs(self.asked)

    def config(self) -> "TrainConfig":
        """The config of the training."""
        return training_config(self.asked, self.plan, self.ipc, self.prototypes)

    def store(self) -> None:
        """Make the folder, and write the plan into it.

        Raises:
            InputError: another distillation began there while this one looked at its data.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / STORED).exists():
            raise InputError(f"{self.folder}: another dpd distill began there meanwhile; choose another --out")
        content = asdict(replace(self, opened=None)) | {"folder": None}
        del content["opened"]
        write_atomically(self.folder / STORED, dumps(content))


@dataclass(frozen=True)
class Inputs:
    """What a distillation is made from, and what its audit compares with: None for the validation part."""

    scenes: "Scenes"
    holdout: "Scenes | None"

    def held(self) -> "Counted":
        """The images that the audit compares with."""
        from dpd_eval.subject import part_of

        return self.scenes.counted("val") if self.compared is None else self.compared.counted(part_of(self.compared))

    @cached_property
    def compared(self) -> "Scenes | None":
        """The hold-out, read as the scenes are."""
        return None if self.holdout is None else self.holdout.read_like(self.scenes, "--holdout", "DATA")


def open_inputs(asked: Asked) -> Inputs:
    """Open the folders of images.

    Raises:
        DataError: as `open_scenes`.
        InputError: a data card that says more than it did when the distillation began.
    """
    from dpd_train.scenes import open_scenes

    scenes = open_scenes(Path(asked.data), asked)
    assert isinstance(scenes.held_out, ImageOptions)
    if scenes.card is not None and scenes.held_out.image_options != asked.image_options:
        raise InputError(f"{scenes.card.path}: says more than it did when this began; put back what was there")
    return Inputs(scenes, open_scenes(Path(asked.holdout), asked.elsewhere) if asked.holdout else None)


def training_config(
    asked: Asked, plan: "DistillPlan", ipc: int, prototypes: "PrototypeKind | None" = None
) -> "TrainConfig":
    own = {name: getattr(asked, name) for name in ("seed", "base", "resolution", "watchers")}
    return plan.config(ipc=ipc, prototypes=prototypes, **own, **asked.image_options)


def begun_by(folder: Path) -> str | None:
    """The command that began the distillation in `folder`; None where there is none."""
    return next((command for name, command in BEGUN.items() if (folder / name).is_file()), None)


def resume_command(out: Path, command: str = "distill") -> str:
    """The command that continues the distillation of `out`, which `dpd COMMAND` began."""
    return shown(["dpd", command, "--resume", "--out", out])


def read_distillation(folder: Path, way_out: str = "choose another --out") -> Distillation:
    """Read what `folder` holds. way_out: what to do about one of another version.

    Raises:
        InputError: no distillation, or one of another version.
    """
    from dpd_distill.plan import DistillPlan

    try:
        content = loads((folder / STORED).read_bytes())
        plan, asked, notes = DistillPlan(**content["plan"]), Asked(**content["asked"]), tuple(content["notes"])
        return Distillation(**content | {"folder": folder, "asked": asked, "notes": notes, "plan": plan})
    except OSError:
        raise InputError(f"{folder}: holds no distillation; begin one with dpd distill DATA --out OUT") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}: was made by another version of dpd ({error}); {way_out}") from error


def check_begun_by(command: str, out: Path) -> None:
    """Check that it was not another command that began the distillation of `out`.

    Raises:
        InputError: it was; the message says how it continues.
    """
    if (begun := begun_by(folder := folder_of(out))) not in (None, command):
        raise InputError(f"{folder}: was begun by dpd {begun}; continue it with: {resume_command(out, str(begun))}")


def check_resumed(request: Request, out: Path) -> None:
    """Check that a stored distillation writes to the --out of the command line, and nowhere else.

    Raises:
        InputError: it does not. A run folder that somebody else made could name any place.
    """
    if Path(request.out).resolve() != out.resolve():
        raise InputError(
            f"{folder_of(out)}: was begun with --out {request.out}, not {out}; nothing was changed: give that --out, "
            "move the folder back to where it was, or begin again with another --out"
        )


def resumed_lines(request: Request) -> list[str]:
    """What a resumed distillation reads, as the run folder says, for the user to look at."""
    return [f"data          {request.data}, as the run folder says", f"base          {request.base}"]


def begin(
    asked: Asked,
    tell: Tell,
    bar: Bar = without_bar,
    opened: Inputs | None = None,
    repeated: Distillation | None = None,
) -> Distillation:
    """Check the data, measure this machine, and plan. Nothing is written.

    Args:
        repeated: the run whose plan is repeated, of which `asked` has what it decides (`repeating`).
        tell: prints a line. What the data are like is told before this machine is measured.
        bar: shows the progress of what takes long. opened: the images, if they are open already.

    Raises:
        DataError, InputError: unusable data, options or places, or a plan that does not fit into the time.
    """
    from dpd_distill.plan import (
        MINUTES,
        QUICK_MINUTES,
        TOLERANCE,
        fitting_plan,
        full_plan,
        make_plan,
        on_idle_cores,
        plan_remarks,
        remarks,
        task_of,
    )
    from dpd_runtime.machine import idle_cores, usable_cores
    from dpd_train.base_files import check_base_bands
    from dpd_train.run import check_base_at, check_matched_counts, fate_of_scenes
    from dpd_train.scenes import look_at

    out, cores = Path(asked.out), usable_cores()
    folder = folder_of(out)
    check_places(folder, out)
    inputs = opened or open_inputs(asked)
    scenes = inputs.scenes
    _check_data(asked, folder, inputs)
    files = scenes.counts("train")
    tell(f"data          {counted(sum(files.values()), 'training image')} of {counted(len(files), 'class')}")
    look = look_at(scenes)
    look.check(scenes.root)
    fate = fate_of_scenes(look.sample.sides, asked.base, asked.resolution)
    for line in fate:
        tell(f"note          {line}")
    with bar("looking for near duplicates"):
        found, held, validation = scenes.counted("train"), inputs.held(), scenes.counted("val")
        found.check(scenes.root)
        real = scenes.part("train", check_base_at(asked.base, asked.resolution))
    counts = usable(found, real)
    check_base_bands(asked.base, look.bands)
    if look.bands:
        check_matched_counts(counts, carried=True)
    task = task_of(
        counts,
        asked.ipc,
        asked.codes_only,
        asked.quick,
        sum(held.scenes.values()),
        bool(look.bands),
        images=len(real.labels),
        tested=sum(validation.images.values()),
    )
    _check_codes(task, counts, asked.watchers, asked.plan)
    watchers, judge, seen = networks_for(task, asked.watchers)
    asked = replace(asked, watchers=watchers)
    threads, idle = asked.threads or idle_cores(), None
    notes = [*look.remarks(), *scene_remarks(found), *remarks(counts, task)]
    if not asked.quick:
        notes += audit_remarks(held)
    notes += seen
    for line in notes:
        tell(f"note          {line}")
    of_plan = list[str]()
    if repeated is not None:
        check_repeated(repeated, task)
        plan = repeated.plan
        of_plan += _other_than(repeated, asked, len(real.labels))
    else:
        from dpd_distill.kept_speed import speed_here

        with bar("measuring") as progress:
            config = training_config(asked, full_plan(1, 1), task.ipc)
            alone, share = speed_here(config, threads, progress, tell, len(look.bands), judge)
        speed = alone.beside_others(share)
        if task.codes_only and not speed.decoder:
            raise InputError(
                f"base {asked.base!r}: codes are matched through its decoder, which is too large for that on a CPU: "
                "take --base nano, a machine with CUDA, or --no-codes-only"
            )
        usual = QUICK_MINUTES if asked.quick else MINUTES
        plan = make_plan(task, speed, usual) if asked.minutes is None else fitting_plan(task, speed, asked.minutes)
        idle = on_idle_cores(plan.total, share, threads, cores)
        if asked.minutes is None and plan.longest > 60 * usual * TOLERANCE:
            of_plan.append(f"on this machine it takes longer than the usual {usual:g} minutes")
    if asked.threads is None and threads < cores:
        of_plan.append(f"other programs are busy: {threads} of {cores} cores are used; they may slow this")
    with bar("looking at what is held out"):
        _check_judging(asked, inputs, real)
    of_plan = [*plan_remarks(task, plan), *of_plan]
    for line in of_plan:
        tell(f"note          {line}")
    return Distillation(
        folder=folder,
        asked=asked,
        threads=threads,
        ipc=task.ipc,
        codes_only=task.codes_only,
        prototypes="pooled" if not task.matched else "matched" if task.codes_only else None,
        images=len(real.labels),
        classes=task.classes,
        judged_ipc=task.judged_ipc,
        notes=(*fate, *notes, *of_plan),
        plan=plan,
        judge=judge,
        idle=idle,
        opened=inputs,
    )


def check_places(folder: Path, out: Path) -> None:
    """Check that a distillation can write its folder and its bundle.

    Raises:
        InputError: something is there already, nothing can be written there, or no bundle can be called so.
    """
    if not is_readable(out.name.removesuffix(".dpd"), LONGEST_NAME):
        raise InputError(
            f"--out {printable(out)}: the bundle is called after it; give a name of at most {LONGEST_NAME} letters, "
            "all of which can be seen"
        )
    if folder.exists() and any(folder.iterdir()):
        begun = begun_by(folder)
        way = f"continue it with: {resume_command(out, begun)}, or " if begun else ""
        raise InputError(f"{folder} exists; {way}choose another --out")
    if out.exists():
        raise InputError(f"--out {out} exists; choose another --out")
    check_writable(out)


def _check_data(asked: Asked, folder: Path, inputs: Inputs) -> None:
    """Check the data before an image is opened."""
    from dpd_distill.plan import USUAL_IPC, full_plan
    from dpd_eval.subject import check_sources
    from dpd_train.run import check_inputs

    check_inputs(inputs.scenes, folder / "training", training_config(asked, full_plan(1, 1), asked.ipc or USUAL_IPC))
    if inputs.holdout is not None:
        check_sources(inputs.scenes, inputs.holdout, tuple(inputs.scenes.counts("train")), _words(inputs))


def _others(inputs: Inputs) -> str:
    """How other validation images come in."""
    return "put others into val/" if "val" in inputs.scenes.parts else "--val-per-class holds out others"


def _words(inputs: Inputs) -> "Words":
    """What the audit's messages say here."""
    from dpd_eval.subject import Words

    return Words("DATA", "those of DATA", f"{_others(inputs)}, and --holdout brings some")


def usable(found: "Counted", real: "SceneSet") -> dict[str, int]:
    """Class → scenes of the training part without files that cannot be decoded, of which each was counted as one."""
    used = Counter(real.classes[label] for label in real.labels.tolist())
    return {name: max(1, found.scenes[name] - found.images[name] + used[name]) for name in found.scenes}


def _check_judging(asked: Asked, inputs: Inputs, real: "SceneSet") -> None:
    """Read what students are tested on and what the audit compares, whose errors would come after hours.

    Args:
        real: the training part.

    Raises:
        DataError: as `dpd_eval.inputs.check_overlap` and `dpd_eval.subject.read_data`.
    """
    from dpd_eval.inputs import check_overlap
    from dpd_eval.subject import read_data

    scenes, side = inputs.scenes, int(real.images.shape[1])
    way_out = f"give images that were not trained on; {_others(inputs)}"
    check_overlap(scenes.part("val", side), real, "the validation part of DATA", f"DATA {scenes.root}", way_out)
    if not asked.quick:
        read_data(scenes, inputs.compared, classes=real.classes, resolution=side, words=_words(inputs))


def _other_than(repeated: Distillation, asked: Asked, images: int) -> list[str]:
    """Lines about what differs from the run whose plan is repeated, so that its times are others."""
    placed = replace(repeated.asked, base=_placed(repeated.asked.base))
    pairs = [
        (f"{option(name)} {had}" if had else f"no {option(name)}", f"{now or 'none'}")
        for name in ("watchers", "base", "resolution")
        if (had := getattr(placed, name)) != (now := getattr(asked, name))
    ]
    if repeated.images != images:
        pairs.append((counted(repeated.images, "training image"), f"{images}"))
    return [f"{asked.plan} had {had}, not {now}: its times are not those of this run" for had, now in pairs]


def check_repeated(repeated: Distillation, task: "Task") -> None:
    """Check that the plan of another run has the stages of this one."""
    what = None
    if repeated.prototypes == "pooled" and task.matched:
        what = "matched no codes, as a class had too few images"
    elif repeated.prototypes != "pooled" and not task.matched:
        what = "matched codes, for which a class has too few images now"
    elif ("VAE" in repeated.plan.seconds) != task.own_vae:
        what = "was of red, green and blue alone" if task.own_vae else "was of other bands than red, green and blue"
    if what is not None:
        raise InputError(f"--plan {repeated.folder}: its run {what}, so its times do not fit; leave --plan out")


def _check_codes(task: "Task", counts: Mapping[str, int], watchers: str, plan: str | None) -> None:
    """Check that codes can be matched where the options, or the run whose plan is repeated, ask for them."""
    from dpd_train.run import LEAST_MATCHED

    asked = "--codes-only" if task.codes_only else f"--watchers {watchers}" if extra_watchers(watchers) else None
    if asked is not None and not task.matched:
        least = min(counts, key=counts.__getitem__)
        repeats = "" if plan is None else f"--plan {plan}, with "
        raise DataError(
            f"{repeats}{asked}: class {least!r} has {counted(task.smallest, 'training image')}, too few for matched "
            f"codes, which need {LEAST_MATCHED}; add some, or leave it out"
        )


def networks_for(task: "Task", watchers: str = AUTO) -> tuple[str, str | None, list[str]]:
    """What `--watchers` means on this machine, the published network that judges, and remarks on them.

    Networks know red, green and blue. In a first look at many images none judges: it would see all of them.
    """
    from dpd_distill.plan import SEEN_OFTEN
    from dpd_train.networks_here import judges, licence_remarks, networks_here, remarks, settled

    networks = () if task.own_vae else networks_here()
    if networks:
        from dpd_train.published import tried

        networks = tried(networks)
    used = networks if task.matched else ()
    lines = remarks(used) if watchers == AUTO and task.matched and not task.own_vae else licence_remarks(watchers)
    watching = settled(watchers, used)
    candidates = [] if task.quick and task.images > SEEN_OFTEN else judges(watching, networks)
    judge = next((one for one in candidates if _judges(one.name, lines)), None)
    if judge is not None:
        lines.append(f"{HUB}{judge.name} judges the set beside convnet{judge.but}")
    return watching, None if judge is None else judge.name, [printable(line) for line in lines]


def _judges(name: str, lines: list[str]) -> bool:
    """Whether a network can be opened and be a student: a line says why it cannot."""
    from dpd_eval.pretrained import PROBE
    from dpd_eval.students import build_student
    from dpd_train.published import open_published

    try:
        open_published(name)
        build_student(f"{PROBE}{HUB}{name}", 2, seed=0)
    except InputError as error:
        lines.append(f"{HUB}{name} does not judge: {error}")
        return False
    return True


def scene_remarks(found: "Counted") -> list[str]:
    """A line if training images show scenes that others show too."""
    if sum(found.scenes.values()) == sum(found.images.values()):
        return []
    return [f"training part: {found}; turned, mirrored and near duplicates count once, and one of each is trained on"]


def audit_remarks(held: "Counted") -> list[str]:
    """A line if the audit has few scenes that the bundle was not made from."""
    from dpd_eval.verdict import FEWEST_IMAGES

    if sum(held.scenes.values()) >= FEWEST_IMAGES:
        return []
    return [
        f"the audit compares with {held}; with so few a WARN is to be expected, as some tests and controls "
        "cannot decide: --holdout or --val-per-class gives it more"
    ]


# -- The calls of `dpd distill`: each leaves a file and gives a value, or the value of a file that an interrupted
# distillation left.


Stage = Callable[[str], Update]
COUNTED_FOR = {
    "1": "reading and encoding",
    "2": "export and verification",
    "3": "judging",
    "4": "audit and report",
}
"""What a part of the distillation counts for in the plan, but for the stages that are in it themselves."""
QUICK = COUNTED_FOR | {"4": "judging"}


def distil(made: Distillation, stage: Stage, tell: Tell, tracker: str | None = None) -> dict[str, Any]:
    """Make everything that is not there yet. Returns the facts for the user.

    Args:
        tracker: name of one that accelerate knows; it gets losses and learning rate of the fine-tuning.

    Raises:
        InputError: another process works in the folder.
    """
    from dpd_runtime.files import worked_in

    with worked_in(made.folder, "dpd distill"):
        finished = made.folder / "result.json"
        if not finished.exists():
            write_atomically(finished, dumps(_distil(made, stage, tell, tracker)))
        content: dict[str, Any] = loads(finished.read_bytes())
        return content


def _distil(made: Distillation, stage: Stage, tell: Tell, tracker: str | None) -> dict[str, Any]:
    """The five calls in order; each gives what is there already, if it is."""
    import torch

    from dpd_train.tracking import Stopwatch

    torch.set_num_threads(made.threads)

    watch = Stopwatch(made.folder / "seconds.json")

    @contextmanager
    def numbered(number: int, title: str) -> Iterator[Stage]:
        tell(f"stage {number}/4     {title}")
        timed = watch.around(stage)
        yield lambda what: timed(f"{number}/4 {what}")
        watch.end(f"{number}/4 the rest")
        watch.keep()

    with numbered(1, "Train the networks and match codes") as bars:
        run = _trained(made, bars, tracker)
    with numbered(2, "Export a bundle and verify it against PyTorch's images") as bars:
        bundle = _exported(made, run, bars, tell)
    with numbered(3, "Compare students on the set with students on real images") as bars:
        evaluation = _judged(made, run, bundle, bars, tell)
    if made.asked.quick:
        with numbered(4, "Write a report of what is not audited"):
            audit = None
            if made.unaudited.exists():
                _check_free(made.out)
                made.unaudited.replace(made.out)
            _report(made)
    else:
        with numbered(4, "Audit the bundle against images that it was not made from, and write the report") as bars:
            audit = _audited(made, run, bundle, bars)
            _report(made)
            made.unaudited.unlink(missing_ok=True)
    return _result(made, run, evaluation, audit, watch.times())


def _trained(made: Distillation, stage: Stage, tracker: str | None) -> "Run":
    from dpd_train.run import open_run

    if not (made.training / "run.json").exists():
        from dpd_train.compute import use_device
        from dpd_train.train import train

        device = use_device("auto")
        train(
            made.inputs.scenes,
            made.training,
            made.config(),
            resume=True,
            device=device,
            progress=stage,
            tracker=tracker,
        )
    return open_run(made.training)


def _exported(made: Distillation, run: "Run", stage: Stage, tell: Tell) -> "Bundle":
    """The bundle before its audit; where it has been audited, or only looked at, the one at --out.

    Raises:
        InputError: something else is at --out, or the audited bundle is not there.
    """
    from dpd_export import ExportOptions, export_run
    from dpd_runtime.bundle import load_bundle
    from dpd_runtime.engines import Provider
    from dpd_runtime.golden import check_replay, replay
    from dpd_runtime.set_state import DATASET_NAME

    judged = made.asked.quick and (made.results["set"] / DATASET_NAME).exists()  # the set is written before it is moved
    if not made.unaudited.exists() and (made.audit.exists() or judged):
        if not made.out.exists():
            raise InputError(f"--out {made.out}: the bundle of this distillation was there and is gone; put it back")
        return load_bundle(made.out, allow_older=True)
    if not made.unaudited.exists():
        _check_free(made.out)
        options = ExportOptions(name=made.out.name.removesuffix(".dpd"), codes_only=made.codes_only)
        export_run(run, made.unaudited, options, progress=stage("exporting"), tell=tell)
    bundle = load_bundle(made.unaudited)
    if not made.audit.exists() and (done := replay(bundle, Provider("cpu", "requested", 0))) is not None:
        check_replay(done, bundle.manifest.precision, "cpu")
        tell(f"verified      golden images {done.psnr_db:.1f} dB from PyTorch's, {done.limit_db:.0f} dB are needed")
    return bundle


def _check_free(out: Path) -> None:
    if out.exists():
        raise InputError(f"--out {out} exists and is not of this distillation; move it away")


def _check_same(made: Distillation, run: "Run", bundle: "Bundle") -> None:
    """Check that the training images are those that the run has learned from.

    Raises:
        DataError: others are held out now, as images came, went or changed since; some may have been trained on.
    """
    from dpd_train.scene_set import fingerprint

    scenes, side = made.inputs.scenes, bundle.manifest.image_shape[0]
    if fingerprint(scenes.part("train", side))["sha256"] != run.record["data"]["sha256"]:
        raise DataError(
            f"{scenes.root}: its training images are not those of {run.path}, as images came, went or changed since; "
            "put back what was there, or begin again with another --out"
        )


def _judged(made: Distillation, run: "Run", bundle: "Bundle", stage: Stage, tell: Tell) -> "Evaluation":
    from dpd_eval import evaluate
    from dpd_eval.options import EvaluateConfig
    from dpd_eval.pretrained import PROBE, check_student
    from dpd_eval.results import read_results
    from dpd_runtime import generate, write_set

    results = made.results
    if results["evaluation"].exists():
        return read_results(results["evaluation"])
    _check_same(made, run, bundle)
    ipc = min(made.judged_ipc, bundle.largest_ipc or made.judged_ipc)
    if ipc < made.judged_ipc:
        tell(f"judging       {ipc} images per class: codes too near to a training image were left out")
    generation = generate(bundle, ipc=ipc, seed=made.asked.seed, provider="cpu")
    write_set(generation, results["set"], stage("generating"))
    published = () if made.judge is None else (f"{PROBE}{HUB}{made.judge}",)
    try:
        for name in published:
            check_student(name)
    except InputError as error:  # the training took hours, and the network was there when it began
        tell(f"judging       {error}: convnet judges alone")
        published = ()
    config = EvaluateConfig(
        students=(*EvaluateConfig().students, *published),
        baselines=("random", "full" if made.asked.quick else "herding"),
        metrics=not made.asked.quick,
        ipc=(ipc,),
        pairs=max(1, made.plan.pairs),  # 0.2.0 planned none for a first look
        **made.asked.image_options,
        jobs=made.threads,
    )
    students = stage("training students, %")
    evaluation = evaluate(
        [results["set"]],
        config,
        train=made.inputs.scenes,
        test="val",
        recipe=_recipe(made),
        device="auto",
        progress=lambda done, total, what: students(round(100 * done / total), 100),
        stage=stage,
    )
    write_atomically(results["evaluation"], dumps(evaluation.to_dict()))
    return evaluation


def _recipe(made: Distillation) -> "Recipe":
    """How students are trained. In a first look all arms take as many steps, where that suffices for all images."""
    from dpd_distill.plan import SEEN_OFTEN
    from dpd_eval.recipe import load_recipe

    recipe = load_recipe("quick")
    return replace(recipe, full_steps=0) if made.asked.quick and made.images <= SEEN_OFTEN else recipe


def _audited(made: Distillation, run: "Run", bundle: "Bundle", stage: Stage) -> "Audit":
    """The audit; the bundle with its verdict is at --out then.

    Raises:
        InputError: something else is at --out.
    """
    from dpd_distill.plan import AUDIT_IMAGES
    from dpd_eval.audit import audit
    from dpd_eval.subject import open_audit
    from dpd_eval.verdict import read_audit, write_record

    if made.audit.exists():
        result = read_audit(made.audit)
    else:
        _check_free(made.out)
        _check_same(made, run, bundle)
        inputs = open_audit(
            bundle,
            train=made.inputs.scenes,
            holdout=made.inputs.compared,
            run=run.path,
            images=AUDIT_IMAGES,
            seed=made.asked.seed,
        )
        result = audit(inputs, device="auto", stage=stage)
        write_atomically(made.audit, dumps(result.to_dict()))
    if made.unaudited.exists():
        if made.out.exists():  # stopped between writing it and deleting the other
            check_carries(made.audit, made.out)
        else:
            write_record(result, bundle, made.out)
    return result


def check_carries(audit: Path, out: Path) -> None:
    """Check that the bundle `out` is the one into which this distillation wrote its audit.

    Raises:
        InputError: it is not.
    """
    from dpd_runtime.bundle import load_bundle
    from dpd_runtime.errors import BundleError
    from dpd_runtime.manifest import AUDIT_NAME

    try:
        carried = load_bundle(out, allow_older=True).files.get(AUDIT_NAME, b"{}")
    except BundleError:
        carried = b"{}"
    if loads(carried) != loads(audit.read_bytes()):
        _check_free(out)


def _report(made: Distillation) -> None:
    from dpd_eval.report import write_report

    write_report(list(made.results.values()), made.folder / "report.html")


def _result(
    made: Distillation, run: "Run", evaluation: "Evaluation", audit: "Audit | None", times: dict[str, Any]
) -> dict[str, Any]:
    """The facts at the end, as `--json` prints them."""
    from dpd_distill.plan import spent_by_stage
    from dpd_runtime.bundle import load_bundle

    judged, found = evaluation.to_dict(), {} if audit is None else audit.to_dict()
    verdict = {"verdict": "unaudited", "reasons": []} | {
        name: found[name] for name in ("verdict", "reasons", "summary") if name in found
    }
    return {
        "out": str(made.out),
        "bytes": size_of(made.out),
        "bundle_hash": load_bundle(made.out, allow_older=True).hash,
        "prototypes": run.table["prototype_kind"],
        "judged": {name: judged[name] for name in ("arms", "differences", "test_images")},
        **verdict,
        **times,
        "planned_seconds": made.plan.total,
        "planned": {**made.plan.seconds, **made.plan.perhaps},
        "spent": spent_by_stage(made.plan, times["stages"], QUICK if made.asked.quick else COUNTED_FOR),
        "report": str(made.folder / "report.html"),
        "set": str(made.results["set"]),
        "run": str(made.folder),
    }


def failed_audit(result: dict[str, Any]) -> None:
    """Raise an error if the audit failed; everything has been written then.

    Raises:
        AuditError: the verdict is FAIL.
    """
    if result["verdict"] == "unaudited":
        return
    from dpd_eval.verdict import check_verdict, read_audit

    check_verdict(read_audit(Path(result["run"]) / "audit.json"))
