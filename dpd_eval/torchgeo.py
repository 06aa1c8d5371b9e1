"""A distilled set for TorchGeo: a dataset of any bands, and a data module for its trainers.

Examples:
    >>> from dpd_eval.torchgeo import DistilledDataModule
    >>> data = DistilledDataModule("set", val="scenes/val", test="scenes/test", batch_size=32)
    >>> Trainer(max_epochs=50).fit(ClassificationTask(model="resnet18", in_channels=3, num_classes=10), data)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dpd_eval.sets import Set, open_set
from dpd_runtime.bands import physical, picture
from dpd_runtime.errors import DataError, MissingExtraError
from dpd_train.scene_set import Part, SceneSet
from dpd_train.scenes import open_scenes

try:
    import torch
    from matplotlib.figure import Figure
    from torchgeo.datamodules import NonGeoDataModule
    from torchgeo.datasets import NonGeoDataset
except ImportError as error:
    raise MissingExtraError("torchgeo", "torchgeo") from error

Sample = dict[str, Any]
Transforms = Callable[[Sample], Sample]
TINY = 1e-30  # stands in for 0, which has no decibels


class DistilledScenes(NonGeoDataset):  # type: ignore[misc]
    """Images of a distilled set, or real ones read as that set was made.

    A sample is {"image": float32 [N, H, W], "label": int64 []}, as of TorchGeo's own datasets: grey levels 0 … 255 of
    RGB, and physical values of other bands, as the set's GeoTIFF files hold them.

    Attributes:
        classes: names by label, as the bundle counts them. bands: of the images; empty for RGB.
    """

    def __init__(
        self,
        root: str | Path | Set,
        *,
        real: str | Path | None = None,
        part: Part = "test",
        transforms: Transforms | None = None,
    ) -> None:
        """Args:
            root: the folder that `dpd generate` wrote as image files.
            real: a folder of class folders, or a list, whose images stand in the place of the set's: of its classes, in
                its size, and of just its bands.
            part: which images of `real` are read, if it has parts: "val" or "test".
            transforms: is given a sample, and what it returns is given to the training.

        Raises:
            DataError: no images, a class that the set does not have, images of other bands, or other parts than this.
            InputError: dataset.json is damaged.
            MissingExtraError: other bands than RGB, without rasterio.
        """
        made = open_set(root if isinstance(root, Set) else Path(root))
        self.classes, self.bands, self.transforms = made.classes, made.bands or (), transforms
        self._scenes = made.scenes.read_as(made.reading).part("all") if real is None else _like(made, Path(real), part)
        numbers = np.array([self.classes.index(name) for name in self._scenes.classes])
        self._labels = torch.from_numpy(numbers[self._scenes.labels])

    def __len__(self) -> int:
        return len(self._scenes.images)

    def __getitem__(self, index: int) -> Sample:
        pixels = self._scenes.images[index]
        values = physical(pixels, self.bands) if self.bands else pixels.astype(np.float32)
        sample = {"image": torch.from_numpy(values).permute(2, 0, 1).contiguous(), "label": self._labels[index]}
        return sample if self.transforms is None else self.transforms(sample)

    def shares(self, images: torch.Tensor) -> torch.Tensor:
        """Where values [..., N, H, W] as this dataset gives them lie between the limits of their bands: 0 … 1.

        It is what students of `dpd fit` are shown: linear, and in decibels where the bands' limits are.
        """
        if not self.bands:
            return images / 255
        low, high = (torch.tensor([getattr(band, name) for band in self.bands]) for name in ("low", "high"))
        low, span = (limit.to(images)[:, None, None] for limit in (low, high - low))
        decibels = torch.tensor([band.decibels for band in self.bands], device=images.device)[:, None, None]
        values = torch.where(decibels, 10 * images.clamp_min(TINY).log10(), images)
        return ((values - low) / span).clamp(0, 1)

    def plot(self, sample: Sample, show_titles: bool = True, suptitle: str | None = None) -> Figure:
        """Draw a sample as people see it, in false colour where its bands hold no red, green and blue.

        Args:
            sample: as this dataset gives it; a `prediction` in it is named, too.
        """
        return self.draw(sample | {"image": self.shares(sample["image"])}, show_titles, suptitle)

    def draw(self, sample: Sample, show_titles: bool = True, suptitle: str | None = None) -> Figure:
        """Draw as `plot` does, from an image of `shares`."""
        levels = sample["image"].mul(255).round().byte()
        figure = Figure(figsize=(4, 4))
        axes = figure.subplots()
        axes.imshow(picture(levels.permute(1, 2, 0).numpy(), self.bands))
        axes.axis("off")
        if show_titles:
            said = [(word, sample.get(word.lower())) for word in ("Label", "Prediction")]
            axes.set_title(
                "\n".join(f"{word}: {self.classes[int(label)]}" for word, label in said if label is not None)
            )
        if suptitle is not None:
            figure.suptitle(suptitle)
        return figure


def _like(made: Set, place: Path, part: Part) -> SceneSet:
    """Real images of the set's classes, in its size, with its bands between its limits."""
    scenes = open_scenes(place, reading=made.reading)
    if unknown := sorted({*scenes.classes} - {*made.classes}):
        raise DataError(f"{place}: {made.root} has no class {unknown[0]}; name the class folders alike")
    if scenes.parts and part not in scenes.parts:
        raise DataError(f"{place}: has {' and '.join(scenes.parts)}, and no {part}; give the folder that is meant")
    return scenes.part(part if scenes.parts else "all", made.scenes.side)


class DistilledDataModule(NonGeoDataModule):  # type: ignore[misc]
    """A distilled set to train on, and the site's own images to validate and to test on, where there are some.

    What it hands to a trainer has every band between 0 and 1 (`DistilledScenes.shares`).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        val: str | Path | None = None,
        test: str | Path | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        transforms: Transforms | None = None,
    ) -> None:
        """Args:
            root: the folder that `dpd generate` wrote as image files.
            val, test: real images, as `real` of `DistilledScenes`; of a folder with parts, the part of this name.
                Without `val` the set itself validates, as TorchGeo's trainers take their learning rate from that loss.
            transforms: of the set's images alone, and not where they validate.

        Raises:
            DataError, InputError, MissingExtraError: as DistilledScenes; `setup` raises them of `val` and `test`.
        """
        self._set, self._val, self._test = open_set(Path(root)), val, test
        self._made = DistilledScenes(self._set, transforms=transforms)
        self.mean, self.std = torch.zeros(1), torch.ones(1)  # a trainer undoes them before it has a sample drawn
        super().__init__(DistilledScenes, batch_size, num_workers)
        self.aug = self._as_shares  # no mean and deviation give decibels

    def _as_shares(self, batch: Sample) -> Sample:
        return batch | {"image": self._made.shares(batch["image"])}

    def plot(self, *args: Any, **kwargs: Any) -> Figure:
        """Draw a sample of a batch, as a trainer does: `DistilledScenes.draw`."""
        return self._made.draw(*args, **kwargs)

    def setup(self, stage: str) -> None:
        """Read what a stage needs: "fit", "validate" or "test"."""
        if stage == "fit":
            self.train_dataset = self._made
        if stage in ("fit", "validate"):
            self.val_dataset = DistilledScenes(self._set, real=self._val, part="val")
        if stage == "test" and self._test is not None:
            self.test_dataset = DistilledScenes(self._set, real=self._test)
