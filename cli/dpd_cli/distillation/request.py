"""What `dpd distill` is asked for: its options, as the command line reads them and as a distillation stores them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dpd_runtime.command_line import option
from dpd_runtime.errors import InputError
from dpd_train.config import OWN, WATCHERS_HELP  # noqa: TID253 -- loads no PyTorch
from dpd_train.held_out import By  # noqa: TID253 -- loads no PyTorch
from dpd_train.options import setting  # noqa: TID253 -- loads no PyTorch
from dpd_train.reading import ImageOptions  # noqa: TID253 -- loads no PyTorch

if TYPE_CHECKING:
    from dpd_export import ExportOptions
    from dpd_train.prototypes.private.budget import Budget

PATHS = ("holdout", "plan", "public")
R = TypeVar("R", bound="Request")


@dataclass(frozen=True, kw_only=True)
class Request(ImageOptions):
    """What every distillation is asked for.

    Args:
        data, out: absolute paths. Fields with a help text are options.
    """

    where: ClassVar[str]

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

    where: ClassVar[str] = "without --dp"

    ipc: int | None = setting(
        None,
        "Images",
        "Images per class. Default: 10, or 5 where a class has fewer than 60 training images; with --dp 200.",
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
    watchers: str = setting(OWN, "Images", WATCHERS_HELP)
    codes_only: bool | None = setting(
        None,
        "Images",
        "Leave out whatever samples or judges images: a tenth of the size, and no more images than codes. Default: "
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


@dataclass(frozen=True, kw_only=True)
class PrivateRequest(Request):
    """What a distillation with differential privacy is asked for.

    Args:
        dp, dp_delta: ε and δ.
        counts: class → number of private images, without the validation part, which is left for `dpd evaluate`. They
            are counted when the distillation begins.
        identity: of this distillation in the ledger of releases, however often it is interrupted.
    """

    where: ClassVar[str] = "with --dp, which does not use it"

    split: By = "files"
    ipc: int = setting(200, "Images", "Codes per class.")
    dp: float = setting(
        None,
        "Privacy",
        "Make codes with differential privacy: this epsilon for one image. Nothing is evaluated or audited then.",
        "EPSILON",
    )
    dp_delta: float = setting(1e-5, "Privacy", "Delta of --dp.")
    public: str | None = setting(
        None,
        "Privacy",
        "With --dp: labelled images, of any classes, that need no protection. Networks are trained on them, and they "
        "become the set, in other colours. Default: drawn scenes.",
        "<path>",
    )
    most_epsilon: float | None = setting(
        None,
        "Privacy",
        "With --dp: refuse where this and earlier releases of an image cost more than this epsilon together.",
        "EPSILON",
    )
    counts: dict[str, int] = field(default_factory=dict)
    identity: str = field(default_factory=lambda: token_hex(8))

    def __post_init__(self) -> None:
        at_least_one("ipc", self.ipc)
        super().__post_init__()
        if not re.fullmatch(r"[0-9a-f]{16}", self.identity):  # the name of a file in the ledger
            raise TypeError("an identity of another form")
        if self.split == "content":
            raise InputError(
                "--split content and --groups move several images where one is replaced, and the guarantee is for one: "
                "leave them out of --dp"
            )
        if self.most_epsilon is not None and not self.most_epsilon >= self.dp:
            raise InputError(f"--most-epsilon {self.most_epsilon:g} is below --dp {self.dp:g}: take a smaller --dp")
        if self.reading.carries:
            raise InputError(
                f"--dp is for red, green and blue, and --bands {self.bands} carries other bands: give three"
            )

    @property
    def folder(self) -> Path:
        return folder_of(Path(self.out))

    @property
    def classifier(self) -> Path:
        """The folder of the released classifier: `site-classifier` beside `site.dpd`."""
        return _beside(Path(self.out), "classifier")

    @property
    def budget(self) -> "Budget":
        from dpd_train.prototypes.private.budget import Budget

        return Budget(epsilon=self.dp, delta=self.dp_delta)

    @property
    def options(self) -> "ExportOptions":
        from dpd_export import ExportOptions

        return ExportOptions(name=Path(self.out).name.removesuffix(".dpd"), codes_only=True)


def request_of(kind: type[R], data: Path, out: Path, given: Mapping[str, Any]) -> R:
    """Make a request of the options that were given; paths become absolute.

    Raises:
        InputError: a value out of range, or an option that this kind of distillation does not use.
    """
    known = {one.name for one in fields(kind)}
    for name in given:
        if name not in known:
            raise InputError(f"{option(name)} has no effect {kind.where}: leave it out")
    places = {name: str(Path(given[name]).absolute()) for name in PATHS if name in given}
    if "watchers" in given:
        from dpd_train.run.folder import placed_watchers

        places["watchers"] = placed_watchers(given["watchers"])
    return kind(**{**given, **places}, data=str(data.absolute()), out=str(out.absolute()))


def at_least_one(name: str, value: int | None) -> None:
    """Check the value of an option that counts something; None is not given.

    Raises:
        InputError: it is below 1.
    """
    if value is not None and value < 1:
        raise InputError(f"--{name} is {value}: it must be at least 1")


def folder_of(out: Path) -> Path:
    """The folder of the distillation of the bundle `out`: `site-run` beside `site.dpd`."""
    return _beside(out, "run")


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.name.removesuffix('.dpd')}-{what}")
