"""The parts of a bundle as graphs: which sides may vary, and by what they must be divisible."""

import pytest

from dpd_export.graphs import Graph, graphs_of
from dpd_train.bases import load_base
from dpd_train.networks import ResNet, ResNetConfig
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def of_any_size(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    base = load_base(str(tiny_base(tmp_path_factory.mktemp("base"))))
    teacher, judge = (ResNet(ResNetConfig(num_classes=3, in_channels=count)).eval() for count in (3, 4))
    return {graph.part: graph for graph in graphs_of(base, teacher, judge, vae_encoder=True, dynamic_size=True)}


def test_sides_vary_by_what_the_networks_halve(of_any_size: dict[str, Graph]) -> None:
    """The tiny UNet has two levels, so it halves once; its VAE halves twice."""
    unet, decoder, encoder = (of_any_size[part] for part in ("unet", "vae_decoder", "vae_encoder"))
    assert (unet.sides, unet.multiple) == ({"sample": ("latent_height", "latent_width")}, 2)
    assert unet.output_sides == ("latent_height", "latent_width")
    assert decoder.sides == {"latent_sample": ("latent_height", "latent_width")}
    assert decoder.output_sides == ("latent_height * 4", "latent_width * 4")
    assert (encoder.sides, encoder.multiple) == ({"sample": ("height", "width")}, 4)
    assert encoder.output_sides == ("height // 4", "width // 4")


def test_classifiers_and_prompts_keep_their_size(of_any_size: dict[str, Graph]) -> None:
    for part in ("classifier", "latent_classifier", "text_encoder"):
        assert not of_any_size[part].sides, part
