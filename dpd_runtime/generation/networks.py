"""The three networks of a block, loaded."""

from dataclasses import dataclass

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Engine, Provider
from dpd_runtime.engines.split_calls import LEAST, FewerRows, TwoCalls

UNET, DECODER, JUDGE = "unet/model.onnx", "vae_decoder/model.onnx", "latent_classifier/model.onnx"


@dataclass(frozen=True)
class Networks:
    unet: Engine
    decoder: Engine
    judge: Engine


def load_networks(bundle: Bundle, provider: Provider, threads: int) -> Networks:
    """Raises:
    ProviderError: the provider does not load a graph.
    """
    return Networks(*(_network(bundle, graph, provider, threads) for graph in (UNET, DECODER, JUDGE)))


def _network(bundle: Bundle, graph: str, provider: Provider, threads: int) -> Engine:
    """With two threads on a CPU, two calls of one thread each; a batch that cannot be halved takes both in one call.

    docs/generate.md has what that saves on two cores. More were not at hand to measure.
    """
    halves = provider.name == "cpu" and threads == 2 and bundle.manifest.sampler.compute_batch >= 2 * LEAST
    engine = bundle.engine(graph, provider, 1 if halves else threads)
    return FewerRows(TwoCalls(engine) if halves else engine, graph)
