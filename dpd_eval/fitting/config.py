"""The options of `dpd fit`. Every field is an option; this module does not load PyTorch."""

from dataclasses import dataclass

from dpd_eval.students.pretrained import without_folder
from dpd_runtime.errors import InputError
from dpd_train.config import HUB
from dpd_train.options import setting
from dpd_train.reading import ImageOptions


@dataclass(frozen=True, kw_only=True)
class FitConfig(ImageOptions):
    """What is trained, and how. The options of `ImageOptions` are for the site's own images.

    Raises:
        InputError: a value that is unknown, out of range or without effect.
    """

    student: str | None = setting(
        None,
        "Model",
        "Network to train: convnet, resnet, resnet18, mobilenetv2, vit-tiny, or an extension such as dsdnet:resnet. "
        "Default: convnet.",
    )
    backbone: str | None = setting(
        None,
        "Model",
        "Start from this transformers image classifier, a folder on this machine: its last layer is fitted first, then "
        "all of it is tuned.",
        "FOLDER",
    )
    recipe: str = setting("quick", "Model", "How the network is trained: quick, paper or the path of a .toml file.")
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
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}: it must be at least 0")

    @property
    def network(self) -> str:
        """The student's name; `hf:FOLDER` for a backbone."""
        return HUB + self.backbone if self.backbone is not None else self.student or "convnet"

    @property
    def described(self) -> str:
        """The network as a record names it, without a local folder."""
        return without_folder(self.network)
