"""A distilled set for TorchGeo: a dataset of any bands, and a data module for its trainers.

Examples:
    >>> from dpd_eval.torchgeo import DistilledDataModule
    >>> data = DistilledDataModule("set", test="scenes/test", batch_size=32)
    >>> Trainer(max_epochs=50).fit(ClassificationTask(model="resnet18", in_channels=3, num_classes=10), data)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dpd_eval.sets import Set, open_set
from dpd_runtime.bands import physical, picture
from dpd_runtime.errors import DataError, MissingExtraError
from dpd_train.scene_set import SceneSet
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


class DistilledScenes(NonGeoDataset):  # type: ignore[misc]
    """Images of a distilled set, or real ones read as that set was made.

    A sample is {"image": float32 [N, H, W], "label": int64 []}, as of TorchGeo's own datasets: grey levels 0 … 255 of
    RGB, and physical values of other bands, as the set's GeoTIFF files hold them.

    Attributes:
        classes: names by label, as the bundle counts them. bands: of the images; empty for RGB.
    """

    def __init__(
        self, root: str | Path | Set, *, real: str | Path | None = None, transforms: Transforms | None = None
    ) -> None:
        """Args:
            root: the folder that `dpd generate` wrote as image files.
            real: a folder of class folders, or a list, whose images stand in the place of the set's: of its classes, in
                its size, and of just its bands. Of a folder with parts, test/ is read.
            transforms: is given a sample, and what it returns is given to the training.

        Raises:
            DataError: no images, a class that the set does not have, or images of other bands.
            InputError: dataset.json is damaged.
            MissingExtraError: other bands than RGB, without rasterio.
        """
        made = open_set(root if isinstance(root, Set) else Path(root))
        self.classes, self.bands, self.transforms = made.classes, made.bands or (), transforms
        self._scenes = made.scenes.read_as(made.reading).part("all") if real is None else _like(made, Path(real))
        numbers = np.array([self.classes.index(name) for name in self._scenes.classes])
        self._labels = torch.from_numpy(numbers[self._scenes.labels])

    def __len__(self) -> int:
        return len(self._scenes.images)

    def __getitem__(self, index: int) -> Sample:
        pixels = self._scenes.images[index]
        values = physical(pixels, self.bands) if self.bands else pixels.astype(np.float32)
        sample = {"image": torch.from_numpy(values).permute(2, 0, 1).contiguous(), "label": self._labels[index]}
        return sample if self.transforms is None else self.transforms(sample)

    @property
    def limits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the greatest value that an image of the set can have, float32 [N] each."""
        if not self.bands:
            return torch.zeros(3), torch.full((3,), 255.0)
        low, high = physical(np.array([[0], [255]], np.uint8).repeat(len(self.bands), axis=1), self.bands)
        return torch.from_numpy(low), torch.from_numpy(high)

    def plot(self, sample: Sample, show_titles: bool = True, suptitle: str | None = None) -> Figure:
        """Draw a sample as people see it, in false colour where its bands hold no red, green and blue.

        Args:
            sample: as this dataset gives it, before it is normalised; a `prediction` in it is named, too.
        """
        low, high = (limit[:, None, None] for limit in self.limits)
        levels = ((sample["image"] - low) / (high - low)).clamp(0, 1).mul(255).round().byte()
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


def _like(made: Set, place: Path) -> SceneSet:
    """Real images of the set's classes, in its size, with its bands between its limits."""
    scenes = open_scenes(place, reading=made.reading)
    if unknown := sorted({*scenes.classes} - {*made.classes}):
        raise DataError(f"{place}: {made.root} has no class {unknown[0]}; name the class folders alike")
    return scenes.part("test" if "test" in scenes.parts else "all", made.scenes.side)


class DistilledDataModule(NonGeoDataModule):  # type: ignore[misc]
    """A distilled set to train on, and the site's own images to validate and to test on, where there are some.

    What it hands to a trainer has every band between 0 and 1, by the set's limits.
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
            val, test: real images, as `real` of `DistilledScenes`.
            transforms: of the set's images alone.

        Raises:
            DataError, InputError, MissingExtraError: as DistilledScenes; `setup` raises them of `val` and `test`.
        """
        self._set, self._val, self._test = open_set(Path(root)), val, test
        self._made = DistilledScenes(self._set, transforms=transforms)
        self.mean, high = self._made.limits
        self.std = high - self.mean
        super().__init__(DistilledScenes, batch_size, num_workers)

    def setup(self, stage: str) -> None:
        """Read what a stage needs: "fit", "validate" or "test"."""
        if stage == "fit":
            self.train_dataset = self._made
        if stage in ("fit", "validate") and self._val is not None:
            self.val_dataset = DistilledScenes(self._set, real=self._val)
        if stage == "test" and self._test is not None:
            self.test_dataset = DistilledScenes(self._set, real=self._test)

    def val_dataloader(self) -> Any:
        """Batches of the validation images; none, which a trainer takes well, where there are none."""
        return [] if self._val is None else super().val_dataloader()
