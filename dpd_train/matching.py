"""Optimise latent codes until watchers measure the training images' statistics in their decoded images."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from dpd_runtime.annotations import Progress
from dpd_runtime.sampler import BLOCK, DEFAULT_SAMPLER, sampler_schedule
from dpd_runtime.sampling import image_noise, margins, sample
from dpd_runtime.solvers import SOLVERS
from dpd_train.bases import Base, torch_denoise
from dpd_train.classifiers import ClassifierTraining, Labelled, Plan, load_pool, train_pool
from dpd_train.compute import NEVER, Deadline, TimeUp, autocast, load_state, step_generator, to_device
from dpd_train.config import WATCHER_STEPS
from dpd_train.loop import State, Task, train
from dpd_train.networks import AttentionConfig, Classifier, ResNet, ResNetConfig, Shape, predict
from dpd_train.symmetry import ORDER, d4_each

# -- Starting codes of the matching: sampled images that the latent classifier selects, or noise with the statistics of
# a class. None is a real image.


def gaussian_codes(latents: torch.Tensor, labels: torch.Tensor, classes: int, count: int, seed: int) -> torch.Tensor:
    """Scaled latents [classes, count, C, h, w]: Gaussian fields with the mean and the cross-spectrum of a class.

    For a VAE whose latents the denoiser does not know. Noise without a spectrum would decode to fine grain, and
    independent channels to what no image is: a decoder's channels are correlated.

    Args:
        latents: scaled, of the training images [n, C, h, w]. labels: [n].
    """
    generator, codes = torch.Generator().manual_seed(seed), []
    for label in range(classes):
        own = latents[labels == label]
        mean = own.mean((0, 2, 3), keepdim=True)
        roots = _root(_channels_last(torch.fft.fft2((own - mean).double(), norm="ortho")))
        noise = _channels_last(torch.fft.fft2(torch.randn((count, *own.shape[1:]), generator=generator).double()))
        coloured = torch.einsum("hwij,nhwj->nhwi", roots, noise)
        codes.append(mean + torch.fft.ifft2(coloured, dim=(1, 2)).real.permute(0, 3, 1, 2).to(mean.dtype))
    return torch.stack(codes)


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    return values.permute(0, 2, 3, 1)


def _root(spectra: torch.Tensor) -> torch.Tensor:
    """Square roots [h, w, C, C] of the cross-spectrum of all images' spectra [n, h, w, C] together."""
    covariance = torch.einsum("nhwi,nhwj->hwij", spectra, spectra.conj()) / len(spectra)
    values, vectors = torch.linalg.eigh(covariance)
    root: torch.Tensor = (vectors * values.clamp_min(0).sqrt()[..., None, :].to(vectors.dtype)) @ vectors.mH
    return root


def starting_codes(
    base: Base,
    latent_classifier: ResNet,
    classes: tuple[str, ...],
    prompts: torch.Tensor,
    count: int,
    seed: int,
    progress: Progress = lambda step, steps: None,
) -> torch.Tensor:
    """Scaled latents [classes, count, C, h, w]: for each index the candidate with the highest margin.

    Args:
        prompts: [classes + 1, L, D], the empty prompt last.
    """
    sampler = DEFAULT_SAMPLER
    make_steps, advance = SOLVERS[sampler.solver]
    steps = make_steps(sampler_schedule(base.schedule, sampler), sampler.steps)
    side = int(base.unet.config.sample_size)
    shape = (int(base.unet.config.in_channels), side, side)
    denoise, kind, guidance = torch_denoise(base), base.schedule.prediction_type, sampler.guidance[-1]
    texts, chosen = prompts.numpy(), []
    for label, name in enumerate(classes):
        tasks = [(index, candidate) for candidate in range(sampler.candidates) for index in range(count)]
        noise = np.stack([image_noise(seed, name, *task, shape, 0, sampler.mean_noise_gain)[0] for task in tasks])
        parts = []
        for first in range(0, len(noise), CALL):
            part = noise[first : first + CALL]
            context = np.repeat(texts[label : label + 1], len(part), axis=0)
            parts.append(sample(denoise, part, context, texts[-1], None, steps, advance, kind, guidance))
        latents = np.concatenate(parts)
        scores = margins(predict(latent_classifier, torch.from_numpy(latents)).numpy(), label).reshape(
            sampler.candidates, count
        )
        chosen.append(latents[scores.argmax(axis=0) * count + np.arange(count)])
        progress(label + 1, len(classes))
    return torch.from_numpy(np.stack(chosen))


# -- Statistics of a network's features over a labelled set of images, aggregated over whole classes.


VIEWS = 8000  # least number of views that statistics are measured on; every image gives equally many
VIEWS_PER_CALL = 250
FLOOR = 1e-3  # added to the scale of each feature
LAST_SIDE = 2  # the last map is averaged to this many cells a side, as positions matter little

Features = Callable[[torch.Tensor], torch.Tensor]
"""Images [n, 3, H, W] in [-1, 1] → features [n, f]."""


@dataclass(frozen=True)
class Standard:
    """How a network's features [n, features] become z [n, F]: (feature − mean) / scale, projected, and cut.

    Args:
        mean, scale: [features].
        projection: [features, F]; None keeps all features.
        limit: longer z are cut to this norm; None cuts none.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    projection: torch.Tensor | None = None
    limit: float | None = None

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        z = (features - self.mean) / self.scale
        z = z if self.projection is None else z @ self.projection
        return z if self.limit is None else cut(z, self.limit)


def cut(z: torch.Tensor, limit: float) -> torch.Tensor:
    """[n, F] with norms of at most `limit`; shorter rows are unchanged."""
    factors: torch.Tensor = (limit / z.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
    return z * factors


@dataclass(frozen=True)
class Statistics:
    """Aggregates of a network's features.

    Args:
        standard: how features become z.
        class_means: [classes, F], of z.
        class_deviations: [classes, F].
        second_moment: [F, F], mean of z zᵀ, each class with equal weight.
    """

    standard: Standard
    class_means: torch.Tensor
    class_deviations: torch.Tensor
    second_moment: torch.Tensor


def maps_of(network: Classifier, images: torch.Tensor) -> list[torch.Tensor]:
    """The network's maps, fine to coarse, of images [n, 3, H, W] in [-1, 1], in bfloat16 where the device has it."""
    with autocast(images.device):
        return network.features(images)


def embed(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Features [n, F] from a network's maps, fine to coarse.

    They are the last map in 2 × 2 cells, and mean and standard deviation of each channel of the others except the stem.
    """
    features = [F.adaptive_avg_pool2d(maps[-1].float(), LAST_SIDE).flatten(1)]
    for values in maps[1:-1]:
        variance, mean = torch.var_mean(values.float(), dim=(2, 3))
        features += [mean, (variance + 1e-4).sqrt()]
    return torch.cat(features, dim=1)


def features_of(network: Classifier) -> Features:
    """How a network in evaluation mode turns images into features."""
    return lambda images: embed(maps_of(network, images))


@torch.no_grad()
def measure(
    features: Features,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    seed: int,
    device: torch.device,
    views: int | None = None,
) -> Statistics:
    """Statistics over random views of all images [n, 3, H, W] in [-1, 1] with labels [n].

    Args:
        features: of a network on `device`, where the statistics are returned.
        views: at least so many in all; None for `VIEWS`.
    """
    passes = -(-(VIEWS if views is None else views) // len(images))
    calls = -(-len(images) // VIEWS_PER_CALL)
    found, owners = [], []
    for number in range(passes):
        generator = step_generator(seed, number)
        for call in range(calls):
            part = images[call::calls]  # from all classes, as they share a shift
            view = View(generator, len(part), part.shape[-1], device)
            found.append(features(view(to_device(part, device))))
            owners.append(labels[call::calls])
    values, of_view = torch.cat(found), torch.cat(owners).to(device)
    scale, mean = torch.std_mean(values, dim=0)
    scale = scale + FLOOR
    values = (values - mean) / scale
    of_class = [values[of_view == label] for label in range(classes)]
    moment = torch.zeros(len(mean), len(mean), device=device)
    for z in of_class:  # one after the other, as a wide network's moments of all classes would fill the memory
        moment += z.T @ z / len(z)
    return Statistics(
        standard=Standard(mean, scale),
        class_means=torch.stack([z.mean(0) for z in of_class]),
        class_deviations=torch.stack([z.std(0) for z in of_class]),
        second_moment=moment / classes,
    )


# -- Optimise latent codes until watchers measure the training images' statistics in their decoded images.


CALL = 20  # codes decoded at a time
WATCHERS = 4  # that look at each decoded image: a decode with its gradient costs as much as ten of them
EXTRA = 1  # of them, that are extra ones if there are any
LAST_RATE = 0.02  # share of the first rate
CHECKPOINT_SECONDS = 120.0


See = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""Images [n, 3, H, W] in [-1, 1] → features [n, f], and logits [n, classes] if their cross-entropy counts."""


@dataclass(frozen=True)
class Watcher:
    """What codes are matched in, and its statistics of the training images.

    extra: beside the run's own networks, such as an encoder without labels. part: of each block's steps, the last ones,
        in which it watches. earlier_views: of the images of earlier blocks, which it looks at once each; None looks in
        each step, in the view of that step.
    """

    see: See
    statistics: Statistics
    extra: bool = False
    part: float = 1.0
    earlier_views: int | None = None


def seeing_only(features: Features) -> See:
    """How a network sees that judges no class."""
    return lambda images: (features(images), None)


def seeing(network: Classifier, *, logits: bool) -> See:
    """How a frozen network sees, with its logits if they count."""

    def see(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        maps = maps_of(network, images)
        return embed(maps), network.head(maps[-1].float().mean(dim=(2, 3))) if logits else None

    return see


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the loss's terms.

    Args:
        opinion: of the cross-entropy of watchers whose logits count.
        near_start: of the mean squared distance to the start.
    """

    means: float
    deviations: float
    ridge: float
    opinion: float
    near_start: float


FIRST = Weights(means=1.0, deviations=0.5, ridge=1.0, opinion=0.1, near_start=0.01)
LATER = Weights(means=10.0, deviations=10.0, ridge=1.0, opinion=0.1, near_start=0.01)
"""Ten images are most useful if their classes are clear, fifty if they represent the whole class: with FIRST alone
fifty were four times as far from the class means as fifty random real images, with four fifths of their deviation
(docs/results.md)."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Settings of the matching.

    Args:
        steps: for each block of ten codes per class.
        rate: Adam's first learning rate, for latents with a standard deviation of about 1.
        first, later: weights for the first block and for later ones.
    """

    steps: int
    rate: float = 0.03
    first: Weights = FIRST
    later: Weights = LATER
    seed: int = 0


def match_codes(
    start: torch.Tensor,
    decode: Callable[[torch.Tensor], torch.Tensor],
    watchers: Sequence[Watcher],
    matching: Matching,
    progress: Progress = lambda step, steps: None,
    *,
    state: Path,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    look: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Matched codes [classes, K, C, h, w] from `start`, in blocks of ten codes per class.

    A block is matched together with the earlier ones, which are fixed: each prefix of whole blocks is a matched set.

    Args:
        decode: scaled codes [n, C, h, w] → images [n, 3, H, W] in about [-1, 1], differentiable.
        watchers: on `device`.
        state: file for the unfinished state, read if it exists.
        look: called with the images [classes, k, 3, H, W] of the block that is being matched, whenever the state is
            saved.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    device, total = torch.device(device), -(-start.shape[1] // BLOCK) * matching.steps
    start, codes, begun = start.to(device), start.to(device).clone(), 0
    if state.exists():
        tensors, meta = load_state(state)
        codes, begun = tensors["codes"].to(device), int(meta["step"])
    for first in range(begun - begun % matching.steps, total, matching.steps):
        block = _Block(first // matching.steps, start, codes, decode, watchers, matching, look)
        try:
            train(
                block.task,
                first + matching.steps,
                matching.seed,
                lambda done, steps: progress(done, total),
                first=first,
                state=state,
                resume=begun > first,
                seconds=CHECKPOINT_SECONDS,
                deadline=deadline,
            )
        except TimeUp as stop:
            raise TimeUp(stop.step, total) from stop
        if deadline.passed and first + matching.steps < total:
            raise TimeUp(first + matching.steps, total)
    return codes.cpu()


class _Block:
    """Ten codes of each class that are optimised together, beside earlier ones, which are fixed."""

    def __init__(
        self,
        number: int,
        start: torch.Tensor,
        codes: torch.Tensor,
        decode: Callable[[torch.Tensor], torch.Tensor],
        watchers: Sequence[Watcher],
        matching: Matching,
        look: Callable[[torch.Tensor], None] | None,
    ) -> None:
        """Args:
        codes: of all blocks; those of this one are kept up to date.
        """
        self._columns = slice(number * BLOCK, (number + 1) * BLOCK)
        self._start, self._codes, self._look = start[:, self._columns], codes, look
        self._decode, self._watchers, self._matching, self._device = decode, watchers, matching, codes.device
        self._weights = matching.later if number else matching.first
        self._labels = torch.arange(len(codes), device=codes.device)
        self._joins = [min(round((1 - w.part) * matching.steps), matching.steps - 1) for w in watchers]
        self._phases = [*sorted({0, *self._joins}), matching.steps]
        self._free = codes[:, self._columns].clone().requires_grad_()
        self._optimizer = torch.optim.Adam([self._free], betas=(0.9, 0.95))
        before = codes[:, : self._columns.start]
        with torch.no_grad():
            self._settled = self._images(before) if before.numel() else None
        self._number, self._kept = number, dict[int, list[torch.Tensor]]()

    @property
    def task(self) -> Task:
        return Task(
            trained=[self._free],
            optimizer=self._optimizer,
            rate=self.rate,
            loss=self.loss,
            after=self.after,
            kept=self.kept,
            saved=self.saved,
            clip=None,
        )

    def rate(self, step: int) -> float:
        """The rate of a step. It falls along a cosine, and begins anew where watchers join."""
        within = step % self._matching.steps
        begin, end = next(phase for phase in pairwise(self._phases) if within < phase[1])
        cosine = 0.5 + 0.5 * math.cos(math.pi * (within - begin) / (end - begin))
        return self._matching.rate * (LAST_RATE + (1 - LAST_RATE) * cosine)

    def after(self, done: int) -> None:
        self._codes[:, self._columns] = self._free.detach()

    def kept(self, done: int) -> State:
        return {"codes": self._codes}, {}

    def saved(self, done: int) -> None:
        if self._look is not None:
            with torch.no_grad():
                images = self._images(self._codes[:, self._columns])
            self._look(images.reshape(len(self._codes), -1, *images.shape[1:]).cpu())

    def _images(self, codes: torch.Tensor) -> torch.Tensor:
        """[classes, k, C, h, w] → [classes · k, 3, H, W], class by class."""
        with autocast(self._device):
            parts = [self._decode(part) for part in torch.split(codes.flatten(0, 1), CALL)]
        return torch.cat(parts).float().clamp(-1, 1)

    def loss(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """A number with the gradient of the loss. WATCHERS random watchers add up theirs in the decoded images, so that
        the decoder's backward pass runs once.
        """
        chosen = self._choose(step, generator)
        images = self._images(self._free)
        seen = images.detach().requires_grad_()
        for number in chosen:
            loss = self._seen_by(number, seen, generator) / len(chosen)
            loss.backward()  # type: ignore[no-untyped-call]
        assert seen.grad is not None
        near_start: torch.Tensor = F.mse_loss(self._free, self._start)
        return (images * seen.grad).sum() + self._weights.near_start * near_start

    def _choose(self, step: int, generator: torch.Generator) -> list[int]:
        """Numbers of WATCHERS random watchers of this step. EXTRA of them are extra ones, which are few among all."""
        order = torch.randperm(len(self._watchers), generator=generator).tolist()
        order = [number for number in order if step % self._matching.steps >= self._joins[number]]
        extra = [number for number in order if self._watchers[number].extra][:EXTRA]
        own = [number for number in order if not self._watchers[number].extra]
        return [*extra, *own[: WATCHERS - len(extra)]]

    def _seen_by(self, number: int, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The loss of decoded images [classes · k, 3, H, W] by one watcher, in a random view."""
        watcher, weights = self._watchers[number], self._weights
        settled = 0 if self._settled is None else len(self._settled)
        view = View(generator, len(images) + settled, images.shape[-1], self._device)
        seen, logits = watcher.see(view(images, 0))
        features = self._of_classes(watcher, seen)
        if self._settled is not None:
            if watcher.earlier_views is not None:
                kept = self._kept_views(number, watcher.earlier_views, self._settled)
                earlier = kept[int(torch.randint(len(kept), (1,), generator=generator))]
            else:
                earlier = self._earlier(watcher, view(self._settled, len(images)))
            features = torch.cat([earlier, features], dim=1)
        means, deviations = moment_losses(features, watcher.statistics)
        loss = weights.means * means + weights.deviations * deviations
        loss = loss + weights.ridge * ridge_loss(features, watcher.statistics)
        if logits is not None:
            loss = loss + weights.opinion * F.cross_entropy(logits, self._labels.repeat_interleave(self._free.shape[1]))
        return loss

    def _kept_views(self, number: int, count: int, settled: torch.Tensor) -> list[torch.Tensor]:
        """What watcher `number` sees of the earlier blocks' images in `count` random views, computed once.

        A published network would take about as long for four blocks' images in each step as for the step's own.
        """
        if number not in self._kept:
            generator = step_generator(self._matching.seed, -1 - self._number)
            views = (View(generator, len(settled), settled.shape[-1], self._device)(settled) for _ in range(count))
            self._kept[number] = [self._earlier(self._watchers[number], view) for view in views]
        return self._kept[number]

    @torch.no_grad()
    def _earlier(self, watcher: Watcher, settled: torch.Tensor) -> torch.Tensor:
        """Features [classes, n, F] of the earlier blocks' images."""
        return self._of_classes(watcher, watcher.see(settled)[0])

    def _of_classes(self, watcher: Watcher, seen: torch.Tensor) -> torch.Tensor:
        features = watcher.statistics.standard(seen)
        return features.reshape(len(self._labels), -1, features.shape[1])


# -- Distance of a small set from the training images in one network's features, from their statistics alone.


RIDGE = 0.03  # added to the kernel's diagonal, which is about 1
LEAST_VARIANCE = 1e-6


def moment_losses(features: torch.Tensor, statistics: Statistics) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared differences of class means and of class deviations. features: [classes, k, F], standardised."""
    count = features.shape[1]
    variance = features.var(dim=1, correction=min(1, count - 1))
    deviations = (variance + LEAST_VARIANCE).sqrt()  # the root of zero has no gradient
    means = F.mse_loss(features.mean(dim=1), statistics.class_means)
    return means, F.mse_loss(deviations, statistics.class_deviations)


def ridge_loss(features: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    """Error of a ridge regression on the small set for the classes of the training images; 1 is chance.

    Targets y are one-hot minus 1 / classes. With W = Zᵀ (Z Zᵀ / F + λ)⁻¹ Y / F from the small set, the mean squared
    error over training images, each class with equal weight, is tr(Wᵀ A W) − 2 tr(Wᵀ B) + E‖y‖², where A = E[z zᵀ] and
    B = E[z yᵀ], so that only their second moment and class means are needed. This is the regression of kernel inducing
    points (Nguyen et al. 2021) on network features (Zhou et al. 2022), with the target in closed form.

    Args:
        features: [classes, k, F], standardised.
    """
    classes, count, width = features.shape
    z = features.flatten(0, 1)
    labels = torch.arange(classes, device=z.device).repeat_interleave(count)
    targets = F.one_hot(labels, classes).float() - 1 / classes
    kernel = z @ z.T / width + RIDGE * torch.eye(len(z), device=z.device)
    weights = z.T @ torch.linalg.solve(kernel, targets) / width  # [F, classes]
    together = ((statistics.class_means - statistics.class_means.mean(0)) / classes).T  # B, [F, classes]
    size = 1 - 1 / classes  # E‖y‖²
    error = (weights * (statistics.second_moment @ weights)).sum() - 2 * (weights * together).sum()
    loss: torch.Tensor = 1 + error / size
    return loss


# -- Views of images: a symmetry of the square for each, and a small shift. Codes and training images are seen alike.


SHIFT = 16  # images are moved by up to 1 / SHIFT of their side, as a student sees them


def shifted(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Move images [n, C, H, W] by whole pixels. The borders that are uncovered show the image mirrored."""
    reach, (height, width) = max(abs(down), abs(right)), images.shape[-2:]
    if not reach:
        return images
    wider = F.pad(images, (reach,) * 4, mode="reflect")
    return wider[..., reach - down : reach - down + height, reach - right : reach - right + width]


def random_shifts(generator: torch.Generator, count: int, side: int) -> list[tuple[int, int]]:
    """`count` shifts (down, right) in whole pixels, of up to 1 / SHIFT of the side each way."""
    reach = side // SHIFT
    return [(down, right) for down, right in torch.randint(-reach, reach + 1, (count, 2), generator=generator).tolist()]


class View:
    """Random symmetries for `count` images, one for each, and one random shift for all."""

    def __init__(self, generator: torch.Generator, count: int, side: int, device: torch.device) -> None:
        self._elements = to_device(torch.randint(ORDER, (count,), generator=generator), device)
        [(self._down, self._right)] = random_shifts(generator, 1, side)

    def __call__(self, images: torch.Tensor, first: int = 0) -> torch.Tensor:
        """See images [n, C, S, S], of which the first is number `first` of the view."""
        turned = d4_each(images, self._elements[first : first + len(images)])
        return shifted(turned, self._down, self._right).contiguous(memory_format=torch.channels_last)


# -- Watchers: the networks whose features codes are matched in. Several shapes, briefly to fully trained, not shipped.


log = logging.getLogger(__name__)
FIRST_SEED = 300  # classifiers, perceptual networks and students of run seed 0 use lower seeds
SEEDS = 1000  # watchers and views of each run have this many seeds to themselves
NAME = "watcher"
LENGTHS = (10, 40, 150, WATCHER_STEPS)
"""Steps of training. Early networks have features beyond those that tell classes apart; trained ones lose them."""
ATTENTION_LENGTHS = (40, 150, 600, 2000)


BESIDE_PUBLISHED = (3, 6, 11, 14, 17, 23, 26)
"""Numbers of the watchers that a run trains where published networks watch too: one of each shape, short and long. At
equal time all of them gave no better codes there (recipes/published_networks, pilot f)."""


@dataclass(frozen=True)
class OwnWatcher:
    """A watcher before it is trained.

    Args:
        logits: whether its logits count, as those of the longest training of each shape do.
    """

    shape: Shape[Classifier]
    training: ClassifierTraining
    logits: bool


def residual_shapes(classes: int, bands: int = 3) -> list[ResNetConfig]:
    """Five, each of which is trained once for every one of LENGTHS."""
    return [
        ResNetConfig(num_classes=classes, in_channels=bands, widths=widths, blocks=blocks, stem_stride=2)
        for widths, blocks in (
            ((16, 32, 64, 128), (1, 1, 1, 1)),
            ((32, 64, 128), (1, 1, 1)),
            ((24, 48, 96), (1, 2, 1)),
            ((16, 48, 96, 128), (1, 1, 2, 1)),
            ((48, 96, 96), (1, 1, 1)),
        )
    ]


def attention_shapes(classes: int, bands: int = 3) -> list[AttentionConfig]:
    """Two, each of which is trained once for every one of ATTENTION_LENGTHS. They see what convolutions do not."""
    return [
        AttentionConfig(num_classes=classes, in_channels=bands, width=width, blocks=blocks, heads=heads)
        for width, blocks, heads in ((64, 3, 4), (96, 2, 3))
    ]


def watcher_seed(seed: int, number: int) -> int:
    """The seed of watcher `number` of a run with this seed: no two runs share a watcher."""
    return SEEDS * seed + FIRST_SEED + number


def view_seed(seed: int, number: int) -> int:
    """The seed of the views in which watcher `number` of a run sees the training images: no two runs share them."""
    return SEEDS * seed + number


def own_watchers(classes: int, seed: int, longest: int = WATCHER_STEPS, bands: int = 3) -> list[OwnWatcher]:
    """All watchers of a run with this seed: every shape in every length.

    Args:
        longest: steps in place of WATCHER_STEPS; all others are in proportion.
    """

    def scaled(steps: int) -> int:
        return max(1, round(steps * longest / WATCHER_STEPS))

    planned: list[tuple[Shape[Classifier], ClassifierTraining, bool]] = [
        (shape, ClassifierTraining(steps=scaled(length)), length == LENGTHS[-1])
        for shape in residual_shapes(classes, bands)
        for length in LENGTHS
    ]
    for shape in attention_shapes(classes, bands):
        for length in ATTENTION_LENGTHS:
            steps = scaled(length)
            training = ClassifierTraining(steps=steps, peak_rate=1e-3, warmup=min(100, steps // 4), weight_decay=0.05)
            planned.append((shape, training, length == ATTENTION_LENGTHS[-1]))
    return [
        OwnWatcher(shape, replace(training, seed=watcher_seed(seed, number)), logits)
        for number, (shape, training, logits) in enumerate(planned)
    ]


def train_watchers(
    folder: Path,
    own: Sequence[OwnWatcher],
    data: Labelled,
    validation: Labelled,
    progress: Progress,
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> None:
    """Train these watchers as `train_pool` does.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    plans: list[Plan] = [(watcher.shape, watcher.training) for watcher in own]
    accuracies = train_pool(folder, NAME, plans, data, validation, progress, device=device, deadline=deadline)
    if accuracies:
        log.info(
            "%d watchers are trained: codes are matched in what they see. They name %.0f to %.0f %% of the validation "
            "images right, as some learn for a few steps only, on purpose",
            len(accuracies),
            100 * min(accuracies),
            100 * max(accuracies),
        )


def load_watchers(folder: Path, own: Sequence[OwnWatcher]) -> list[Classifier]:
    """Read what `train_watchers` wrote to `folder`, frozen."""
    return load_pool(folder, NAME, [watcher.shape for watcher in own])
