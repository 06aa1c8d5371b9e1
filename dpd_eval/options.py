"""What `dpd evaluate` and `dpd fit` are asked, checked before anything heavy is imported."""

import math
from dataclasses import dataclass

from dpd_eval.pretrained import without_folder
from dpd_runtime.errors import InputError
from dpd_runtime.settings import setting
from dpd_train.config import HUB
from dpd_train.doors import offered_names
from dpd_train.reading import ImageOptions

# -- The options of an evaluation. Every field is an option of `dpd evaluate`; this module does not load PyTorch.


BASELINES = ("random", "herding", "k-center", "k-means", "full")
"""Selection methods of this package; others come in by the door dpd.selections."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ImageOptions):
    """Everything that decides an evaluation except the images: what is trained, compared and measured.

    Raises:
        InputError: a value that is unknown, given twice, out of range or without effect.
    """

    students: tuple[str, ...] = setting(
        ("convnet",),
        "Model",
        "Classifiers to train, separated by commas: convnet, convnet-d3, resnet, resnet18, mobilenetv2, vit-tiny, "
        "dsdnet:convnet, dsdnet:resnet, dsdnet:resnet18 or hf:ID_OR_PATH, a published one of transformers or timm; "
        "tune:hf:ID_OR_PATH, which tunes that as dpd fit --backbone does; an encoder of another package, such as "
        "swimdiff:FOLDER; probe: before hf: or an encoder fits its last layer alone; groups:NAME=BANDS;NAME=BANDS.",
    )
    baselines: tuple[str, ...] = setting(
        ("random",),
        "Data",
        "Subsets of the real images to compare with, separated by commas: random, herding, k-center, k-means, full, "
        "and those of other packages, such as tdds and foreground; '' for none.",
    )
    with_real: tuple[int, ...] = setting(
        (),
        "Data",
        "Real images per class that a site has itself, such as 1,5,20: also train on them alone, and on SET with them.",
    )
    labels: bool = setting(
        False,
        "Data",
        "Also train on real images that a classifier named, as many as SET has: what a site could do that was sent a "
        "classifier and has unlabelled images.",
    )
    jpegs: float | None = setting(
        None,
        "Data",
        "Also train on as many real images as fit as JPEGs into so many megabytes, such as the size of the bundle.",
        "MEGABYTES",
    )
    ipc: tuple[int, ...] | None = setting(
        None,
        "Data",
        "Images per class, separated by commas. Default: the size of the smallest class of SET and --train.",
    )
    recipe: str = setting(
        "quick",
        "Model",
        "How each student is trained: quick, plain, paper, tune, taught or the path of a .toml file. Students that "
        "begin with tune: always follow the recipe tune.",
    )
    pairs: int | None = setting(
        None,
        "Running",
        "Number of paired runs. Default: 8 up to IPC 10, 5 above, or a few more, so that each SET is used as often.",
    )
    at_least: float = setting(1.0, "Running", "Test whether SET reaches this share of each baseline's accuracy.")
    soft_labels: bool = setting(
        False,
        "Model",
        "Train the students on the class probabilities of a teacher, in every arm. The teacher is trained on --train.",
    )
    metrics: bool = setting(
        True, "Running", "Also compare the images of each arm with all real images in a feature space."
    )
    extractor: str | None = setting(
        None,
        "Model",
        "Network that computes the features: own (trained on --train), untrained (random weights), "
        "hf:ID_OR_PATH (a model that is already on this machine) or one of another package, such as swimdiff:FOLDER "
        "(from dpd swimdiff), mdfl or mdfl:BASE (a base's denoiser). Default: own.",
    )
    resolution: int | None = setting(
        None, "Data", "Side of all images in pixels. Default: the side of the first SET's images."
    )
    jobs: int = setting(1, "Running", "Number of processes, one thread each. The results do not depend on it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.students:
            raise InputError("no student given: pass for example --students convnet")
        for name in self.baselines:
            if name not in BASELINES and name.partition(":")[0] not in (offered := offered_names("dpd.selections")):
                raise InputError(f"no baseline {name!r}: there are {', '.join((*BASELINES, *offered))}")
        lists: dict[str, tuple[object, ...]] = {
            "students": self.students,
            "baselines": tuple(name.partition(":")[0] for name in self.baselines),
            "ipc": self.ipc or (),
            "with-real": self.with_real,
        }
        for flag, values in lists.items():
            if len(set(values)) != len(values):
                raise InputError(f"--{flag} has a value twice: {', '.join(str(value) for value in values)}")
        if self.ipc is not None and (not self.ipc or min(self.ipc) < 1):
            raise InputError("--ipc: give one or more numbers ≥ 1, such as --ipc 10,50")
        if self.with_real and min(self.with_real) < 1:
            raise InputError(f"--with-real is {min(self.with_real)}: give numbers ≥ 1, such as --with-real 1,5")
        if self.labels and self.soft_labels:
            raise InputError("--labels has no effect with --soft-labels, which labels every image anew: leave one out")
        if self.jpegs is not None and not 0 < self.jpegs < math.inf:
            raise InputError(f"--jpegs is {self.jpegs:g}: give megabytes, such as 3.1")
        if self.pairs is not None and self.pairs < 1:
            raise InputError(f"--pairs is {self.pairs}: give at least 1")
        if not 0 < self.at_least < math.inf:
            raise InputError(f"--at-least is {self.at_least}: give a ratio above 0, such as 0.97")
        if self.at_least != 1 and not (self.baselines or self.with_real or self.labels or self.jpegs):
            raise InputError(f"--at-least {self.at_least} has no effect without --baselines")
        if self.jobs < 1:
            raise InputError(f"--jobs is {self.jobs}: give at least 1")


# -- The options of `dpd fit`. Every field is an option; this module does not load PyTorch.


@dataclass(frozen=True, kw_only=True)
class FitConfig(ImageOptions):
    """What is trained, and how. The options of `ImageOptions` are for the site's own images.

    Raises:
        InputError: a value that is unknown, out of range or without effect.
    """

    student: str | None = setting(
        None,
        "Model",
        "Network to train: convnet, convnet-d3, resnet, resnet18, mobilenetv2, vit-tiny, or one of another package, "
        "such as dsdnet:resnet. Default: convnet.",
    )
    backbone: str | None = setting(
        None,
        "Model",
        "Start from this published image classifier of transformers or timm: a folder, the name of one in "
        "DPD_NETWORKS, or an id of the hub cache. Its last layer is fitted first, then all of it is tuned.",
        "MODEL",
    )
    recipe: str | None = setting(
        None,
        "Model",
        "How the network is trained: quick, plain, paper, tune, taught or the path of a .toml file. Default: quick; "
        "tune with --backbone; else taught with --teacher.",
    )
    steps: int | None = setting(
        None, "Running", "Training steps. Default: those of the recipe. With --backbone, 0 fits the last layer alone."
    )
    seed: int = setting(0, "Running", "Random seed.")
    resolution: int | None = setting(None, "Data", "Side of the images in pixels. Default: that of SET's images.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.student is not None and self.backbone is not None:
            raise InputError("--student and --backbone: a model has one network; give one of them")
        if self.steps is not None and self.steps < (0 if self.backbone else 1):
            raise InputError(f"--steps is {self.steps}: give at least {0 if self.backbone else 1}")
        if self.resolution is not None and self.resolution < 1:
            raise InputError(f"--resolution is {self.resolution}: give at least 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed is {self.seed}: it must be 0 … 2**32 - 1")

    @property
    def network(self) -> str:
        """The student's name; `hf:MODEL` for a backbone, which may be given so too."""
        return HUB + self.backbone.removeprefix(HUB) if self.backbone is not None else self.student or "convnet"

    @property
    def described(self) -> str:
        """The network as a record names it, without a local folder."""
        return without_folder(self.network)
