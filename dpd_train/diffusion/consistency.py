"""Classification consistency: a trained classifier judges the predicted clean latents ẑ0 (arXiv 2601.15829).

L = … + λ · max(0, m_c − margin(f(ẑ0), c)) where ᾱ_t > ½. The margin is the logit of class c minus the best other one,
and m_c the margin that four fifths of the real images of the class reach: an image that is as clear as they are is not
pushed further, towards what only this classifier sees. The paper adds the cross-entropy, without a floor.
"""

import copy

import torch
from diffusers import AutoencoderKL
from torch import nn

from dpd_train.bases.base import DECODED
from dpd_train.classifiers.network import ResNet, predict

CLEAR = 0.5  # ᾱ_t above which ẑ0 is judged; below it is a guess
REACHED_BY = 0.8  # share of the real images that reach the floor
FLOOR_IMAGES = 50  # of a class
NOISIEST = 1.0  # standard deviation of the noise that the classifier is trained with: that of z_t / √ᾱ_t at ᾱ_t = CLEAR


def alphas_of(snr: torch.Tensor) -> torch.Tensor:
    """ᾱ_t from SNR = ᾱ_t / (1 − ᾱ_t)."""
    return snr / (1 + snr)


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logit of the label minus the best other logit, [B]."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - others.max(dim=1).values


class ConsistencyClassifier(nn.Module):
    """A frozen copy of a classifier of latents, with the margin m_c that each class has to reach.

    Args:
        network: scaled latents [B, C, h, w] → logits [B, classes].
        floors: m_c [classes]; see `real_floors`.
    """

    floors: torch.Tensor

    def __init__(self, network: nn.Module, floors: torch.Tensor) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.register_buffer("floors", floors.clone())
        self.eval().requires_grad_(False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(latents)
        return logits


def consistency_loss(
    original: torch.Tensor, snr: torch.Tensor, labels: torch.Tensor, classifier: ConsistencyClassifier
) -> torch.Tensor:
    """max(0, m_c − margin) of each sample [B] with ᾱ_t > CLEAR, 0 for the others; a gradient for `original` only.

    Args:
        original: ẑ0 [B, C, h, w], scaled latents. snr: [B]. labels: [B] int64.

    Raises:
        ValueError: the classifier is in training mode, where batch norm would mix the samples.
    """
    if classifier.training:
        raise ValueError("the classifier is in training mode, where batch norm mixes the samples")
    clear = (alphas_of(snr) > CLEAR).nonzero().flatten()
    if not len(clear):
        return torch.zeros_like(snr)
    short = classifier.floors[labels[clear]] - margins(classifier(original[clear]), labels[clear])
    return torch.zeros_like(snr, dtype=short.dtype).index_put((clear,), short.clamp_min(0))


def real_floors(network: nn.Module, latents: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """The margin [classes] that REACHED_BY of the real latents [n, C, h, w] of each class reach.

    At most FLOOR_IMAGES of a class are judged, its first ones: a classifier on pixels decodes each of them.
    """
    rows = torch.cat([(labels == label).nonzero().flatten()[:FLOOR_IMAGES] for label in range(classes)])
    latents, labels = latents[rows], labels[rows]
    reached = margins(predict(network, latents, DECODED), labels)
    return torch.stack([reached[labels == label].quantile(1 - REACHED_BY) for label in range(classes)])


def with_noise(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latents [B, C, h, w] with noise of a random standard deviation up to NOISIEST for each of them."""
    strength = NOISIEST * torch.rand((len(latents), 1, 1, 1), generator=generator)
    return latents + (strength * torch.randn(latents.shape, generator=generator)).to(latents)


class DecodedTeacher(nn.Module):
    """The teacher on decoded ẑ0: scaled latents [B, C, h, w] → logits. Each call costs a pass of the VAE's decoder.

    Decoded values are not clamped to [-1, 1], because a clamp has no gradient where it acts.
    """

    def __init__(self, teacher: ResNet, vae: AutoencoderKL) -> None:
        super().__init__()
        self.teacher, self.vae = teacher, vae
        self.scale = 1 / float(vae.config.scaling_factor)
        self.eval()

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.teacher(self.vae.decode(self.scale * latents).sample)
        return logits
