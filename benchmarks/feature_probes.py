"""What few labels are worth: a linear probe on features, and the same network trained on the labels from scratch.

Both choose their settings by the same folds of the labelled images, and neither sees another image before it is judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from dpd_runtime.annotations import Float32, Int64
from dpd_train.classifiers.network import ResNetConfig, predict
from dpd_train.classifiers.training import ClassifierTraining, Labelled, train_classifier
from dpd_train.pretrain.swimdiff.views import random_views

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C of scikit-learn, the inverse of the regularisation
MOST_FOLDS = 3
SEED = 500  # of networks from scratch; used by no teacher, judge, watcher, extractor or student


@dataclass(frozen=True)
class Scratch:
    """Settings of a training from scratch that folds choose.

    strong_views: see the views that encoders are trained on, not symmetries alone.
    """

    steps: int
    strong_views: bool


def folds(labels: Int64) -> StratifiedKFold | None:
    """The folds of labelled images [n]; None where a class has one image alone, so that nothing can be chosen."""
    count = min(MOST_FOLDS, int(np.bincount(labels).min()))
    return StratifiedKFold(count) if count > 1 else None


def scaled(train: Float32, held: Float32) -> tuple[Float32, Float32]:
    """Centre both [n, D] by the mean of `train`, and divide by the root mean square of what is left of it."""
    mean = train.mean(axis=0)
    scale = float(np.sqrt(np.square(train - mean).mean())) or 1.0
    return (train - mean) / scale, (held - mean) / scale


def probe(features: Float32, labels: Int64, held: Float32, truth: Int64) -> float:
    """Accuracy on `held` [m, D] of a logistic regression on `features` [n, D]; without folds its C is 1."""
    model, parts = LogisticRegression(max_iter=1000), folds(labels)
    if parts is not None:
        model = GridSearchCV(model, {"C": STRENGTHS}, cv=parts)
    return float((model.fit(features, labels).predict(held) == truth).mean())


def scratch(known: Labelled, asked: Labelled, shape: ResNetConfig, setting: Scratch, seed: int) -> float:
    """Accuracy on `asked` of a network after a training on `known`. After the last step: it chooses nothing."""
    training = ClassifierTraining(steps=setting.steps, validate_every=setting.steps, seed=SEED + seed)
    views = random_views if setting.strong_views else None
    wide = replace(shape, num_classes=int(known[1].max()) + 1, dropout=0.1)
    some = known[0][:1], known[1][:1]
    with torch.random.fork_rng(devices=[]):  # the training seeds the global generator
        trained = train_classifier(*known, some, wide, training, noise=views)
    return float((predict(trained.model, asked[0]).argmax(1) == asked[1]).float().mean())


def choose_scratch(known: Labelled, shape: ResNetConfig, settings: Sequence[Scratch], seed: int) -> Scratch:
    """The setting with the highest mean accuracy over the folds of `known`; the first of equals, and without folds."""
    parts = folds(known[1].numpy())
    if parts is None or len(settings) == 1:
        return settings[0]
    splits = [
        tuple((known[0][rows], known[1][rows]) for rows in map(torch.from_numpy, split))
        for split in parts.split(np.zeros(len(known[1])), known[1].numpy())
    ]
    means = [np.mean([scratch(fit, asked, shape, setting, seed) for fit, asked in splits]) for setting in settings]
    return settings[int(np.argmax(means))]
