"""Public images, and watchers that are trained on them: nothing here sees a private image."""

from pathlib import Path

import numpy as np
import torch

from dpd_runtime.annotations import Progress
from dpd_train.classifiers.network import Classifier
from dpd_train.classifiers.pool import Plan, load_pool, train_pool
from dpd_train.classifiers.training import ClassifierTraining, labelled
from dpd_train.drawn_scenes import CLASSES, numbered_scene
from dpd_train.images import SceneSet
from dpd_train.prototypes.matching.watchers import LENGTHS as STEPS_OF_ALL
from dpd_train.prototypes.matching.watchers import watcher_seed, watcher_shapes

DRAWN = 150  # scenes of each drawn class
LENGTHS = (150, 300, 600, 600)
"""Steps of training, one for each watcher. There are as many watchers as look at a decoded image (`codes.WATCHERS`):
with more, each would have fewer of the D values, and not one would be looked at more often."""
EVERY = 10  # each tenth public image decides when training stops
NAME = "public"


def drawn_images(side: int, seed: int, progress: Progress = lambda done, total: None) -> SceneSet:
    """Drawn scenes of `side` pixels, for users who have no public images."""
    images = []
    for label in range(len(CLASSES)):
        images += [numbered_scene(label, index, seed, side) for index in range(DRAWN)]
        progress(label + 1, len(CLASSES))
    labels = np.arange(len(CLASSES)).repeat(DRAWN)
    return SceneSet(classes=CLASSES, images=np.stack(images), labels=labels, hashes=(), rejected=())


def public_watchers(
    folder: Path, scenes: SceneSet, seed: int, progress: Progress, *, device: torch.device
) -> list[Classifier]:
    """Networks of different shapes and lengths of training, trained on public images or read from `folder`."""
    shapes = watcher_shapes(len(scenes.classes))[:: len(STEPS_OF_ALL)]
    plans: list[Plan] = [
        (shape, ClassifierTraining(steps=steps, seed=watcher_seed(seed, number)))
        for number, (shape, steps) in enumerate(zip(shapes, LENGTHS, strict=False))
    ]
    images, labels = labelled(scenes)
    held = torch.arange(len(labels)) % EVERY == 0
    parts = (images[~held], labels[~held]), (images[held], labels[held])
    train_pool(folder, NAME, plans, *parts, progress, device=device)
    return [network.to(device) for network in load_pool(folder, NAME, [shape for shape, _ in plans])]
