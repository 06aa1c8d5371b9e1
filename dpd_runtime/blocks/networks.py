"""The three networks of a block, loaded."""

from dataclasses import dataclass

from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import Engine, Provider
from dpd_runtime.engines.fewer_rows import FewerRows

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
    return Networks(*(FewerRows(bundle.engine(graph, provider, threads), graph) for graph in (UNET, DECODER, JUDGE)))
