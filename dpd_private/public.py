"""Public images, and watchers that are trained on them: nothing here sees a private image."""

from pathlib import Path

import numpy as np
import torch

from dpd_runtime.annotations import Int64, Progress
from dpd_train.classifiers import ClassifierTraining, Plan, labelled, load_pool, train_pool
from dpd_train.drawn_scenes import CLASSES, numbered_scene
from dpd_train.matching import residual_shapes, watcher_seed
from dpd_train.networks import ResNet
from dpd_train.scene_set import Crops, SceneSet, crop_boxes, multi_scale
from dpd_train.scenes import Scenes

DRAWN = 150  # scenes of each drawn class
STEPS, WATCHERS = 1000, 4
"""Of training, and how many. There are as many watchers as look at a decoded image (`codes.WATCHERS`): with more, each
would have fewer of the D values, and not one would be looked at more often."""
COLOUR_GAIN = 0.15  # each channel's gain varies by up to this, as private images have other colours
EVERY = 10  # each tenth public image decides when training stops
LARGEST = 4  # public images are read at up to so many times the base's side
MOST = 20_000  # images and crops in memory: 1 GB as float32 at 64 pixels
NAME = "public"


def drawn_images(side: int, seed: int, progress: Progress = lambda done, total: None) -> SceneSet:
    """Drawn scenes of `side` pixels, for users who have no public images."""
    images = []
    for label in range(len(CLASSES)):
        images += [numbered_scene(label, index, seed, side) for index in range(DRAWN)]
        progress(label + 1, len(CLASSES))
    labels = np.arange(len(CLASSES)).repeat(DRAWN)
    return SceneSet(classes=CLASSES, images=np.stack(images), labels=labels, hashes=(), rejected=())


def read_public(opened: Scenes, side: int, seed: int) -> SceneSet:
    """Public images at `side` pixels. Larger ones come whole and in crops at several scales, so that networks see more.

    Where that would be more than MOST, random images are left out.

    Raises:
        DataError: as `Scenes.part` does.
    """
    larger = min(opened.side, LARGEST * side)
    if larger <= side:
        return _some(opened.part("all", side, keep=False), MOST, seed)
    of_each = sum(len(boxes) for boxes in crop_boxes(larger, side, "0", seed, Crops()))
    scenes = _some(opened.part("all", larger, keep=False), MOST // of_each, seed)
    return multi_scale(scenes, side, seed, Crops())[0]


def _some(scenes: SceneSet, most: int, seed: int) -> SceneSet:
    if len(scenes.labels) <= most:
        return scenes
    return scenes.only(np.sort(np.random.default_rng(seed).permutation(len(scenes.labels))[:most]))


def public_watchers(
    folder: Path, scenes: SceneSet, seed: int, progress: Progress, *, device: torch.device
) -> list[ResNet]:
    """Networks of different shapes, trained on public images or read from `folder`."""
    shapes = residual_shapes(len(scenes.classes))[:WATCHERS]
    plans: list[Plan] = [
        (shape, ClassifierTraining(steps=STEPS, colour_gain=COLOUR_GAIN, seed=watcher_seed(seed, number)))
        for number, shape in enumerate(shapes)
    ]
    images, labels = labelled(scenes)
    held = torch.from_numpy(_numbers(scenes) % EVERY == 0)
    parts = (images[~held], labels[~held]), (images[held], labels[held])
    train_pool(folder, NAME, plans, *parts, progress, device=device)
    return [network.to(device) for network in load_pool(folder, NAME, shapes)]


def _numbers(scenes: SceneSet) -> Int64:
    """Number of each row's image; the crops of an image share it."""
    if not scenes.paths:
        return np.arange(len(scenes.labels))
    numbers: Int64 = np.unique(scenes.paths, return_inverse=True)[1]
    return numbers
