"""The calls of a bundle's networks: on which provider, for a block of ten images."""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from dpd_runtime.annotations import Array, Float32, Images, Pixels
from dpd_runtime.bundle import Bundle
from dpd_runtime.classes import SceneClass
from dpd_runtime.engines import (
    BF16,
    FLAVOURS,
    FP32,
    LEAST,
    NAMES,
    PRECISIONS,
    Engine,
    FewerRows,
    Provider,
    available_providers,
    run_to,
)
from dpd_runtime.errors import (
    BundleError,
    CheckError,
    DegenerateImageError,
    InputError,
    MissingExtraError,
    ProviderError,
)
from dpd_runtime.installation import install_command
from dpd_runtime.manifest import Manifest
from dpd_runtime.sampler import BLOCK, Sampler
from dpd_runtime.sampling import from_uint8, image_element, to_uint8, turned

# -- The UNet, the VAE decoder and the latent classifier of a bundle: how they are loaded, and how they are called.


UNET, DECODER, LATENT_CLASSIFIER = "unet/model.onnx", "vae_decoder/model.onnx", "latent_classifier/model.onnx"
GRAPHS = (UNET, DECODER, LATENT_CLASSIFIER)


@dataclass(frozen=True)
class Networks:
    """The latent classifier chooses among candidates."""

    unet: Engine
    decoder: Engine
    latent_classifier: Engine

    def call_rows(self) -> dict[str, int]:
        """The rows of a call of each graph whose calls had to be split for want of memory."""
        found = zip(GRAPHS, (self.unet, self.decoder, self.latent_classifier), strict=True)
        return {
            graph: engine.most for graph, engine in found if isinstance(engine, FewerRows) and engine.most is not None
        }


def load_networks(bundle: Bundle, provider: Provider, threads: int, now: Collection[str] = GRAPHS) -> Networks:
    """Load the graphs of `now` that the bundle holds. Each of the others is loaded by its first call, if there is one.

    Raises:
        ProviderError: the provider does not load a graph.
    """
    engines = []
    for graph in GRAPHS:
        load = partial(_network, bundle, graph, provider, threads)
        engines.append(load() if graph in now and graph in bundle.files else _LoadedByCall(load))
    return Networks(*engines)


def _network(bundle: Bundle, graph: str, provider: Provider, threads: int) -> Engine:
    """With two threads on a CPU, each call is split into two halves of one thread each, if the batch is large enough.

    docs/reference/solvers.md has the time that this saves on two cores. It was not measured on more.
    """
    halves = provider.name == "cpu" and threads == 2 and bundle.manifest.sampler.compute_batch >= 2 * LEAST
    return FewerRows(bundle.engine(graph, provider, 1 if halves else threads, halves=halves), graph)


def smallest_graph(bundle: Bundle) -> str:
    """The graph that is run to try a provider: the latent classifier, or a codes-only bundle's decoder."""
    return DECODER if bundle.manifest.codes_only else LATENT_CLASSIFIER


class _LoadedByCall:
    """An engine that is loaded by its first call."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = cache(load)

    def run(self, **inputs: Array) -> Array:
        return self._load().run(**inputs)


def groups(rows: int, batch: int) -> Iterator[tuple[list[int], int]]:
    """Row numbers in groups of exactly `batch`, each with the number of its own rows. The last group is filled up with
    its first row, so that all calls of a network have one size.
    """
    for start in range(0, rows, batch):
        group = list(range(start, min(start + batch, rows)))
        yield group + group[:1] * (batch - len(group)), len(group)


def denoise(unet: Engine, latents: Float32, timestep: int, prompts: Float32) -> Float32:
    """Call the UNet once: latents [n, C, h, w] and prompts [n, L, D] → its output [n, C, h, w].

    Raises:
        BundleError: the output has another shape or type. This holds for every call below, too.
    """
    moment = np.array(timestep, np.int64)
    return run_to(unet, UNET, latents.shape, sample=latents, timestep=moment, encoder_hidden_states=prompts)


def latent_logits(latent_classifier: Engine, latents: Float32, classes: int) -> Float32:
    """Call the latent classifier once: latents [n, C, h, w] → logits [n, classes]."""
    return run_to(latent_classifier, LATENT_CLASSIFIER, (len(latents), classes), latents=latents)


def decode(decoder: Engine, latents: Float32, manifest: Manifest) -> Float32:
    """Call the VAE decoder once: scaled latents [n, C, h, w] → images [n, N, H, W], nominally in [−1, 1]."""
    height, width, channels = manifest.image_shape
    shape = (len(latents), channels, height, width)
    return run_to(decoder, DECODER, shape, latent_sample=latents / np.float32(manifest.scaling_factor))


# -- The choice of the execution provider.


_log = logging.getLogger(__name__)
PROVIDERS = ("auto", "cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx")


def choose_provider(
    requested: str,
    attempt: Callable[[Provider], object],
    device: int | None = None,
    precision: str = FP32,
    *,
    listed: Callable[[], tuple[str, ...]] = available_providers,
) -> Provider:
    """Resolve `--provider`, `--device` and `--precision`.

    Args:
        attempt: uses a provider as far as it must work. It can fail, because a wheel may list a provider without its
            driver and libraries, or because it gives other images than PyTorch.
        device: number of the GPU; None for the first, for openvino for the CPU.
        precision: one of PRECISIONS; bf16 with openvino only.
        listed: the providers that the installed packages bring, `Host.available_providers` of where graphs will run.

    Raises:
        InputError: an unknown provider, a device for the CPU, a negative one, or a precision that it does not have.
        ProviderError: a provider that does not work here.
        CheckError: the requested provider, or for `auto` the CPU, gives other images than PyTorch.
    """
    if requested not in PROVIDERS:
        raise InputError(f"provider {requested!r} is unknown: use one of {', '.join(PROVIDERS)}")
    if device is not None and (device < 0 or requested == "cpu"):
        raise InputError(f"--device {device}: give the number of a GPU, from 0, and no --provider cpu")
    if precision not in PRECISIONS or (precision == BF16 and requested != "openvino"):
        raise InputError(f"--precision {precision}: give {FP32}, or {BF16} with --provider openvino")
    if requested == "auto":
        return _automatic(attempt, device, listed())
    chosen = Provider(requested, "requested", device, precision)
    if requested in ("cpu", "cuda") and requested not in (available := listed()):
        raise ProviderError(
            f"provider {requested}: the installed onnxruntime has {', '.join(available)}; "
            f"run pip uninstall onnxruntime, then {install_command('gpu')}"
        )
    attempt(chosen)
    return chosen


def _automatic(attempt: Callable[[Provider], object], device: int | None, listed: tuple[str, ...]) -> Provider:
    """The first that works: those of TensorRT, CUDA, the CPU. The reason says why the others do not."""
    reasons: list[str] = []
    for name in (*FLAVOURS, "cuda"):
        if name not in listed:
            reasons += ["no GPU provider is installed"] if name == "cuda" and not reasons else []
            continue
        try:
            attempt(Provider(name, "", device))
        except MissingExtraError:  # onnxruntime-gpu lists TensorRT's provider without its libraries
            continue
        except CheckError as error:
            _log.warning("%s; trying the next provider", error)
            reasons.append(str(error))
        except ProviderError as error:
            reasons.append(str(error))
        else:
            return Provider(name, "; ".join([*reasons, f"onnxruntime loaded {NAMES[name]}"]), device)
    if device is not None:
        raise ProviderError(
            f"GPU {device}, as --device says: none can be used here ({'; '.join(reasons)}); leave it out"
        )
    chosen = Provider("cpu", "; ".join(reasons))
    attempt(chosen)
    return chosen


# -- A block is (class, 10 consecutive indices) × candidates and depends on nothing outside itself.


@dataclass(frozen=True)
class Image:
    """A generated image and where it comes from.

    Args:
        pixels: uint8 [H, W, N], N = 3 for RGB.
        prototype: its number within the class; −1 if the class has none.
        candidate: which of the candidates was kept; 0 for a decoded image.
        margin: the latent classifier's margin of that candidate; None for a decoded image, which has no other.
    """

    pixels: Pixels
    class_name: str
    label: int
    index: int
    prototype: int
    prompt: str
    candidate: int
    margin: float | None

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return (
            f"Image({self.class_name!r}, index {self.index}, label {self.label}, {width} × {height} pixels, "
            f"prototype {self.prototype}, prompt {self.prompt!r})"
        )


@dataclass(frozen=True)
class Block:
    """Block `number` of a class: the images 10 · number … 10 · number + 9."""

    scene_class: SceneClass
    number: int

    @property
    def indices(self) -> range:
        return range(self.number * BLOCK, (self.number + 1) * BLOCK)

    def rows(self, candidates: int = 1) -> "list[Row]":
        """A row for each candidate of each image, candidate-major."""
        return [(self, index) for _ in range(candidates) for index in self.indices]

    def degenerate(self, seed: int, index: int, what: str) -> DegenerateImageError:
        """The error for image `index` of this block."""
        return DegenerateImageError(
            f"class {self.scene_class.name}, seed {seed}, index {index}: {what}; "
            "try another --seed, more --steps, or a bundle exported with --precision fp32"
        )


Row = tuple[Block, int]
"""What a row of a network's call belongs to: an image, or one of its candidates, by its block and its index."""


def check_finite(output: Float32, seed: int, rows: Sequence[Row], graph: str) -> Float32:
    """Return the output of one call of `graph` if all of it is finite.

    Args:
        output: a row for each of `rows`, or two halves of such rows (a guided call).

    Raises:
        DegenerateImageError: it is not finite.
    """
    if not np.isfinite(output).all():
        row = int(np.argmin(np.isfinite(output).reshape(len(output), -1).all(axis=1)))
        block, index = rows[row % len(rows)]
        raise block.degenerate(seed, index, f"{graph} gave NaN or infinite numbers")
    return output


# -- From latents to pixels, and the short path of decoded images: blocks of prototypes, given to the VAE decoder.
#
# A decoded image needs neither noise nor the UNet nor the latent classifier: all its candidates would be equal.


def is_decoded(block: Block, sampler: Sampler, latent_shape: tuple[int, ...]) -> bool:
    """Whether the block's images are decoded prototypes. Block means (kind `pooled`) are too small to be decoded."""
    prototypes = block.scene_class.prototypes
    whole = len(prototypes) > 0 and prototypes.shape[1:] == latent_shape
    return whole and sampler.guidance_for(block.number).decodes


def decode_prototypes(blocks: Sequence[Block], bundle: Bundle, decoder: Engine, batch: int, seed: int) -> Images:
    """The pixels of decoded blocks, uint8 [10 · blocks, H, W, N]. Matched codes are turned and mirrored by the seed.

    Raises:
        DegenerateImageError: the decoder gives NaN or infinite numbers.
    """
    rows = [row for block in blocks for row in block.rows()]
    pixels = decode_latents(prototypes_of(rows), rows, bundle, decoder, batch, seed)
    for view, (block, index) in zip(pixels, rows, strict=True):
        if block.scene_class.prototype_kind == "matched":
            view[:] = turned(view, image_element(seed, block.scene_class.name, index))
    return pixels


def prototypes_of(rows: Sequence[Row]) -> Float32:
    """The prototype of each row [rows, …]. Each class uses its own in turn."""
    return np.stack([block.scene_class.prototypes[index % len(block.scene_class.prototypes)] for block, index in rows])


def decode_latents(
    latents: Float32, rows: Sequence[Row], bundle: Bundle, decoder: Engine, batch: int, seed: int
) -> Images:
    """Latents [rows, C, h, w] → uint8 [rows, H, W, N], in calls of `batch` rows.

    Raises:
        DegenerateImageError: the decoder gives NaN or infinite numbers.
    """
    pixels = np.empty((len(latents), *bundle.manifest.image_shape), np.uint8)
    for call, own in groups(len(latents), batch):
        output = decode(decoder, latents[call], bundle.manifest)
        check_finite(output, seed, [rows[place] for place in call], DECODER)
        pixels[call[:own]] = to_uint8(output[:own])
        del output  # before the next one comes
    return pixels


# -- Soft labels: the probabilities that the bundle's classifier (the teacher) gives to generated images.


TEACHER = "classifier/model.onnx"
SOFT_LABELS_NAME = "soft_labels.safetensors"


def symmetries(pixels: Pixels) -> Pixels:
    """The eight symmetries of a square image [H, W, 3] → [8, H, W, 3], or the four of an oblong one.

    An image taken from above can be turned in any way.
    """
    upright = [pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]]
    if pixels.shape[0] == pixels.shape[1]:
        upright += [view.swapaxes(0, 1) for view in upright]
    return np.stack(upright)


def soft_label(logits: Callable[[Float32], Array], pixels: Pixels) -> Float32:
    """Softmax (temperature 1) of `logits`, averaged over the symmetries of an image uint8 [H, W, 3] → float32 [C].

    Each image has a call of its own, so that the result does not depend on the other images.
    """
    averaged: Float32 = softmax(logits(from_uint8(symmetries(pixels)))).mean(axis=0).astype(np.float32)
    return averaged


def softmax(logits: Array) -> NDArray[np.float64]:
    """Probabilities [n, C] of logits [n, C], at temperature 1."""
    scores = logits.astype(np.float64)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def check_teacher(bundle: Bundle, option: str = "--soft-labels") -> None:
    """Check that the bundle holds a teacher, for which `option` asks.

    Raises:
        InputError: it does not.
    """
    if TEACHER not in bundle.files:
        again = "use one exported without --codes-only" if bundle.manifest.codes_only else "export it again"
        raise InputError(f"{option}: the bundle holds no teacher ({TEACHER}); {again}, or leave out {option}")


def teacher_logits(bundle: Bundle, provider: Provider, threads: int) -> Callable[[Float32], Float32]:
    """The bundle's classifier as a function: views float32 [n, 3, H, W] in [-1, 1] → finite logits [n, classes].

    Raises:
        BundleError: it cannot be run, or, at once or later, it gives anything else.
    """
    engine, count = bundle.engine(TEACHER, provider, threads), len(bundle.classes)

    def logits(views: Float32) -> Float32:
        found: Float32 = run_to(engine, TEACHER, (len(views), count), images=views)
        if not np.isfinite(found).all():
            raise BundleError(f"{TEACHER} gave no probabilities for {count} classes; export the bundle again")
        return found

    logits(from_uint8(symmetries(np.zeros(bundle.manifest.image_shape, np.uint8))))  # before anything is written
    return logits


def load_teacher(bundle: Bundle, provider: Provider, threads: int) -> Callable[[Pixels], Float32]:
    """The bundle's classifier as a function of one image. It gives one probability for each class of the bundle.

    Raises:
        InputError: there is none. BundleError: as `teacher_logits`.
    """
    check_teacher(bundle)
    logits = teacher_logits(bundle, provider, threads)
    return lambda pixels: soft_label(logits, pixels)


def pack_labels(labels: list[Float32], classes: tuple[str, ...]) -> bytes:
    """The bytes of soft_labels.safetensors: `soft_labels` float32 [n, C] in the order of metadata.jsonl."""
    return save({"soft_labels": np.stack(labels)}, {"classes": json.dumps(classes, allow_nan=False)})
