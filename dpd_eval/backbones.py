"""Networks of transformers on disk as bodies of students: one layer, or all of them, is fitted."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import nn
from torch.nn import functional as F

from dpd_eval.extractors import stage_statistics
from dpd_eval.hub import build_hub_student, find_folder
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.errors import InputError
from dpd_train.config import HUB
from dpd_train.encoders import Encoder
from dpd_train.model_files import first_sentence
from dpd_train.published import PROCESSOR_NAME, Colours, check_colours, check_rgb, read_colours
from dpd_train.scene_set import to_float

# -- A transformers image classifier with its own weights as the start of a training.


TUNED_SIDE = 96
"""Side of the images with which all layers are tuned: at 224 px a step takes five times as long."""


class Backbone(nn.Module):
    """[B, 3, H, W] in [-1, 1] → logits [B, num_classes]. Images are brought to the size and the colours that the model
    has learned from, inside the network, so that whoever uses it need not know them.
    """

    def __init__(self, model: nn.Module, colours: Colours, name: str = "the network") -> None:
        super().__init__()
        self.model, self.colours, self.name = model, colours, name
        self.last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(self.colours(x))
        return logits

    def reduced(self) -> "Backbone":
        """This network for images of TUNED_SIDE, if it takes them and its own are larger; else as it is."""
        own = self.colours.side
        if own is not None and own > TUNED_SIDE:
            self.colours.side = TUNED_SIDE
            try:
                with torch.no_grad():
                    self.eval()(torch.zeros(2, 3, TUNED_SIDE, TUNED_SIDE))
            except Exception:  # a transformer takes one size alone, and models of the hub fail in many ways
                self.colours.side = own
        return self

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layer sees of images [B, 3, H, W]: [B, D].

        Raises:
            InputError: it sees more than one vector for an image.
        """
        seen: list[torch.Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(x)
        finally:
            handle.remove()
        if seen[0].ndim != 2:
            raise InputError(f"{self.name}: its last layer sees more than one vector for an image; use another model")
        return seen[0]

    def fit_last_layer(self, images: Images, labels: Int64, soft: Float32 | None = None) -> None:
        """Set the last layer to the logistic regression of `labels` [n], or `soft` [n, C], on its standardised inputs.

        Tuning all layers from a random last one would first undo what the others have learned (Kumar et al. 2022,
        2202.10054).
        """
        fit_last_layer(self.last, features_of(self.eval().seen, images), labels, soft)


def open_backbone(source: str, num_classes: int) -> Backbone:
    """Open a model on this machine, by its folder or its id, with a new last layer.

    Raises:
        InputError: as `build_hub_student`, a preprocessor_config.json that is missing or cannot be used, or a model of
            other images than RGB, with more than one head, or that gives numbers that are not finite.
    """
    name = f"{HUB}{source}"
    folder = find_folder(name)
    check_rgb(folder, name)
    backbone = Backbone(build_hub_student(name, num_classes), read_colours(folder, name), name)
    drawn = 2 * torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0)) - 1
    try:
        with torch.no_grad():
            logits = backbone.eval()(drawn)
    except Exception as error:  # models of other things fail in many ways
        raise InputError(
            f"{name}: does not take images ({first_sentence(error)}); use an image classifier, with "
            f"{PROCESSOR_NAME} where it takes images of one size"
        ) from None
    check_colours(folder, name)
    if not logits.isfinite().all():
        raise InputError(f"{name}: gives numbers that are not finite; use another model")
    if _speaks_without(backbone, drawn):
        raise InputError(f"{name}: has a second head beside its last layer, which nothing would fit; use another model")
    return backbone


@torch.no_grad()
def _speaks_without(backbone: Backbone, images: torch.Tensor) -> bool:
    """Whether logits come from anything but the last layer, as from the head of a distilled transformer's teacher."""
    own = [(value, value.clone()) for value in backbone.last.parameters()]
    for value, _ in own:
        value.zero_()
    speaks = bool(backbone(images).any())
    for value, kept in own:
        value.copy_(kept)
    return speaks


# -- The last layer of a network as a logistic regression on what it sees.


BATCH = 32
NEVER = 1e4  # by which the logit of a class without images lies below all others


@torch.no_grad()
def features_of(seen: Callable[[torch.Tensor], torch.Tensor], images: Images) -> Float32:
    """Features [n, D] of images uint8 [n, H, W, 3], a few at a time; `seen` gets them in [-1, 1], channels first."""
    parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    found: Float32 = torch.cat([seen(to_float(torch.from_numpy(np.ascontiguousarray(p)))) for p in parts]).numpy()
    return found


def fit_last_layer(layer: nn.Linear, features: Float32, labels: Int64, soft: Float32 | None = None) -> None:
    """Set `layer` to the logistic regression (L2, C = 1) of the labels on standardised features.

    Args:
        features: [n, D]. labels: [n]; a class that has none is never predicted, and one that has all always is.
        soft: probabilities [n, C] to learn instead.
    """
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
    rows, weights = np.arange(len(labels)), None
    if soft is not None:
        rows, labels = np.nonzero(soft)  # an image counts for a class as much as it is of it
        weights = soft[rows, labels]
    if len(present := np.unique(labels)) == 1:  # no regression tells one class from others
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.fill_(-NEVER)
            layer.bias[present] = 0
        return
    with threadpool_limits(1):  # the order of summation depends on the threads
        fitted = LogisticRegression(max_iter=1000).fit(((features - mean) / std)[rows], labels, sample_weight=weights)
    slopes, bias = fitted.coef_ / std, fitted.intercept_ - (fitted.coef_ / std) @ mean
    if len(slopes) == 1:  # of two classes it gives one vector
        slopes, bias = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(float(bias.min()) - NEVER)
        layer.weight[fitted.classes_] = torch.from_numpy(slopes).to(layer.weight.dtype)
        layer.bias[fitted.classes_] = torch.from_numpy(bias).to(layer.bias.dtype)


# -- A linear probe: one layer behind an encoder that stays as it is, fitted as a logistic regression, by no recipe.


KEPT_BYTES = 256 << 20
"""The most features that are kept, unless the newest alone have more. Without them each probe of an evaluation would
compute those of the test images again."""
_kept: dict[tuple[str, str], Float32] = {}


class Probe(nn.Module):
    """[B, 3, H, W] in [-1, 1] → logits [B, num_classes].

    Args:
        body: images → features [B, width]; it is frozen. identity: of its weights.
    """

    def __init__(self, body: nn.Module, width: int, num_classes: int, identity: str) -> None:
        super().__init__()
        self.body, self.last, self.identity = body.eval().requires_grad_(False), nn.Linear(width, num_classes), identity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.body(x))
        return logits

    def fit(self, images: Images, labels: Int64, soft: Float32 | None) -> None:
        """Fit the last layer to images [n, H, W, 3] with labels [n], or with probabilities `soft` [n, num_classes]."""
        fit_last_layer(self.last, self._features(images), labels, soft)

    @torch.no_grad()
    def predict(self, images: Images) -> Int64:
        """The most likely class [n] of images [n, H, W, 3]."""
        predicted: Int64 = self.last(torch.from_numpy(self._features(images))).argmax(1).numpy()
        return predicted

    def _features(self, images: Images) -> Float32:
        digest = hashlib.sha256(str(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
        key = self.identity, digest.hexdigest()
        found = _kept.pop(key) if key in _kept else features_of(self.body, images)
        _kept[key] = found  # the one that was used last stands last
        while len(_kept) > 1 and sum(features.nbytes for features in _kept.values()) > KEPT_BYTES:
            del _kept[next(iter(_kept))]  # the oldest
        return found


class EncoderBody(nn.Module):
    """What the extractor of an encoder sees; images larger than the encoder's are reduced to its size."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network, self.side = encoder.load(), encoder.side
        self.width = 2 * sum(self.network.config.widths[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] > self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        return stage_statistics(self.network, x)


class HubBody(nn.Module):
    """What the last layer of a transformers classifier sees."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.width = backbone, backbone.last.in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone.seen(x)
