"""The extractor `untrained`: a network with random weights. No generator, code or classifier was trained to please it.

Metrics in the features of a trained network reward a set that was made by looking through such networks. Random
features say less about classes, and are as far from all of them (Naeem et al. 2020, 2002.09797, section 3.3).
"""

from functools import partial

import numpy as np
import torch

from dpd_eval.extractors.extractor import Extractor, short_hash
from dpd_eval.extractors.own import in_batches
from dpd_runtime.annotations import Float32, Images
from dpd_train.classifiers.network import ResNet, ResNetConfig
from dpd_train.images import SceneSet
from dpd_train.images.symmetry import ORDER, d4

SEED = 230  # of the weights; used by nothing else
FITTED = 2000  # training images, at most, that means and deviations are taken from
FLOOR = 1e-6  # least deviation that a feature is divided by


def untrained_extractor(train: SceneSet) -> Extractor:
    """A ResNet with random weights. Its batch norms, means and deviations are those of at most FITTED of `train`.

    Features are means and deviations of the maps of all stages but the last, the same for all eight symmetries of an
    image, and standardised.
    """
    rows = np.unique(np.linspace(0, len(train.images) - 1, FITTED).astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = ResNet(ResNetConfig(num_classes=2, in_channels=train.images.shape[-1]))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of all batches alike
    compute = partial(stage_statistics, model)
    in_batches(compute, train.images[rows])  # sets the batch norms
    model.eval()
    features = in_batches(compute, train.images[rows])
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(FLOOR)

    def embed(images: Images) -> Float32:
        standardised: Float32 = ((in_batches(compute, images) - mean) / deviation).numpy()
        return standardised

    widths = model.config.widths
    description = (
        f"untrained: ResNet {'-'.join(map(str, widths))} with random weights, means and deviations of all stages but "
        f"the last [{2 * sum(widths[:-1])}], standardised on {len(rows)} training images, weights {short_hash(model)}"
    )
    return Extractor("untrained", description, None, embed, symmetric=True)


def stage_statistics(model: ResNet, images: torch.Tensor) -> torch.Tensor:
    """Mean and deviation of every channel of all stages but the last, averaged over the symmetries of the square.

    A linear probe finds more in them than in the last stage, which must not change with the colours of the views.

    Args:
        images: [n, C, S, S] in [-1, 1].

    Returns:
        [n, 2 · Σ widths], the last width left out: the means of a stage, then its deviations.
    """
    total = torch.zeros(())
    for element in range(ORDER):
        values = model.stem(d4(images, element).contiguous(memory_format=torch.channels_last))
        statistics = []
        for stage in model.stages[:-1]:
            values = stage(values)
            deviations, means = torch.std_mean(values, dim=(2, 3), correction=0)
            statistics += [means, deviations]
        total = total + torch.cat(statistics, dim=1)
    return total / ORDER
