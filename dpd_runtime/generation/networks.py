"""The UNet, the VAE decoder and the latent classifier of a bundle: how they are loaded, and how they are called."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from dpd_runtime.annotations import Array, Float32
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.engines.engine import Engine, Provider, run_to
from dpd_runtime.engines.split_calls import LEAST, FewerRows

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
