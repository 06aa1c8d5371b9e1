"""What a distillation with differential privacy is asked for: the options of `dpd private`, and how they are stored."""
# ruff: noqa: RUF009 -- setting() is dataclasses.field()

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, ClassVar

from dpd_distill.distillation import Request, at_least_one, beside, folder_of
from dpd_runtime.errors import InputError
from dpd_runtime.files import dumps, write_atomically
from dpd_runtime.settings import setting
from dpd_train.reading import By

if TYPE_CHECKING:
    from dpd_export import ExportOptions
    from dpd_private.budget import Budget

STORED = "private.json"  # in the folder of the distillation
STORED_AS = {"epsilon": "dp", "delta": "dp_delta"}
"""Field → its key in that file: dpd 0.2.0 called the options so, and what it began goes on."""


@dataclass(frozen=True, kw_only=True)
class PrivateRequest(Request):
    """What a distillation with differential privacy is asked for.

    Args:
        epsilon: never None.
        counts: class → number of private images, without the validation part, which is left for `dpd evaluate`. They
            are counted when the distillation begins.
        identity: of this distillation in the ledger of releases, however often it is interrupted.
    """

    places: ClassVar[tuple[str, ...]] = ("public",)

    split: By = setting(
        "files",
        "Data",
        "How validation images are chosen where DATA brings none: by a hash of each file alone (files), so that one "
        "file that is replaced moves one other at most; the last file names (names).",
    )
    ipc: int = setting(200, "Images", "Codes per class.")
    epsilon: float = setting(
        None, "Privacy", "Epsilon of the guarantee for one image, above 0. Required to begin.", "EPSILON"
    )
    delta: float = setting(1e-5, "Privacy", "Delta of the guarantee.")
    public: str | None = setting(
        None,
        "Privacy",
        "Labelled images, of any classes, that need no protection. Networks are trained on them, and they become the "
        "set, in other colours. Default: drawn scenes.",
        "<path>",
    )
    most_epsilon: float | None = setting(
        None,
        "Privacy",
        "Refuse where this and earlier releases of an image cost more than this epsilon together.",
        "EPSILON",
    )
    counts: dict[str, int] = field(default_factory=dict)
    identity: str = field(default_factory=lambda: token_hex(8))

    def __post_init__(self) -> None:
        if self.epsilon is None:
            raise TypeError("no epsilon")
        at_least_one("ipc", self.ipc)
        super().__post_init__()
        if not re.fullmatch(r"[0-9a-f]{16}", self.identity):  # the name of a file in the ledger
            raise TypeError("an identity of another form")
        if self.split == "content":
            raise InputError(
                "--split content and --groups move several images where one is replaced, and the guarantee is for one: "
                "leave them out of dpd private"
            )
        if self.most_epsilon is not None and not self.most_epsilon >= self.epsilon:
            raise InputError(
                f"--most-epsilon {self.most_epsilon:g} is below --epsilon {self.epsilon:g}: take a smaller --epsilon"
            )
        if self.reading.carries:
            raise InputError(
                f"dpd private is for red, green and blue, and --bands {self.bands} carries other bands: give three"
            )

    @property
    def folder(self) -> Path:
        return folder_of(Path(self.out))

    @property
    def classifier(self) -> Path:
        """The folder of the released classifier: `site-classifier` beside `site.dpd`."""
        return beside(Path(self.out), "classifier")

    @property
    def budget(self) -> "Budget":
        from dpd_private.budget import Budget  # here, as it loads numpy

        return Budget(epsilon=self.epsilon, delta=self.delta)

    @property
    def options(self) -> "ExportOptions":
        from dpd_export import ExportOptions

        return ExportOptions(name=Path(self.out).name.removesuffix(".dpd"), codes_only=True)

    def store(self) -> None:
        """Make the folder, and write the request into it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {STORED_AS.get(name, name): value for name, value in asdict(self).items()}
        write_atomically(self.folder / STORED, dumps(content))


def read_request(folder: Path) -> PrivateRequest:
    """Read what an unfinished distillation was asked for.

    Raises:
        InputError: there is none, or it is of another version.
    """
    fields = {key: name for name, key in STORED_AS.items()}
    try:
        content = json.loads((folder / STORED).read_text(encoding="utf-8"))
        return PrivateRequest(**{fields.get(key, key): value for key, value in content.items()})
    except FileNotFoundError:
        raise InputError(
            f"{folder}: holds no distillation; begin one with dpd private DATA --epsilon EPSILON --out OUT"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: was made by another version of dpd ({error}); choose another --out") from error
