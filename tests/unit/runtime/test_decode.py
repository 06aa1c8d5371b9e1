"""Decoded images take the short path: the decoder alone, no noise, no candidates; their pixels are its output."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpd_runtime import Bundle, Generation, write_set
from dpd_runtime.engines import Provider
from dpd_runtime.errors import DegenerateImageError
from dpd_runtime.generation import BlockComputer, resolve_sampler
from dpd_runtime.golden import pass_gate
from dpd_runtime.networks import DECODER, GRAPHS, load_networks
from dpd_runtime.sampling import image_element, to_uint8, turned
from tests.drawn import opened
from tests.unit.runtime.test_degenerate import Spoilt

pytest.importorskip("onnxruntime")
CPU = Provider("cpu", "")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that are loaded, in their order, once the golden gate has been passed."""
    for graphs_needed in ((DECODER,), GRAPHS):
        pass_gate(opened(), CPU, graphs_needed, 1)
    graphs: list[str] = []
    engine = Bundle.engine

    def watched(bundle: Bundle, graph: str, provider: Provider, threads: int | None = None, **more: bool) -> object:
        graphs.append(graph)
        return engine(bundle, graph, provider, threads, **more)

    monkeypatch.setattr(Bundle, "engine", watched)
    return graphs


def generation(ipc: int = 10, **settings: object) -> Generation:
    return Generation(opened(), ipc=ipc, seed=3, classes=("Forest",), provider="cpu", threads=1, **settings)  # type: ignore[arg-type]


def test_only_the_decoder_is_loaded_and_no_noise_is_made(loaded: list[str]) -> None:
    decoded = generation(ipc=20)
    computer = decoded.load()
    assert all(computer.noise(block) is None for block in decoded.blocks())
    images = list(decoded)
    assert [image.index for image in images] == list(range(20))
    assert {(image.candidate, image.margin) for image in images} == {(0, None)}
    assert loaded == [DECODER]


def test_an_image_is_its_prototype_decoded_and_turned_by_the_seed() -> None:
    """By hand: one call of ten prototypes."""
    manifest, forest = opened().manifest, next(c for c in opened().classes if c.name == "Forest")
    scaled = forest.prototypes[:10] / np.float32(manifest.scaling_factor)
    pixels = to_uint8(opened().engine(DECODER, CPU, 1).run(latent_sample=scaled))
    for image in generation():
        expected = turned(pixels[image.index], image_element(3, "Forest", image.index))
        np.testing.assert_array_equal(image.pixels, expected)
        assert image.prototype == image.index


def test_a_request_with_sampled_images_loads_all_networks_at_once(loaded: list[str]) -> None:
    first = opened().manifest.sampler.guidance[1].from_block
    generation(ipc=10 * first + 1).load()
    assert tuple(loaded) == GRAPHS
    loaded.clear()
    generation(sampler=resolve_sampler(opened().manifest.sampler, candidates=1)).load()
    assert tuple(loaded) == GRAPHS


def test_a_worker_loads_the_other_networks_with_the_first_block_that_needs_them(loaded: list[str]) -> None:
    """A worker of Ray does not know the request."""
    sampler = opened().manifest.sampler
    settings = replace(sampler, steps=5, candidates=1, guidance=(sampler.guidance[0], sampler.guidance[1]))
    computer = generation(ipc=1, sampler=settings).load()
    decoded, sampled = (generation(ipc=60, sampler=settings).blocks()[number] for number in (0, 5))
    computer.compute(decoded)
    assert loaded == [DECODER]
    images = computer.compute(sampled)
    assert sorted(loaded) == sorted(GRAPHS)
    assert all(image.margin is not None for image in images)


def test_the_metadata_have_candidate_0_and_no_margin(tmp_path: Path) -> None:
    write_set(generation(), tmp_path / "set")
    records = [json.loads(line) for line in (tmp_path / "set/metadata.jsonl").read_text().splitlines()]
    assert [(record["candidate"], record["margin"]) for record in records] == [(0, None)] * 10


def test_a_broken_decoded_block_is_computed_again_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    good, (block,) = load_networks(opened(), CPU, 1), generation().blocks()
    broken = replace(good, decoder=Spoilt(good.decoder, row=4))
    computer = BlockComputer(opened(), opened().manifest.sampler, broken, 3, lambda: good)
    with caplog.at_level(logging.WARNING):
        mended = computer.compute(block)
    for image, expected in zip(mended, generation(), strict=True):
        np.testing.assert_array_equal(image.pixels, expected.pixels)
    (record,) = caplog.records
    assert record.getMessage().startswith("class Forest, seed 3, index 4: vae_decoder/model.onnx gave NaN or infinite")


@pytest.mark.parametrize(
    ("value", "what"), [(math.inf, "vae_decoder/model.onnx gave NaN"), (0.25, "the image is constant")]
)
def test_a_broken_decoded_image_is_named(value: float, what: str) -> None:
    good, (block,) = load_networks(opened(), CPU, 1), generation().blocks()
    broken = replace(good, decoder=Spoilt(good.decoder, row=7, value=value))
    with pytest.raises(DegenerateImageError, match=rf"^class Forest, seed 3, index 7: {what}"):
        BlockComputer(opened(), opened().manifest.sampler, broken, 3).compute(block)
